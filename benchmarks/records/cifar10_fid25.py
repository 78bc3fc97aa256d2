"""CIFAR-10 at 32x32 to FID 25, by wide networks, large batches and five updates of D.

Claim: none yet, and nothing of it was run; it needs what `cifar10_fid50.py` needs. The recipe is that of a published
log (xyfJASON/GANs-Implementations, `gan_cifar10`): four times the width, batches of 512, five updates of D for one of
G, 8e-4 for both, 40,000 steps. That is 102 million pictures a training, so hours on one GPU.

    python -m benchmarks.records.cifar10_fid25
"""

from benchmarks.records.cifar10 import cifar10
from benchmarks.records.command import run
from benchmarks.records.track import Record
from fastdcgan.config import RecipeConfig

FIVE_UPDATES = RecipeConfig(lr=8e-4, d_steps=5)

TRACK = cifar10(25.0, Record(name="reference", recipe=FIVE_UPDATES, batch_size=512, steps=40_000), width=256)

RECORD = Record(name="five updates of D", recipe=FIVE_UPDATES, batch_size=512, steps=40_000)

if __name__ == "__main__":
    run(__file__, TRACK, RECORD)
