"""Faces at 32x32: the reference's own kernel distance at its 2,000th step of 16, in fewer seconds.

Claim: 1,600 steps of 16 instead of 2,000, by our step, with lr 1.2e-3, beta2 0.99 and G's average. Over seven seeds, on
two cores of an Intel Xeon with AMX, the mean is 0.401 (standard deviation 0.007) after 24 s of training, that of the
reference 0.442 (0.018) after 94 s: p = 0.0003. 1,200 steps had been tried before, over five seeds: 0.418 against 0.444,
p = 0.03. Rate and beta2 were chosen by one training of each of sixteen settings with another seed than these.

    python -m benchmarks.records.faces32_fast
"""

from benchmarks.records.command import run
from benchmarks.records.track import Record, Track
from fastdcgan.config import RecipeConfig

TRACK = Track(
    name="faces at 32x32",
    data="faces",
    count=8_000,
    arch="dcgan32",
    width=64,
    extractor="efficientnet-lite0",
    metric="kernel",
    judged=1000,
    reference=Record(name="reference", batch_size=16, steps=2000),
)

RECORD = Record(name="fast", recipe=RecipeConfig(lr=1.2e-3, beta2=0.99), batch_size=16, steps=1600)

if __name__ == "__main__":
    run(__file__, TRACK, RECORD)
