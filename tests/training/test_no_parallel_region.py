"""What the loop does beside the step starts no threads: where cores are busy, each would be waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# PyTorch starts its threads at the first parallel region and keeps them, so a new process shows whether there was one.
THREADS = """
import os
import torch

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
before = threads()
"""

CONTROL = """
torch.ones(1 << 22).add_(1)
assert threads() > before, "a parallel region went unseen"
"""

NOISE = """
from types import SimpleNamespace as Fields
from fastdcgan.config import DataConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.training.trainer import noise

for batch, ranks, parts in ((128, 1, 1), (1024, 1, 1), (1024, 2, 1), (1024, 2, 4)):
    config = TrainConfig(
        data=DataConfig(batch_size=batch), run=RunConfig(seed=3), recipe=RecipeConfig(accumulate=parts)
    )
    shares = []
    for rank in range(ranks):
        accelerator = Fields(process_index=rank, num_processes=ranks, device=torch.device("cpu"))
        start, arch = Fields(rollbacks=0), Fields(latent_dim=100)
        run = Fields(config=config, accelerator=accelerator, start=start, arch=arch, noise=Stream.NOISE_BY_TABLE)
        shares.append(noise(run, 1).reshape(parts, -1, 100).numpy())
    assert threads() == before, (batch, ranks, parts)
    whole = latents(3, Stream.NOISE_BY_TABLE, 1, batch, 100).numpy().reshape(parts, -1, 100)
    each = batch // parts // ranks
    for rank, share in enumerate(shares):
        assert (share == whole[:, rank * each : (rank + 1) * each]).all(), (batch, ranks, parts)
"""

PICTURES = """
import numpy as np
from fastdcgan.data.array import ArraySource
from fastdcgan.data.stream import Batching, real_batches

for shape in ((128, 64, 64, 3), (128, 28, 28, 1)):
    pictures_NHWC = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    source = ArraySource(pictures_NHWC, description="", origin="", fingerprint="")
    batches = real_batches(source, Batching(seed=3, global_batch=128, flip=True), torch.device("cpu"))
    for _ in range(3):
        next(batches)
    assert threads() == before, shape
"""

TELEMETRY = """
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.average import MovingAverage
from fastdcgan.gan.step import StepMetrics
from fastdcgan.telemetry.metrics import MetricsBuffer

for name in ("dcgan28", "dcgan64"):
    torch.set_num_threads(1)  # before the loop, networks may be built with threads
    networks = models.build(architecture(name), seed=0)
    average = MovingAverage(networks[0], 0.999)
    torch.set_num_threads(2)
    average.update(1)
    assert threads() == before, name
metrics = MetricsBuffer(10, torch.device("cpu"))
metrics.add(StepMetrics(*torch.zeros(4)))
metrics.take()
assert threads() == before
"""


def run_counting_threads(code: str) -> None:
    """Run code in a new process of two threads; it may compare `threads()` with `before`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", THREADS + code + CONTROL]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc"),
]


def test_noise_opens_no_parallel_region_and_each_rank_has_its_share() -> None:
    run_counting_threads(NOISE)


def test_mirrored_pictures_open_no_parallel_region() -> None:
    run_counting_threads(PICTURES)


def test_the_average_of_g_and_the_figures_open_no_parallel_region() -> None:
    run_counting_threads(TELEMETRY)
