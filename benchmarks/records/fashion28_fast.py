"""Fashion-MNIST at 28x28: the reference's own kernel distance after five epochs in batches of 128, in fewer seconds.

Claim: none yet, and nothing of it was run: it needs Fashion-MNIST's files, which are downloaded (31 MB) where there is
a network, or named. What it would be is three quarters of the steps at twice the rate, as for faces, by our step and
with G's average. Less than an hour on two cores, as predicted from dcgan28's speed in README.

    python -m benchmarks.records.fashion28_fast
    python -m benchmarks.records.fashion28_fast --data FOLDER    # with train-images-idx3-ubyte.gz in it
"""

from benchmarks.records.command import run
from benchmarks.records.track import Record, Track
from fastdcgan.config import RecipeConfig

TRACK = Track(
    name="Fashion-MNIST at 28x28",
    data="fashion-mnist",
    count=60_000,
    arch="dcgan28",
    width=32,
    extractor="efficientnet-lite0",
    metric="kernel",
    judged=2000,
    reference=Record(name="reference", batch_size=128, steps=5 * 60_000 // 128),
)

RECORD = Record(name="fast", recipe=RecipeConfig(lr=4e-4), batch_size=128, steps=1757)

if __name__ == "__main__":
    run(__file__, TRACK, RECORD)
