"""Does a plan compute what the reference computes? Measured here and now, on this machine and this architecture.

Reference and plan take one step from the same start on the same inputs, and both are compared with the reference in
fp64. A plan may err as the reference errs in the plan's precision: at most 1.5 times as far from the truth. (Below a
floor of 1e-5, or 1e-3 in half precision, nobody is asked.) Compared are four long vectors: all gradients of D, all of
G, and all that D and G then hold (weights and BatchNorm statistics).

One step is a gamble, in two ways, and it is chance whether that befalls the plan or the reference:

* Adam's very first step is the *sign* of a gradient: a weight whose gradient rounds to the other side of zero moves the
  other way, and G learns from another D. So the step is taken with Adam's second moments already at the size of the
  gradients: its step is then proportional to the gradient.
* An activation that rounds to the other side of zero flips its slope. So the step is taken three times from the same
  start, each time on other inputs, and the best distances of the plan are compared with the best ones of the reference,
  or the medians with the medians: in fp32 few flips decide, in half precision they are many and only their average says
  something. Who is too far off in both gets up to five more tries. A wrong computation is wrong on all inputs; bad luck
  isn't.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from fastdcgan.execution.plan import Plan, Precision
from fastdcgan.gan.architecture import Architecture
from fastdcgan.tuning.implementations import Contender, Start, inputs, the_plan, the_reference

BATCH = 2
"""Small, so that few activations are near zero; BatchNorm still sees 32 numbers a channel where it sees least."""

LEAST_TRIES, MOST_TRIES = 3, 8

SLACK = 1.5
_FLOOR: dict[Precision, float] = {"fp32": 1e-5, "bf16": 1e-3, "fp16": 1e-3}

_GRADIENTS = ("gradients of D", "gradients of G")

Vectors = dict[str, Tensor]
"""What a step led to, by what it is: each one long vector, on the CPU."""


Errors = dict[str, float]
"""The relative distance of each vector from the truth."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a plan is from the truth."""

    error: float
    """Relative distance of the gradients of D or of G, the larger; the best of the tries or their median."""

    allowed: float
    """What it may be."""

    beyond: tuple[str, ...]
    """Which of the vectors are further from the truth than they may be."""

    @property
    def passed(self) -> bool:
        """Whether the plan computes what the reference computes."""
        return not self.beyond


class ParityCheck:
    """Holds plans to the reference: `check(plan)`. The truth and the reference's own errors are computed once.

    Args:
        arch: the networks.
        device: where the plans run.
    """

    def __init__(self, arch: Architecture, device: torch.device) -> None:
        self._arch, self._device = arch, device
        # MPS has no fp64.
        self._exact_device = torch.device("cpu") if device.type == "mps" else device
        self._start = Start.of(arch, device)
        self._exact = the_reference(arch, self._exact_device, dtype=torch.float64)
        self._truth: list[Vectors] = []
        self._references: dict[Precision, Contender] = {}
        self._reference_errors: dict[Precision, list[Errors]] = {}

    def __call__(self, plan: Plan) -> Parity:
        """Take the plan's steps (and compile it, if it says so) and compare."""
        contender = the_plan(plan, self._arch, self._device)
        tries: list[Errors] = []
        while True:
            tries.append(self._errors(contender, len(tries)))
            if len(tries) < LEAST_TRIES:
                continue
            references = self._reference_tries(plan.precision, len(tries))
            by_best, by_median = (_judge(tries, references, _FLOOR[plan.precision], of) for of in (min, median))
            if by_best.passed or by_median.passed or len(tries) == MOST_TRIES:
                return by_median if by_median.passed and not by_best.passed else by_best

    def _reference_tries(self, precision: Precision, tries: int) -> list[Errors]:
        if precision not in self._references:
            self._references[precision] = the_reference(self._arch, self._device, precision=precision)
            self._reference_errors[precision] = []
        known = self._reference_errors[precision]
        while len(known) < tries:
            known.append(self._errors(self._references[precision], len(known)))
        return known[:tries]

    def _errors(self, contender: Contender, number: int) -> Errors:
        while len(self._truth) <= number:
            self._truth.append(self._step(self._exact, len(self._truth), self._exact_device))
        found = self._step(contender, number, self._device)
        return {name: distance(found[name], true) for name, true in self._truth[number].items()}

    def _step(self, contender: Contender, number: int, device: torch.device) -> Vectors:
        contender.begin(self._start)
        contender.step(*inputs(self._arch, BATCH, device, seed=number))
        return {
            "gradients of D": _joined(gradients(contender.discriminator, contender.optimizer_d)),
            "gradients of G": _joined(gradients(contender.generator, contender.optimizer_g)),
            "D after the step": _joined(_numbers(contender.discriminator)),
            "G after the step": _joined(_numbers(contender.generator)),
        }


def gradients(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients of a step, read off Adam's first moments, which began at 0: m = (1 - beta1) g.

    So it does not matter how a plan computes gradients and where it keeps them; the moments it must keep, as they are
    saved with a checkpoint.
    """
    (group,) = optimizer.param_groups
    return [optimizer.state[parameter]["exp_avg"] / (1 - group["betas"][0]) for parameter in network.parameters()]


def distance(found: Tensor, truth: Tensor) -> float:
    """Length of the difference over length of the truth; infinite where anything is not a number."""
    error = ((found.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-12)).item()
    return error if math.isfinite(error) else math.inf


def _judge(
    tries: list[Errors], references: list[Errors], floor: float, of: Callable[[Iterable[float]], float]
) -> Parity:
    errors = {name: of(found[name] for found in tries) for name in tries[0]}
    allowed = {name: max(floor, SLACK * of(found[name] for found in references)) for name in errors}
    return Parity(
        error=max(errors[name] for name in _GRADIENTS),
        allowed=max(allowed[name] for name in _GRADIENTS),
        beyond=tuple(name for name in errors if errors[name] > allowed[name]),
    )


def _numbers(network: nn.Module) -> list[Tensor]:
    # Not num_batches_tracked, which nothing depends on and a plan need not keep.
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def _joined(tensors: list[Tensor]) -> Tensor:
    # fp32 keeps the truth to 6e-8, which is far below any bound, in half the memory.
    return torch.cat([tensor.detach().float().cpu().flatten() for tensor in tensors])
