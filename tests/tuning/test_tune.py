"""Measuring plans: what may take part, who is timed, who is fastest. On a clock of our own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdcgan.config import ExecutionConfig
from fastdcgan.execution import plan
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import TrainState
from fastdcgan.tuning import implementations, tune
from fastdcgan.tuning.parity import Parity

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ARCH = architecture("dcgan16", width=2)

REFERENCE = 6.0
SLOW, FAST, FAULTY = Plan(channels_last=False), Plan(), Plan(fused_adam=False)
PASSED, FAILED = (
    Parity(error=1e-6, allowed=1e-5, beyond=()),
    Parity(error=1.0, allowed=1e-5, beyond=("gradients of D",)),
)


class Machine:
    """Steps that take a known time, on a clock that only they and the parity checks move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, durations: Mapping[Plan, float], check_seconds: float = 0.0):
        self.now = 0.0
        self.log: list[Plan | None] = []
        self.durations = durations
        self.check_seconds = check_seconds
        monkeypatch.setattr(tune, "plan_implementation", lambda plan, arch, device: FakeImplementation(self, plan))
        monkeypatch.setattr(tune, "reference_implementation", lambda arch, device: FakeImplementation(self, None))
        monkeypatch.setattr(tune, "PeakMemory", FakeMemory)
        monkeypatch.setattr(tune, "_reset_compiler", lambda: None)
        monkeypatch.setattr(tune, "ParityCheck", lambda arch, device: self.check)

    def check(self, plan: Plan) -> Parity:
        self.now += self.check_seconds
        return FAILED if plan == FAULTY else PASSED

    def measure(self, plans: list[Plan], seconds: float) -> tune.TuningResult:
        return tune.measure_plans(plans, ARCH, 4, CPU, seconds, clock=lambda: self.now)


class FakeMemory:
    def __init__(self, device: torch.device) -> None:
        pass

    def mib(self) -> float:
        return 7.0


class FakeImplementation:
    def __init__(self, machine: Machine, plan: Plan | None) -> None:
        self.machine, self.plan, self.steps = machine, plan, 0

    def step(self, real_BCHW: Tensor, z_BL: Tensor) -> None:
        self.steps += 1
        self.machine.log.append(self.plan)
        warm_up = 5.0 if self.steps == 1 else 0.0
        self.machine.now += warm_up + (REFERENCE if self.plan is None else self.machine.durations[self.plan])


def test_the_fastest_is_chosen_and_all_figures_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {SLOW: 5.0, FAST: 4.5})
    tuning = machine.measure([SLOW, FAST], seconds=1000.0)
    slow, fast = tuning.plans
    assert tuning.chosen is fast and fast.plan == FAST and slow.plan == SLOW
    assert fast.speedup == pytest.approx(REFERENCE / 4.5, rel=0.02)
    assert slow.speedup == pytest.approx(REFERENCE / 5.0, rel=0.02)
    assert fast.times and fast.times.our_seconds == pytest.approx(4.5, rel=0.02)
    assert tuning.reference.times and tuning.reference.times.our_seconds == pytest.approx(REFERENCE, rel=0.02)
    assert (fast.warm_up_seconds, slow.warm_up_seconds) == (9.5, 10.0)
    assert tuning.seconds == machine.now
    turns = machine.log[6:]  # after two steps each to warm up
    assert turns[:6] == [None, SLOW, FAST] * 2


def test_a_hopeless_plan_does_not_take_the_time_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bf16 where it is emulated: it stands first, and one of its steps takes as long as many of the next plan's."""
    machine = Machine(monkeypatch, {SLOW: 50.0, FAST: 3.0})
    slow, fast = machine.measure([SLOW, FAST], seconds=200.0).plans
    assert machine.log.count(SLOW) == 2, "no turns after its first two steps"
    assert slow.speedup == pytest.approx(REFERENCE / 50.0)
    assert fast.speedup == pytest.approx(REFERENCE / 3.0, rel=0.02)


def test_where_all_plans_are_hopeless_the_least_slow_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {SLOW: 50.0, FAST: 40.0})
    tuning = machine.measure([SLOW, FAST], seconds=300.0)
    assert tuning.chosen and tuning.chosen.plan == FAST


def test_a_plan_that_fails_parity_is_neither_timed_nor_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {SLOW: 5.0, FAULTY: 0.1})
    tuning = machine.measure([SLOW, FAULTY], seconds=100.0)
    assert FAULTY not in machine.log
    assert tuning.chosen and tuning.chosen.plan == SLOW
    faulty = tuning.plans[1]
    assert faulty.plan == FAULTY and faulty.parity == FAILED and faulty.times is None and faulty.speedup == 0

    only = machine.measure([FAULTY], seconds=100.0)
    assert only.chosen is None and FAULTY not in machine.log


def test_a_fault_planted_in_a_real_plan_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, timed = implementations.prepare, []

    def wrong(plan: Plan, *arguments: Any) -> TrainState:
        state = prepare(plan, *arguments)
        if plan == FAST:
            state.discriminator.layers[1].negative_slope = 0.3
        return state

    def recorded(plan: Plan, *arguments: Any) -> implementations.Implementation:
        timed.append(plan)
        return implementations.plan_implementation(plan, *arguments)

    monkeypatch.setattr(implementations, "prepare", wrong)
    monkeypatch.setattr(tune, "plan_implementation", recorded)
    tuning = tune.measure_plans([FAST, SLOW], ARCH, 4, CPU, seconds=0.1)
    assert tuning.chosen and tuning.chosen.plan == SLOW
    assert timed == [SLOW]
    assert tuning.plans[0].parity and "gradients of D" in tuning.plans[0].parity.beyond


def test_the_time_limit_is_kept_except_for_three_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {SLOW: 5.0, FAST: 5.0})
    tuning = machine.measure([SLOW, FAST], seconds=200.0)
    assert 180 < tuning.seconds <= 200
    hasty = machine.measure([SLOW, FAST], seconds=1.0)
    assert hasty.plans[0].times and len(hasty.plans[0].times.ours) == tune.MIN_ROUNDS


def test_slow_plans_get_no_more_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {SLOW: 5.0, FAST: 1.0})
    slow, fast = machine.measure([SLOW, FAST], seconds=200.0).plans
    assert slow.times and len(slow.times.ours) == tune.MIN_ROUNDS
    assert fast.times and len(fast.times.ours) > 2 * tune.MIN_ROUNDS
    assert slow.speedup == pytest.approx(REFERENCE / 5.0)


def test_many_plans_are_timed_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "GROUP_SIZE", 1)
    machine = Machine(monkeypatch, {SLOW: 5.0, FAST: 4.5})
    tuning = machine.measure([SLOW, FAST], seconds=400.0)
    assert tuning.chosen and tuning.chosen.plan == FAST
    assert tuning.seconds <= 400
    first_of_fast = machine.log.index(FAST)
    assert SLOW not in machine.log[first_of_fast:]
    assert tuning.reference.times and len(tuning.reference.times.ours) == sum(
        len(measured.times.ours) for measured in tuning.plans if measured.times
    )


def test_plans_that_there_is_no_time_to_check_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {SLOW: 5.0, FAST: 1.0}, check_seconds=60.0)
    slow, fast = machine.measure([SLOW, FAST], seconds=100.0).plans
    assert slow.times is not None
    assert fast.parity is None and fast.times is None


def test_plans_that_there_is_no_time_to_time_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {FAST: 4.0, SLOW: 5.0})
    tuning = machine.measure([FAST, SLOW], seconds=60.0)
    fast, slow = tuning.plans
    assert fast.times and not slow.times and slow.parity == PASSED
    assert tuning.chosen is fast
    assert tuning.seconds <= 60.0 + REFERENCE
    assert machine.measure([FAST, SLOW], seconds=100.0).plans[1].times


def test_candidates_follow_the_request_and_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    def possible(device: torch.device = CPU, **request: Any) -> list[tuple[str, str | None]]:
        plans = tune.candidate_plans(ExecutionConfig(**request), device)
        return list(dict.fromkeys((p.precision, p.backend) for p in plans))

    monkeypatch.setattr(plan, "has_cpp_compiler", lambda: True)
    monkeypatch.setattr(plan, "native_precision", lambda device: "fp32")
    assert possible() == [("fp32", None)], "emulated bf16 is slower"
    assert possible(precision="bf16") == [("bf16", None)]

    monkeypatch.setattr(plan, "native_precision", lambda device: "bf16")
    assert possible() == [("bf16", None), ("fp32", None)]
    assert possible(precision="fp32") == [("fp32", None)]
    assert possible(compile="on") == [("bf16", "inductor"), ("fp32", "inductor")]
    assert set(possible(CUDA)) == {(p, b) for p in ("bf16", "fp32") for b in ("inductor", None)}
    assert possible(CUDA)[0] == ("bf16", "inductor"), "what the rules take comes first"
    assert set(possible(CUDA, compile="off")) == {("bf16", None), ("fp32", None)}


def test_our_kernels_are_candidates_with_and_without_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "own_kernels", lambda device, precision: ("ends", "thin", "winograd"))
    plans = tune.candidate_plans(ExecutionConfig(precision="fp32"), CPU)
    assert plans[1] == replace(plans[0], stacked=False)
    assert {p.kernels for p in plans} == {plans[0].kernels, ("ends", "thin", "winograd"), ("ends", "thin"), ()}
    assert not [p for p in tune.candidate_plans(ExecutionConfig(compile="on"), CPU) if p.kernels]


def test_one_thread_a_core_is_a_candidate_where_cores_run_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "physical_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert {p.threads for p in tune.candidate_plans(ExecutionConfig(), CPU)} == {None, 3}
    assert {p.threads for p in tune.candidate_plans(ExecutionConfig(threads=6), CPU)} == {None}, "as asked for"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert {p.threads for p in tune.candidate_plans(ExecutionConfig(), CPU)} == {None}


def test_a_plans_threads_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference that takes turns with it keeps the process's."""
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(
        "fastdcgan.tuning.implementations.step_function", lambda *_: lambda *_: seen.append(torch.get_num_threads())
    )
    it = implementations.plan_implementation(Plan(threads=before + 1), architecture("dcgan16", width=2), CPU)
    with pytest.raises(AttributeError):  # this step returns nothing
        it.step(*implementations.random_batch(architecture("dcgan16", width=2), 2, CPU))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_a_real_measurement_has_all_figures() -> None:
    tuning = tune.measure_plans([FAST], architecture("dcgan32", width=8), 16, CPU, seconds=0.1)
    (fast,) = tuning.plans
    assert fast.parity and fast.parity.passed and fast.speedup > 0
    assert fast.warm_up_seconds and fast.warm_up_seconds > 0


def test_a_gpu_is_offered_replayed_and_captured_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "native_precision", lambda device: "bf16")
    plans = tune.candidate_plans(ExecutionConfig(), CUDA)
    kinds = {(p.backend is not None, p.replay, p.capture) for p in plans if p.precision == "bf16"}
    assert kinds == {
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (True, True, False),
        (True, False, True),
    }
    assert not any(p.replay for p in tune.candidate_plans(ExecutionConfig(precision="fp16"), CUDA))


@pytest.mark.parametrize("with_kernels", [("fp32",), ("fp32", "bf16")])
def test_on_a_cpu_plans_with_our_kernels_are_replayed(
    with_kernels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a precision that is not the first choice, whose own plans have no kernels to replay."""

    def kernels(device: torch.device, precision: str) -> tuple[str, ...]:
        return ("ends", "norm", "thin", "winograd") if precision in with_kernels else ("ends",)

    monkeypatch.setattr(plan, "native_precision", lambda device: "bf16")
    for module in (plan, tune):
        monkeypatch.setattr(module, "own_kernels", kernels)
    plans = tune.candidate_plans(ExecutionConfig(), CPU)
    assert {p.precision for p in plans if p.replay} == set(with_kernels)
    assert all(p.replay == ("norm" in p.kernels) for p in plans)
    assert not any(p.replay for p in tune.candidate_plans(ExecutionConfig(compile="off"), CPU))
    assert all(p.replay for p in tune.candidate_plans(ExecutionConfig(compile="replay"), CPU))
