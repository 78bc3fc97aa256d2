"""The measured choice of a plan: which are possible here, which compute what the reference does, which is fastest.

Plans are timed in turns with the reference, all in one process. A plan that fails parity is never timed nor chosen.
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import Plan, Precision, choose_plan, own_kernels
from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.hardware import physical_cores
from fastdcgan.limits.memory import PeakMemory
from fastdcgan.tuning.implementations import inputs, the_plan, the_reference
from fastdcgan.tuning.paired import Paired, Rounds, seconds_of
from fastdcgan.tuning.parity import Parity, ParityCheck

LEAST_ROUNDS, MOST_ROUNDS = 3, 40

TOGETHER = 4
"""Plans that are held at the same time: each has weights, moments and perhaps buffers of its own."""

HOPELESS = 0.8
"""A plan that is this much slower than the fastest one so far gets no more turns."""

PARITY_SHARE = 0.5
"""Of the time: parity of another plan is begun only within this share, once one plan has passed."""


Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of a plan, or of the reference."""

    plan: Plan | None
    """None is the reference."""

    parity: Parity | None = None
    """None for the reference, and for a plan that time didn't suffice for."""

    times: Paired | None = None
    """Seconds of its steps and of the reference's beside them; None for a plan that was not timed."""

    warm_up_seconds: float | None = None
    """The first step, with all that is made once: compiled code, kernels, buffers."""

    peak_memory_mib: float | None = None
    """With its networks and moments; None where it can't be known."""

    @property
    def speedup(self) -> float:
        """How many times faster than the reference; 0 if it was not timed."""
        return self.times.speedup if self.times else 0.0


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was measured."""

    arch: Architecture
    batch: int
    reference: Measured
    plans: tuple[Measured, ...]
    seconds: float
    """It took."""

    @property
    def chosen(self) -> Measured | None:
        """The fastest plan of those that passed; None if none did."""
        timed = [measured for measured in self.plans if measured.times and measured.parity and measured.parity.passed]
        return max(timed, key=lambda measured: measured.speedup, default=None)


def candidates(request: ExecutionConfig, device: torch.device) -> list[Plan]:
    """The plans that are possible on a device and within a request, the one that the rules would take first.

    Raises:
        ValueError: if the device can't do what was asked for.
    """
    default = choose_plan(request, device)
    if default.shares:
        return [default]
    precisions: list[Precision] = [default.precision]
    if request.precision == "auto":  # what the rules take is what the hardware multiplies
        precisions.append("fp32")
    backends = [default.backend]
    if request.compile == "auto" and default.backend:
        backends.append(None)
    every = []
    for precision in precisions:
        for backend in backends:
            own = own_kernels(device, precision) if backend is None else ()
            # All of our kernels, all but Winograd's, none: what gains on one machine may lose on another.
            for kernels in (own, tuple(name for name in own if name != "winograd"), ()):
                every.append(replace(default, precision=precision, backend=backend, kernels=kernels))
    stacked = [replace(default, stacked=True)] if default.backend is None else []
    # Two threads of one core share its arithmetic: one a core may be faster.
    cores = physical_cores() if device.type == "cpu" and request.threads is None else None
    one_a_core = [replace(default, threads=cores)] if cores and cores < torch.get_num_threads() else []
    return list(dict.fromkeys([default, *stacked, *one_a_core, *every]))


def measure(
    plans: list[Plan],
    arch: Architecture,
    batch: int,
    device: torch.device,
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = lambda text: None,
) -> Tuning:
    """Hold plans to the reference, then time those that pass in turns with it.

    Args:
        plans: the more important first.
        arch: the networks.
        batch: pictures a step.
        device: where to run.
        seconds: how long it may take in all. What has been begun is finished: a compilation, and three rounds of
            turns.
        clock: tells seconds.
        say: is told what is being done.
    """
    begun = clock()
    parities: dict[Plan, Parity] = {}
    say("computing what is true, in fp64")
    check = ParityCheck(arch, device)
    for plan in plans:
        late = clock() - begun > PARITY_SHARE * seconds
        if late and any(parity.passed for parity in parities.values()):
            break
        say(f"parity of {plan}")
        _forget_compiled()
        parities[plan] = check(plan)
    del check

    passed = [plan for plan, parity in parities.items() if parity.passed]
    timer = _Timer(arch, batch, device, clock, say)
    timed: dict[Plan, Measured] = {}
    groups = [passed[first : first + TOGETHER] for first in range(0, len(passed), TOGETHER)]
    for done, group in enumerate(groups):
        left = begun + seconds - clock()
        timed |= {
            measured.plan: measured for measured in timer.time(group, left / (len(groups) - done)) if measured.plan
        }
    reference = timer.reference()
    del timer
    _forget_compiled()
    return Tuning(
        arch=arch,
        batch=batch,
        reference=reference,
        plans=tuple(replace(timed.get(plan, Measured(plan=plan)), parity=parities.get(plan)) for plan in plans),
        seconds=clock() - begun,
    )


def seconds_a_step(plan: Plan, arch: Architecture, batch: int, device: torch.device) -> float:
    """How long one step takes after a first one. Rough: it is taken once."""
    contender = the_plan(plan, arch, device)
    real_BCHW, z_BL = inputs(arch, batch, device)
    contender.step(real_BCHW, z_BL)
    return seconds_of(lambda: contender.step(real_BCHW, z_BL), finish=lambda: _finish(device))


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
        self._real_BCHW, self._z_BL = inputs(arch, batch, device)
        self._our_real_BCHW = self._real_BCHW.contiguous(memory_format=torch.channels_last)  # as a run's data comes
        self._reference: Step | None = None
        self._reference_warm = Measured(plan=None)
        self._reference_seconds: list[float] = []
        self._reference_step_seconds = 0.0

    def time(self, plans: list[Plan], seconds: float) -> list[Measured]:
        """Rounds of turns for the reference and these plans, for about so many seconds, their warm-up included.

        Returns:
            those of the first plans that there was time for.
        """
        begun = self._clock()
        _forget_compiled()
        if self._reference is None:
            self._say("warming up the reference")
            self._reference, self._reference_warm, self._reference_step_seconds = self._warmed_up(None)
        warm: dict[str, tuple[Step, Measured]] = {}
        slowest = a_round = 0.0
        for number, plan in enumerate(plans):
            # Two steps to warm up, and its turns in as many rounds as there must be.
            needed = (2 + LEAST_ROUNDS) * slowest + LEAST_ROUNDS * (a_round + self._reference_step_seconds)
            if (warm or self._reference_seconds) and self._clock() - begun + needed > seconds:
                break  # the plans before it matter more
            step, measured, step_seconds = self._warmed_up(plan)
            warm[str(number)] = step, measured
            slowest, a_round = max(slowest, step_seconds), a_round + step_seconds
        if not warm:
            return []
        rounds = Rounds(
            self._reference,
            {name: step for name, (step, _) in warm.items()},
            clock=self._clock,
            finish=lambda: _finish(self._device),
        )
        for number in range(1, MOST_ROUNDS + 1):
            self._say(f"round {number} of turns")
            began = self._clock()
            rounds.time_round()
            now = self._clock()
            if number < LEAST_ROUNDS:
                continue
            if now + (now - began) > begun + seconds:
                break
            best = max(rounds.result(name).speedup for name in rounds.running)
            for name in list(rounds.running):
                if rounds.result(name).speedup < HOPELESS * best:
                    rounds.drop(name)
        results = {name: rounds.result(name) for name in warm}
        self._reference_seconds += rounds.reference_seconds
        return [replace(measured, times=results[name]) for name, (_, measured) in warm.items()]

    def reference(self) -> Measured:
        """The reference, over all groups."""
        seconds = tuple(self._reference_seconds)
        return replace(self._reference_warm, times=Paired(seconds, seconds)) if seconds else self._reference_warm

    def _warmed_up(self, plan: Plan | None) -> tuple[Step, Measured, float]:
        """A step, what is known of it, and about how many seconds it takes."""
        if plan is not None:
            self._say(f"warming up {plan}")
        peak = PeakMemory(self._device)
        if plan is None:
            contender, real_BCHW = the_reference(self._arch, self._device), self._real_BCHW
        else:
            contender, real_BCHW = the_plan(plan, self._arch, self._device), self._our_real_BCHW

        def step() -> object:
            return contender.step(real_BCHW, self._z_BL)

        first = seconds_of(step, self._clock, lambda: _finish(self._device))
        second = seconds_of(step, self._clock, lambda: _finish(self._device))  # Adam's moments are there only now
        return step, Measured(plan=plan, warm_up_seconds=first, peak_memory_mib=peak.mib()), second


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _forget_compiled() -> None:
    """Every plan is compiled as if it were the first: the compiler allows so many variants of a function, no more."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
