"""Parity: whether a plan computes what the reference computes, measured on this machine and this architecture.

Reference and plan take one step from the same start on the same inputs, and both are compared with the reference in
fp64, the ground truth. A plan's error may be 1.5 times that of the reference in the plan's precision. (Errors below
1e-5, or 1e-3 in half precision, always pass.) Compared are four vectors: all gradients of D, all of G, and the weights
and BatchNorm statistics of D and of G after the step.

Rounding can change the result of one step in two ways, for the plan as for the reference:

* Adam's very first step is the *sign* of a gradient: a weight whose gradient rounds to the other side of zero moves the
  other way, and G learns from another D. So the step is taken with Adam's second moments already at the size of the
  gradients: its step is then proportional to the gradient.
* An activation that rounds to the other side of zero changes its slope. So the step is taken three times from the same
  start, each time on other inputs. A plan passes if its smallest errors are within the bound of the reference's
  smallest errors, or its median errors within that of the median errors: in fp32 few activations differ and the
  smallest is free of them, in half precision many do and their median is stable. Otherwise there are up to five more
  tries. A wrong computation is wrong on all inputs.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan, Precision
from fastdcgan.gan.architecture import Architecture
from fastdcgan.kernels import winograd
from fastdcgan.tuning.implementations import (
    PAPERS,
    Implementation,
    StartState,
    plan_implementation,
    random_batch,
    reference_implementation,
)

BATCH = 2
"""Small, so that few activations are near zero; BatchNorm still has at least 32 numbers a channel. But our own kernels
compute as they do for a large batch."""

MIN_TRIES, MAX_TRIES = 3, 8

MAX_ERROR_RATIO = 1.5
_ERROR_FLOOR: dict[Precision, float] = {"fp32": 1e-5, "bf16": 1e-3, "fp16": 1e-3}

_GRADIENTS = ("gradients of D", "gradients of G")

Vectors = dict[str, Tensor]
"""Results of a step by name, each concatenated to one vector, fp32, on the CPU."""

Errors = dict[str, float]
"""Relative error of each of the `Vectors`."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The error of a plan, and whether it is too large."""

    error: float
    """Relative error of the gradients of D or of G, the larger; the smallest of the tries or their median."""

    allowed: float
    """What `error` may be."""

    beyond: tuple[str, ...]
    """Names of the vectors whose errors are too large."""

    @property
    def passed(self) -> bool:
        """Whether the plan computes what the reference computes."""
        return not self.beyond


class ParityCheck:
    """Compares plans with the reference: `check(plan)`. The ground truth and the reference's errors are computed once.

    Args:
        arch: the networks.
        device: where the plans run.
        exact_device: where the ground truth is computed. Default: there too; on the CPU for MPS, which has no fp64.
        recipe: how the networks learn; with the paper's betas.
    """

    def __init__(
        self,
        arch: Architecture,
        device: torch.device,
        exact_device: torch.device | None = None,
        recipe: RecipeConfig = PAPERS,
    ) -> None:
        self._arch, self._device, self._recipe = arch, device, recipe
        self._exact_device = exact_device or (torch.device("cpu") if device.type == "mps" else device)
        self._start = StartState.create(arch, device, recipe)
        self._exact = reference_implementation(arch, self._exact_device, recipe, dtype=torch.float64)
        self._truth: list[Vectors] = []
        self._references: dict[Precision, Implementation] = {}
        self._reference_errors: dict[Precision, list[Errors]] = {}

    def __call__(self, plan: Plan) -> Parity:
        """Take the plan's steps, compiling it first if it says so, and compare."""
        implementation = plan_implementation(plan, self._arch, self._device, self._recipe)
        if plan.replay:  # its first step is recorded: what is compared are replays
            self._step(implementation, 0, self._device)
        tries: list[Errors] = []
        while True:
            tries.append(self._errors(implementation, len(tries)))
            if len(tries) < MIN_TRIES:
                continue
            references = self._reference_tries(plan.precision, len(tries))
            by_best, by_median = (
                _compare(tries, references, _ERROR_FLOOR[plan.precision], statistic) for statistic in (min, median)
            )
            if by_best.passed or by_median.passed or len(tries) == MAX_TRIES:
                return by_median if by_median.passed and not by_best.passed else by_best

    def _reference_tries(self, precision: Precision, tries: int) -> list[Errors]:
        if precision not in self._references:
            self._references[precision] = reference_implementation(
                self._arch, self._device, self._recipe, precision=precision
            )
            self._reference_errors[precision] = []
        known = self._reference_errors[precision]
        while len(known) < tries:
            known.append(self._errors(self._references[precision], len(known)))
        return known[:tries]

    def _errors(self, implementation: Implementation, number: int) -> Errors:
        while len(self._truth) <= number:
            self._truth.append(self._step(self._exact, len(self._truth), self._exact_device))
        found = self._step(implementation, number, self._device)
        return {name: relative_error(found[name], true) for name, true in self._truth[number].items()}

    def _step(self, implementation: Implementation, number: int, device: torch.device) -> Vectors:
        implementation.reset_to(self._start)
        with winograd.tiles_of_large_batches():
            implementation.step(*random_batch(self._arch, BATCH * self._recipe.d_steps, device, seed=number))
        return {
            "gradients of D": _flatten(gradients(implementation.discriminator, implementation.optimizer_d)),
            "gradients of G": _flatten(gradients(implementation.generator, implementation.optimizer_g)),
            "D after the step": _flatten(_floating_point_state(implementation.discriminator)),
            "G after the step": _flatten(_floating_point_state(implementation.generator)),
        }


def gradients(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients of a step, from Adam's first moments, which were 0 before it: m = (1 - beta1) g.

    So it does not matter where a plan keeps gradients. It must keep the moments, as checkpoints save them.
    """
    (group,) = optimizer.param_groups
    return [optimizer.state[parameter]["exp_avg"] / (1 - group["betas"][0]) for parameter in network.parameters()]


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth; infinity if anything is not finite."""
    error = ((found.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-12)).item()
    return error if math.isfinite(error) else math.inf


def _compare(
    tries: list[Errors], references: list[Errors], floor: float, statistic: Callable[[Iterable[float]], float]
) -> Parity:
    errors = {name: statistic(found[name] for found in tries) for name in tries[0]}
    allowed = {name: max(floor, MAX_ERROR_RATIO * statistic(found[name] for found in references)) for name in errors}
    return Parity(
        error=max(errors[name] for name in _GRADIENTS),
        allowed=max(allowed[name] for name in _GRADIENTS),
        beyond=tuple(name for name in errors if errors[name] > allowed[name]),
    )


def _floating_point_state(network: nn.Module) -> list[Tensor]:
    # Without num_batches_tracked, which no result depends on.
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def _flatten(tensors: list[Tensor]) -> Tensor:
    # fp32 rounds the fp64 truth by 6e-8, far below any bound, and takes half the memory.
    return torch.cat([tensor.detach().float().cpu().flatten() for tensor in tensors])
