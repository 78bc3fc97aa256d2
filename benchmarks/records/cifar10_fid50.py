"""CIFAR-10 at 32x32 to FID 50, on a GPU. Not run: it needs a GPU, CIFAR-10's files, and Inception's weights.

Published for a DCGAN: FID 49 after 42,000 steps of 64, in half an hour of training (StudioGAN's log; 137 at 200,000
steps: training on made it worse). FID 37 (published with two time scales) and 25 (five updates of D for one of G, a
batch of 512) are further tracks: `threshold=37.0` and `25.0`.

    python -m benchmarks.records.cifar10_fid50 cifar10_fid50.jsonl
"""

from benchmarks.experiments.trials import Trial
from benchmarks.records.command import run
from benchmarks.records.track import Record, Track
from fastdcgan.config import RecipeConfig

CIFAR10_FID50 = Track(
    name="CIFAR-10 to FID 50",
    data="cifar10",
    arch="dcgan32",
    width=64,
    extractor="inception",
    metric="frechet",
    judged=50_000,
    reference=Trial(name="reference", batch_size=64, measured_at=(64 * 42_000,), width=64),
    threshold=50.0,
)

RECORD = Record(name="dcgan", recipe=RecipeConfig(), batch_size=64, steps=42_000)

if __name__ == "__main__":
    run(CIFAR10_FID50, RECORD)
