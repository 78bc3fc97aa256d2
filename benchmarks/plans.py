"""Which plans are timed: the one a user gets, and each technique added in turn."""

from typing import NamedTuple

import torch

from fastdcgan.architecture import Architecture
from fastdcgan.config import ExecutionConfig, PrecisionRequest
from fastdcgan.plan import Plan, choose_plan


class Technique(NamedTuple):
    """One thing done for speed, on top of all those before it."""

    name: str
    predicted_gain: float
    """How many times faster than without it, as reckoned before it was measured: for dcgan64, batch 128, a CPU."""

    plan: Plan
    """With this technique and all those before it."""


# The predictions: D's unused weight gradients are 1 of 12 convolution passes. oneDNN copies every contiguous tensor
# into channels-last blocks and back. Adam moves 7 numbers a parameter when fused and about 20 when not, of some 30
# million numbers that a picture moves. bf16 halves the bytes and doubles the rate, except of what autocast leaves fp32.
TECHNIQUES: list[Technique] = [
    Technique("D frozen while G learns", 12 / 11, Plan(channels_last=False, fused_adam=False)),
    Technique("channels-last", 1.3, Plan(fused_adam=False)),
    Technique("fused Adam", 1.02, Plan()),
    Technique("bf16", 1.8, Plan(precision="bf16")),
]


def tuned_plan(arch: Architecture, batch: int, device: torch.device, precision: PrecisionRequest = "auto") -> Plan:
    """The plan that `fastdcgan train` uses for this architecture and batch on this device."""
    del arch, batch  # the choice does not depend on them yet
    return choose_plan(ExecutionConfig(precision=precision), device)
