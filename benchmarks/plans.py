"""Which plans are timed: the one a user gets, and each technique added in turn."""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch

from fastdcgan.config import ExecutionConfig, PrecisionRequest
from fastdcgan.execution.plan import KernelName, Plan, Precision
from fastdcgan.gan.architecture import Architecture
from fastdcgan.tuning.choice import choose_plan_for_run

LONG = 10**9
"""Images of a run in which measuring pays."""


class Technique(NamedTuple):
    """One thing done for speed, on top of all those before it."""

    name: str
    predicted_gain: float
    """How many times faster than without it, as reckoned before it was measured: for dcgan64, batch 128, a CPU."""

    plan: Plan
    """With this technique and all those before it."""

    smallest_tiles: bool = False
    """Whether Winograd's kernels take tiles of 2 x 2 alone."""


# The predictions. D's unused weight gradients are 1 of 12 convolution passes. The next three are what an experiment
# had found on another machine. The rest was reckoned from a profile of the step before each was written: the ends took
# 17 + 6 ms of 780 and should take 4; the thin layers 90 and should take 45; normalising and activations 70 and should
# take 40; Winograd's kernels, at 85 % of the best rate and with 9 of 16 multiplications, leave 620 ms of 880; larger
# tiles take 7.5 for 9 in bf16, 6.25 in fp32, and products were taken for all of it; one stacked call saves a fifth of
# the starts of operators, which are a tenth of the step at most; repeated, a step has 5 ms of 500 less between kernels.
def techniques(precision: Precision) -> list[Technique]:
    """All of them in order, on a machine whose fastest precision is this one."""
    plan = Plan(precision=precision)
    kernels: tuple[KernelName, ...] = ("ends", "norm", "thin", "winograd")
    ends, norm, thin, winograd = (replace(plan, kernels=kernels[:number]) for number in (1, 2, 3, 4))
    stacked = replace(winograd, stacked=True)
    return [
        Technique("D frozen while G learns", 12 / 11, Plan(channels_last=False, fused_adam=False)),
        Technique("channels-last", 1.3, Plan(fused_adam=False)),
        Technique("fused Adam", 1.02, Plan()),
        *([Technique("bf16", 1.8, plan)] if precision == "bf16" else []),
        Technique("ends as products", 1.04, ends),
        Technique("fused normalising", 1.04, norm),
        Technique("thin layers", 1.09, thin),
        Technique("Winograd, tiles of 2 x 2", 1.43, winograd, smallest_tiles=True),
        Technique("larger tiles", 1.16 if precision == "bf16" else 1.44, winograd),
        Technique("one stacked call", 1.02, stacked),
        Technique("repeated, not run", 1.01, replace(stacked, replay=True)),
    ]


@cache  # what is chosen without measuring isn't kept on disk, but takes steps to choose
def tuned_plan(arch: Architecture, batch: int, device: torch.device, precision: PrecisionRequest = "auto") -> Plan:
    """The plan that a long `fastdcgan train` uses for this architecture and batch: as measured here before, or now."""
    request = ExecutionConfig(precision=precision)
    return choose_plan_for_run(request, device, arch, batch, images=LONG).plan
