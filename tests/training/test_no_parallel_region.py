"""What the loop does beside the step starts no threads: where cores are busy, each would be waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# PyTorch starts its threads at the first parallel region and keeps them, so a new process shows whether there was one.
COUNT_THREADS = """
import os
from types import SimpleNamespace as Fields
import torch
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.training.trainer import noise

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
before = threads()
for batch, ranks, parts in ((128, 1, 1), (1024, 1, 1), (1024, 2, 1), (1024, 2, 4)):
    config = Fields(data=Fields(batch_size=batch), run=Fields(seed=3), recipe=Fields(accumulate=parts))
    shares = []
    for rank in range(ranks):
        accelerator = Fields(process_index=rank, num_processes=ranks, device=torch.device("cpu"))
        run = Fields(config=config, accelerator=accelerator, start=Fields(rollbacks=0), arch=Fields(latent_dim=100))
        shares.append(noise(run, 1).reshape(parts, -1, 100).numpy())
    assert threads() == before, (batch, ranks, parts)
    whole = latents(3, Stream.NOISE, 1, batch, 100).numpy().reshape(parts, -1, 100)
    each = batch // parts // ranks
    for rank, share in enumerate(shares):
        assert (share == whole[:, rank * each : (rank + 1) * each]).all(), (batch, ranks, parts)
torch.ones(1 << 22).add_(1)
assert threads() > before, "a parallel region went unseen"
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_noise_opens_no_parallel_region_and_each_rank_has_its_share() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", COUNT_THREADS]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
