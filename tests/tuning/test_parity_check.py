"""The check that plans have to pass on a user's machine: right ones pass, wrong ones don't, bad luck is forgiven."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import TrainState
from fastdcgan.tuning import implementations, parity
from fastdcgan.tuning.implementations import Implementation
from fastdcgan.tuning.parity import ParityCheck

CPU = torch.device("cpu")
NARROW = architecture("dcgan32", width=8)

PLANS = {
    "plain": Plan(channels_last=False, fused_adam=False),
    "channels-last": Plan(),
    "bf16": Plan(precision="bf16"),
    "fp16": Plan(precision="fp16"),
}


@pytest.fixture(scope="module")
def check() -> ParityCheck:
    return ParityCheck(NARROW, CPU)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_right_plan_passes(check: ParityCheck, plan: Plan) -> None:
    found = check(plan)
    assert found.passed and not found.beyond
    assert 0 < found.error <= found.allowed
    assert found.error < (1e-5 if plan.precision == "fp32" else 0.3)


def wrong_slope(state: TrainState) -> TrainState:
    for module in state.discriminator.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.21
    return state


def wrong_momentum(state: TrainState) -> TrainState:
    for module in state.discriminator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.2
    return state


def no_update(state: TrainState) -> TrainState:
    state.optimizer_d.param_groups[0]["lr"] = 0.0
    return state


def mixed_statistics(state: TrainState) -> TrainState:
    """Real and fake in one batch of D's: BatchNorm mixes them. Here: its statistics are another batch's."""

    def mixed(pictures_BCHW: Tensor) -> Tensor:
        both = torch.cat([pictures_BCHW, -pictures_BCHW])
        logits: Tensor = state.discriminator(both)
        return logits[: len(pictures_BCHW)]

    return replace(state, call_discriminator=mixed)


def not_a_number(state: TrainState) -> TrainState:
    return replace(state, call_generator=lambda z_BL: state.generator(z_BL) * float("nan"))


FAULTS: dict[str, tuple[Callable[[TrainState], TrainState], str]] = {
    "slope": (wrong_slope, "gradients of D"),
    "momentum": (wrong_momentum, "D after the step"),
    "no update": (no_update, "D after the step"),
    "statistics": (mixed_statistics, "gradients of D"),
    "nan": (not_a_number, "gradients of G"),
}


@pytest.mark.parametrize(("fault", "where"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_plan_fails(
    check: ParityCheck, monkeypatch: pytest.MonkeyPatch, fault: Callable[[TrainState], TrainState], where: str
) -> None:
    prepare = implementations.prepare

    def wrong(*arguments: Any) -> TrainState:
        return fault(prepare(*arguments))

    monkeypatch.setattr(implementations, "prepare", wrong)
    found = check(Plan())
    assert not found.passed
    assert where in found.beyond


@pytest.mark.parametrize(("unlucky", "passed"), [(5, True), (100, False)])
def test_five_wrong_tries_of_eight_pass_and_eight_fail(
    check: ParityCheck, monkeypatch: pytest.MonkeyPatch, unlucky: int, passed: bool
) -> None:
    """Five tries out of eight with a flipped slope somewhere."""
    original, steps = parity.plan_implementation, 0

    def unlucky_implementation(*arguments: Any) -> Implementation:
        right = original(*arguments)

        def step(real_BCHW: Tensor, z_BL: Tensor) -> Mapping[str, Tensor]:
            nonlocal steps
            steps += 1
            return right.step(real_BCHW * (1.01 if steps <= unlucky else 1.0), z_BL)

        return replace(right, step=step)

    monkeypatch.setattr(parity, "plan_implementation", unlucky_implementation)
    assert check(Plan()).passed is passed
    assert steps == (6 if passed else 8)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    ParityCheck(architecture("dcgan16", width=2), CPU)(Plan())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "arch", [architecture("dcgan28", channels=3, width=4, latent_dim=7), architecture("dcgan16", width=4)]
)
def test_architectures_that_reference_py_has_no_tables_for(arch: Any) -> None:
    assert ParityCheck(arch, CPU)(Plan()).passed
