"""Training where it is not alone: in a thread of a program with a window or a server, and again in the same process."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from learned import assert_same_weights, learned

from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.training.trainer import train


def request(out: Path) -> TrainConfig:
    data = out.parent / "pictures.npy"
    np.save(data, np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8))
    return TrainConfig(
        model=ModelConfig(arch="dcgan16", width=4, latent_dim=6),
        data=DataConfig(data=str(data), batch_size=4),
        execution=ExecutionConfig(device="cpu", plan="default", precision="fp32", threads=1),
        run=RunConfig(out=out, images=12, quiet=True, track="none"),
    )


def test_a_thread_trains_as_the_main_thread_does_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    def around() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return handlers, os.getcwd(), torch.initial_seed(), torch.is_grad_enabled()  # noqa: PTH109

    before = around()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, request(tmp_path / "thread")).result()
    train(request(tmp_path / "main"))
    assert around() == before
    assert_same_weights(learned(tmp_path / "thread", 3), learned(tmp_path / "main", 3))
