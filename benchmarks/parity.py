"""Before a plan is timed: does it compute what the reference computes?"""

from functools import cache

import torch
from torch import Tensor

from benchmarks.conditions import device
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import Architecture
from fastdcgan.tuning.parity import ParityCheck


@cache
def parity(arch: Architecture, plan: Plan) -> dict[str, float]:
    """The plan's error and what it may be, for a result's extra_info.

    Raises:
        ValueError: it is larger than that.
    """
    found = _check(arch)(plan)
    if not found.passed:
        raise ValueError(
            f"{plan}: not timed, because its {' and '.join(found.beyond)} for {arch.name} are further from the truth "
            f"than 1.5 times the reference ({found.error:.1e}, allowed {found.allowed:.1e})"
        )
    return {"parity_error": found.error, "parity_allowed": found.allowed}


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Distance over length, of the whole tensor."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


ROUNDING = 1e-5
"""An fp32 error below this is roundings."""


@cache
def _check(arch: Architecture) -> ParityCheck:
    where: torch.device = device()
    return ParityCheck(arch, where)
