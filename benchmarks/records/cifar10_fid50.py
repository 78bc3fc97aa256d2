"""CIFAR-10 at 32x32 to FID 50.

Claim: none yet, and nothing of it was run: it needs a GPU, CIFAR-10's files (170 MB) and Inception's weights (92 MB),
which are downloaded, or named. Published for a DCGAN: FID 49 after 42,000 steps of 64, in half an hour of training
(StudioGAN's log; 137 at 200,000 steps: training on made it worse). That is what the reference does here, and the record
at first, too: the same steps, by our step and with G's average.

    python -m benchmarks.records.cifar10_fid50
    python -m benchmarks.records.cifar10_fid50 --data FOLDER --inception-weights FILE
"""

from benchmarks.records.cifar10 import cifar10
from benchmarks.records.command import run
from benchmarks.records.track import Record

TRACK = cifar10(50.0, Record(name="reference", batch_size=64, steps=42_000))

RECORD = Record(name="dcgan", batch_size=64, steps=42_000)

if __name__ == "__main__":
    run(__file__, TRACK, RECORD)
