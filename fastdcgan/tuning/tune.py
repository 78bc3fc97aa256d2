"""Measures plans: which are possible here, which compute what the reference computes, and how fast these are.

Plans are timed in turns with the reference, all in one process. A plan that fails parity is never timed nor chosen.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import Plan, Precision, choose_plan, is_replayed, own_kernels
from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.hardware import physical_cores
from fastdcgan.limits.memory import PeakMemory
from fastdcgan.private_torch import compiler_is_loaded
from fastdcgan.tuning.implementations import plan_implementation, random_batch, reference_implementation
from fastdcgan.tuning.paired import PairedTimes, RoundTimer, time_call
from fastdcgan.tuning.parity import Parity, ParityCheck

MIN_ROUNDS, MAX_ROUNDS = 3, 40

GROUP_SIZE = 4
"""Plans that are in memory at the same time: each has its own weights, moments and buffers."""

MIN_RELATIVE_SPEEDUP = 0.8
"""A plan whose speedup is less than this part of the largest one so far gets no more turns."""

TURN_SECONDS = 0.25
"""A turn's length, or longer: a step's."""

HOPELESS_SPEEDUP = 0.5
"""A plan that needs more than twice the reference's time for a step gets no turns: they would take others'."""

PARITY_SHARE = 0.5
"""Part of the time after which no more plans are checked for parity, if at least one has passed."""

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of a plan, or of the reference."""

    plan: Plan | None
    """None: the reference."""

    parity: Parity | None = None
    """None for the reference, and for a plan that was not checked for lack of time."""

    times: PairedTimes | None = None
    """Its steps, paired with those of the reference; None for a plan that was not timed."""

    warm_up_seconds: float | None = None
    """Of the first step, which compiles code and allocates buffers."""

    peak_memory_mib: float | None = None
    """Networks and moments included; None where it can't be measured."""

    @property
    def speedup(self) -> float:
        """How many times faster than the reference; 0 if it was not timed."""
        return self.times.speedup if self.times else 0.0


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """All measurements of one `measure_plans`."""

    arch: Architecture
    batch: int
    reference: Measurement
    plans: tuple[Measurement, ...]
    seconds: float
    """How long measuring took."""

    @property
    def chosen(self) -> Measurement | None:
        """The fastest plan of those that passed; None if none did."""
        timed = [measured for measured in self.plans if measured.times and measured.parity and measured.parity.passed]
        return max(timed, key=lambda measured: measured.speedup, default=None)


def candidate_plans(request: ExecutionConfig, device: torch.device, world_size: int = 1) -> list[Plan]:
    """The plans that are possible on a device and within a request; first the one that `choose_plan` returns.

    Raises:
        ValueError: if the device can't do what was asked for.
    """
    default = choose_plan(request, device, world_size)
    if default.shares:
        return [default]
    precisions: list[Precision] = [default.precision]
    if request.precision == "auto":  # then choose_plan takes what the hardware multiplies
        precisions.append("fp32")
    backends = [default.backend]
    if request.compile == "auto" and default.backend:
        backends.append(None)
    combinations = []
    for precision in precisions:
        for backend in backends:
            own = own_kernels(device, precision) if backend is None else ()
            # All of our kernels, all but Winograd's, none: which are faster depends on the machine.
            for kernels in (own, tuple(name for name in own if name != "winograd"), ()):
                replay = is_replayed(request, device, kernels)
                combinations.append(
                    replace(default, precision=precision, backend=backend, kernels=kernels, replay=replay)
                )
    other_calls = [replace(default, stacked=not default.stacked)] if default.backend is None else []
    # Two threads of one core share its arithmetic units: one thread a core may be faster.
    cores = physical_cores() if device.type == "cpu" and request.threads is None else None
    one_thread_a_core = [replace(default, threads=cores)] if cores and cores < torch.get_num_threads() else []
    plans = list(dict.fromkeys([default, *other_calls, *one_thread_a_core, *combinations]))
    if device.type != "cuda" or request.compile != "auto":
        return plans
    whole = [replace(plan, replay=True) for plan in plans if plan.precision != "fp16" and not plan.stacked]
    captured = [replace(plan, capture=True) for plan in plans if plan.precision != "fp16" and plan.backend]
    return [*plans, *whole, *captured]


def measure_plans(
    plans: list[Plan],
    arch: Architecture,
    batch: int,
    device: torch.device,
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = lambda text: None,
) -> TuningResult:
    """Check plans for parity with the reference, then time those that pass in turns with it.

    Args:
        plans: the most important first.
        arch: the networks.
        batch: pictures a step.
        device: where to run.
        seconds: how long it may take in all. A compilation and the first three rounds are finished nevertheless.
        clock: returns seconds.
        say: is called with what is done next.
    """
    start = clock()
    say("computing what is true, in fp64")
    parities: dict[Plan, Parity] = {}
    check = ParityCheck(arch, device)
    for plan in plans:
        late = clock() - start > PARITY_SHARE * seconds
        if late and any(parity.passed for parity in parities.values()):
            break
        say(f"parity of {plan}")
        _reset_compiler()
        parities[plan] = check(plan)
    del check  # it holds networks

    passed = [plan for plan, parity in parities.items() if parity.passed]
    timer = _Timer(arch, batch, device, clock, say)
    timed: dict[Plan, Measurement] = {}
    groups = [passed[first : first + GROUP_SIZE] for first in range(0, len(passed), GROUP_SIZE)]
    for done, group in enumerate(groups):
        left = start + seconds - clock()
        timed |= {
            measured.plan: measured for measured in timer.time(group, left / (len(groups) - done)) if measured.plan
        }
    reference = timer.reference()
    del timer
    _reset_compiler()
    return TuningResult(
        arch=arch,
        batch=batch,
        reference=reference,
        plans=tuple(replace(timed.get(plan, Measurement(plan=plan)), parity=parities.get(plan)) for plan in plans),
        seconds=clock() - start,
    )


def time_one_step(plan: Plan, arch: Architecture, batch: int, device: torch.device) -> float:
    """Seconds of one step after the first ones. A rough estimate."""
    implementation = plan_implementation(plan, arch, device)
    real_BCHW, z_BL = random_batch(arch, batch, device)
    for _ in range(_first_steps(plan)):
        implementation.step(real_BCHW, z_BL)
    return time_call(lambda: implementation.step(real_BCHW, z_BL), synchronize=lambda: _synchronize(device))


def _first_steps(plan: Plan | None) -> int:
    """Steps that take longer than others: in the first Adam makes its moments, the second may be recorded."""
    return 2 if plan is not None and plan.replay else 1


class _Timer:
    """Times groups of plans against one reference."""

    def __init__(
        self,
        arch: Architecture,
        batch: int,
        device: torch.device,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._arch, self._device, self._clock, self._say = arch, device, clock, say
        self._real_BCHW, self._z_BL = random_batch(arch, batch, device)
        self._our_real_BCHW = self._real_BCHW.contiguous(memory_format=torch.channels_last)  # as a run's data are
        self._reference: _WarmStep | None = None
        self._reference_seconds: list[float] = []

    def time(self, plans: list[Plan], seconds: float) -> list[Measurement]:
        """Time the reference and these plans in rounds, for about this many seconds, their warm-up included.

        Returns:
            measurements of the first of the plans; the others didn't fit into the time.
        """
        deadline = self._clock() + seconds
        _reset_compiler()
        if self._reference is None:
            self._say("warming up the reference")
            self._reference = self._warm_up(None)
        warm = self._warm_up_group(plans, deadline)
        if not warm:
            return []
        in_turns = {str(number): step.step for number, step in enumerate(warm) if not self._is_hopeless(step)}
        rounds = RoundTimer(
            self._reference.step,
            in_turns,
            clock=self._clock,
            synchronize=lambda: _synchronize(self._device),
            turn_seconds=TURN_SECONDS,
        )
        self._time_rounds(rounds, deadline)
        self._reference_seconds += rounds.reference_seconds
        last_step = {
            str(number): PairedTimes((self._reference.seconds,), (step.seconds,)) for number, step in enumerate(warm)
        }
        times = last_step | {name: rounds.result(name) for name in in_turns}
        return [replace(step.measurement, times=times[str(number)]) for number, step in enumerate(warm)]

    def _is_hopeless(self, step: "_WarmStep") -> bool:
        """Whether a plan is so slow that its last step suffices, and turns would take the time of others."""
        assert self._reference is not None
        return self._reference.seconds < HOPELESS_SPEEDUP * step.seconds

    def reference(self) -> Measurement:
        """The reference, over all groups."""
        measurement = self._reference.measurement if self._reference else Measurement(plan=None)
        seconds = tuple(self._reference_seconds)
        return replace(measurement, times=PairedTimes(seconds, seconds)) if seconds else measurement

    def _warm_up_group(self, plans: list[Plan], deadline: float) -> list["_WarmStep"]:
        """Warm up plans as long as they can be timed before the deadline; in the first group at least one."""
        assert self._reference is not None
        warm: list[_WarmStep] = []
        for plan in plans:
            # Estimated from those before it: three steps to warm up, and a turn for each in the least number of rounds.
            in_turns = [step.seconds for step in warm if not self._is_hopeless(step)]
            slowest = max(in_turns, default=0.0)
            round_seconds = self._reference.seconds + sum(in_turns)
            needed = (3 + MIN_ROUNDS) * slowest + MIN_ROUNDS * round_seconds
            if (warm or self._reference_seconds) and self._clock() + needed > deadline:
                break  # plans come in the order of their importance
            warm.append(self._warm_up(plan))
        return warm

    def _time_rounds(self, rounds: RoundTimer, deadline: float) -> None:
        """At least `MIN_ROUNDS`, then until the deadline. Plans that are slow get no more turns."""
        for number in range(1, MAX_ROUNDS + 1):
            self._say(f"round {number} of turns")
            start = self._clock()
            rounds.time_round()
            end = self._clock()
            if number < MIN_ROUNDS:
                continue
            if end + (end - start) > deadline or not rounds.active:
                break
            best = max(rounds.result(name).speedup for name in rounds.active)
            for name in list(rounds.active):
                if rounds.result(name).speedup < MIN_RELATIVE_SPEEDUP * best:
                    rounds.drop(name)

    def _warm_up(self, plan: Plan | None) -> "_WarmStep":
        """Take the first steps of a plan, or of the reference, and one more."""
        if plan is not None:
            self._say(f"warming up {plan}")
        peak = PeakMemory(self._device)
        if plan is None:
            implementation, real_BCHW = reference_implementation(self._arch, self._device), self._real_BCHW
        else:
            implementation, real_BCHW = plan_implementation(plan, self._arch, self._device), self._our_real_BCHW

        def step() -> object:
            return implementation.step(real_BCHW, self._z_BL)

        first = time_call(step, self._clock, lambda: _synchronize(self._device))
        for _ in range(_first_steps(plan)):
            last = time_call(step, self._clock, lambda: _synchronize(self._device))
        measurement = Measurement(plan=plan, warm_up_seconds=first, peak_memory_mib=peak.mib())
        return _WarmStep(step=step, measurement=measurement, seconds=last)


@dataclass(frozen=True, kw_only=True)
class _WarmStep:
    """A step that has been taken until it takes as long as later ones."""

    step: Step
    measurement: Measurement
    seconds: float
    """Of the last time: about what a step takes."""


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _reset_compiler() -> None:
    """Free compiled code: the compiler limits the number of variants of a function. Free memory that is not used."""
    if compiler_is_loaded():
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
