"""CIFAR-10 at 32x32 to FID 37, by two time scales.

Claim: none yet, and nothing of it was run; it needs what `cifar10_fid50.py` needs. Heusel et al. 2017 (table 1) report
about 37 for a DCGAN whose G learns at 5e-4 and D at 1e-4, after 75,000 steps of 64; rates and steps are quoted from
memory, and their networks and FID's code are others. Whether these networks come to 37 is not known.

    python -m benchmarks.records.cifar10_fid37
"""

from benchmarks.records.cifar10 import cifar10
from benchmarks.records.command import run
from benchmarks.records.track import Record
from fastdcgan.config import RecipeConfig

TWO_RATES = RecipeConfig(lr_g=5e-4, lr_d=1e-4)

TRACK = cifar10(37.0, Record(name="reference", recipe=TWO_RATES, batch_size=64, steps=75_000))

RECORD = Record(name="two time scales", recipe=TWO_RATES, batch_size=64, steps=75_000)

if __name__ == "__main__":
    run(__file__, TRACK, RECORD)
