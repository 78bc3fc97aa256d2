"""Faces at 32x32: the reference's own kernel distance at its 2,000th step of 16, in a ninth of its seconds.

Claim: 750 steps of 8 by our step, each fake picture judged beside a real one (`--objective rpgan`), with rates of 2e-3
for G and 1.2e-3 for D, betas 0.3 and 0.99, and an average of G whose half-life is a tenth of the steps so far. Over
seven seeds, on two Zen 4 cores of an AMD EPYC, the mean is 0.411 (standard deviation 0.010) after 12.9 s of training,
that of the reference 0.450 (0.016) after 114.5 s: p = 0.00014. It was chosen by one to three trainings of each of
fifteen settings with other seeds than these (100 to 102).

    python -m benchmarks.records.faces32_rpgan
"""

from benchmarks.records.command import run
from benchmarks.records.faces32_fast import TRACK
from benchmarks.records.track import Record
from fastdcgan.config import RecipeConfig

RECIPE = RecipeConfig(objective="rpgan", lr=1.2e-3, lr_g=2e-3, beta1=0.3, beta2=0.99, ema_ramp=0.1)

RECORD = Record(name="rpgan", recipe=RECIPE, batch_size=8, steps=750)

if __name__ == "__main__":
    run(__file__, TRACK, RECORD)
