"""Who takes turns in a cell: the reference, pytorch/examples' loop, and every plan that is possible there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.contenders import our_step, reference_step
from benchmarks.gpu.examples_loop import examples_step
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import DTYPES, Plan, Precision
from fastdcgan.gan.architecture import Architecture
from fastdcgan.tuning.tune import candidate_plans

REFERENCE, EXAMPLES, EXAMPLES_AMP = "reference", "pytorch/examples", "pytorch/examples, AMP"

Step = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """By name; with its plan if it is one of ours."""

    name: str
    plan: Plan | None = None

    @property
    def compiles(self) -> bool:
        """Whether its first step takes long, because code is generated for it."""
        return self.plan is not None and self.plan.backend is not None

    @property
    def cudnn_benchmark(self) -> bool:
        """Whether cuDNN tries its algorithms out, as pytorch/examples asks it to and our trainer does not.

        For the reference too: a process keeps the algorithm of a shape that was found first, and the loop, which has
        the reference's shapes, must not inherit one that was never tried.
        """
        return self.plan is None

    def precision(self, of_cell: Precision) -> Precision:
        """In which it computes: the reference and the plain loop are fp32 in every cell."""
        return "fp32" if self.name in (REFERENCE, EXAMPLES) else of_cell


def contenders_of(precision: Precision, device: torch.device) -> list[Contender]:
    """All contenders in a precision, the reference first."""
    amp = [] if precision == "fp32" else [Contender(EXAMPLES_AMP)]
    plans = [Contender(str(plan), plan) for plan in plans_of(precision, device)]
    return [Contender(REFERENCE), Contender(EXAMPLES), *amp, *plans]


def plans_of(precision: Precision, device: torch.device) -> list[Plan]:
    """All plans in a precision that a run could be given on this device."""
    plans = candidate_plans(ExecutionConfig(precision=precision), device)
    return [plan for plan in plans if plan.precision == precision]


def build(contender: Contender, arch: Architecture, batch: int, precision: Precision, device: torch.device) -> Step:
    """Its step, with networks, optimizers, pictures and noise of its own."""
    if contender.plan is not None:
        return our_step(arch, batch, contender.plan, device)
    if contender.name == REFERENCE:
        return reference_step(arch, batch, device)
    return examples_step(arch, batch, device, DTYPES[precision] if contender.name == EXAMPLES_AMP else None)
