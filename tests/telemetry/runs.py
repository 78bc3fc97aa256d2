"""Folders as runs leave them, made without training."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import from_numpy

from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.gan.architecture import architecture
from fastdcgan.runs.folder import RunFolder, create, write_config
from fastdcgan.runs.sampling import save_grid

RESOLUTION = 16


def record(step: int, **changes: float) -> dict[str, float]:
    """A line of a healthy run."""
    return {
        "step": step,
        "images": step * 16,
        "epoch": step / 100,
        "seconds": step / 10,
        "loss_d": 1.0,
        "loss_g": 1.5,
        "d_real": 0.6,
        "d_fake": 0.4,
        "images_per_sec": 160.0,
        "data_wait_fraction": 0.01,
        **changes,
    }


def write_metrics(folder: RunFolder, records: list[dict[str, float]]) -> None:
    folder.metrics.write_text("".join(json.dumps(one) + "\n" for one in records))


def write_samples(folder: RunFolder, step: int, spread: float, count: int = 64) -> None:
    """A grid of flat pictures, one colour each, so far from grey at most, of 1: the real ones where the step is -1."""
    colours = np.random.default_rng(abs(step)).uniform(-spread, spread, (count, 3, 1, 1)).astype(np.float32)
    path = folder.real if step < 0 else folder.samples / f"step-{step:08d}.png"
    save_grid(from_numpy(np.broadcast_to(colours, (count, 3, RESOLUTION, RESOLUTION)).copy()), path)


def finished_run(path: Path, **conditions: Any) -> RunFolder:
    """A healthy run of 100 steps that has ended."""
    folder = RunFolder(path)
    create(folder)
    config = TrainConfig(
        model=ModelConfig(arch="dcgan16", width=4),
        data=DataConfig(batch_size=16),
        execution=ExecutionConfig(precision="fp32"),
        run=RunConfig(images=1600, out=path),
    )
    known = {"device": "cpu", "processes": 1, "threads": 1, "skipped": 0, "steps": 100, **conditions}
    before, sys.argv = sys.argv, ["fastdcgan", "train", "--images", "1600"]
    try:
        write_config(folder, config.resolved(), architecture("dcgan16", width=4), known)
    finally:
        sys.argv = before
    write_metrics(folder, [record(step) for step in range(10, 101, 10)])
    for step, spread in ((0, 0.01), (50, 0.5), (100, 0.8)):
        write_samples(folder, step, spread)
    write_samples(folder, -1, 1.0)
    folder.skipped.touch()
    machine = {"name": "this CPU", "flops": {"fp32": 1e11}, "bytes": 1e10}
    folder.end.write_text(json.dumps({"failed": "", "machine": machine}))
    return folder


def picture_sizes(path: Path) -> tuple[int, tuple[int, int]]:
    """Frames and size of an animation."""
    with Image.open(path) as animation:
        return getattr(animation, "n_frames", 1), animation.size
