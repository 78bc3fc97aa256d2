"""Contenders that take turns: A B C A B C ...

A machine's speed drifts: it heats up, and others use it. Turns taken one after the other see nearly the same machine,
so their ratio says more than the ratio of two means, and the spread of the ratios says how much.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.budget import Case
from fastdcgan.tuning.paired import PairedTimes

LEAST_PAIRS, MOST_PAIRS = 3, 15

TURN_SECONDS = 0.2
"""A turn takes as many steps as the fastest contender needs for this: short ones drown in noise."""


class Contender(Protocol):
    """Something that takes steps when asked to, and otherwise leaves the machine alone."""

    def time(self, steps: int) -> float:
        """Take steps. Returns how many seconds they took together."""
        ...


@dataclass(frozen=True)
class InProcess:
    """A function of this process as a contender."""

    step: Callable[[], object]
    finish: Callable[[], None] = lambda: None
    """Waits until all the work given to the device is done; called before each reading of the clock."""

    clock: Callable[[], float] = time.perf_counter

    def time(self, steps: int) -> float:
        """See `Contender.time`."""
        self.finish()
        start = self.clock()
        for _ in range(steps):
            self.step()
        self.finish()
        return self.clock() - start


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came out, by contender."""

    seconds: dict[str, tuple[float, ...]]
    """Of a step, in each turn. Those at the same place were taken one after the other."""

    warm_up_seconds: dict[str, float]
    """Of the very first step, compilation included. Not among the others."""

    steps_per_turn: int

    def against(self, reference: str, ours: str = "ours") -> PairedTimes:
        """Two of the contenders as pairs."""
        return PairedTimes(reference=self.seconds[reference], ours=self.seconds[ours])

    def among(self, **names: str) -> "Measured":
        """Some of the contenders alone, under other names: `among(ours="bf16", reference="reference")`."""
        return Measured(
            seconds={name: self.seconds[old] for name, old in names.items()},
            warm_up_seconds={name: self.warm_up_seconds[old] for name, old in names.items()},
            steps_per_turn=self.steps_per_turn,
        )


class _Enough(BaseException):
    """Ends pytest-benchmark's rounds early. It takes any Exception for a case that failed."""


def take_turns(
    benchmark: Any,
    contenders: dict[str, Contender],
    *,
    case: Case | None = None,
    turn_seconds: float = TURN_SECONDS,
    steps: int | None = None,
    most_pairs: int = MOST_PAIRS,
) -> Measured:
    """Warm everyone up, then let them take turns for as long as the case may.

    Args:
        benchmark: pytest-benchmark's fixture. It times the turns of "ours" too, for its JSON.
        contenders: by name; one of them is "ours". They take turns in this order, "ours" last.
        case: how long it may take; without it, `budget_seconds` of turns.
        turn_seconds: the least that a turn of the fastest should take.
        steps: of a turn, where that need not be found out: then the warm-up tells how long a pair takes.
        most_pairs: turns of each, at most.

    Raises:
        OutOfTimeError: there is not time enough for `LEAST_PAIRS`.
    """
    case = case or Case()
    warm_up = _once_each(contenders, case, "warming up")
    begun = case.clock()
    estimates = (_once_each(contenders, case, "estimating") if steps is None else warm_up).values()
    besides = max(0.0, case.clock() - begun - sum(estimates))  # a turn may prepare itself, and settle afterwards
    steps = steps or max(1, math.ceil(turn_seconds / min(estimates)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    pair_seconds = steps * sum(estimates) + besides
    pairs = pairs_within(case.seconds_of_turns(LEAST_PAIRS * pair_seconds), pair_seconds, most_pairs)

    def turn(name: str) -> None:
        case.say(f"pair {len(seconds['ours']) + 1} of {pairs}, {name}")
        seconds[name].append(contenders[name].time(steps) / steps)

    def the_others() -> None:
        case.enough = len(seconds["ours"]) >= LEAST_PAIRS
        if case.enough and case.over:
            raise _Enough
        for name in contenders:
            if name != "ours":
                turn(name)

    with suppress(_Enough):
        benchmark.pedantic(lambda: turn("ours"), setup=the_others, rounds=pairs)
    case.enough = True
    return Measured(
        seconds={name: tuple(each) for name, each in seconds.items()},
        warm_up_seconds=warm_up,
        steps_per_turn=steps,
    )


def _once_each(contenders: dict[str, Contender], case: Case, why: str) -> dict[str, float]:
    taken = {}
    for name, contender in contenders.items():
        case.doing(f"{why}, {name}")
        taken[name] = contender.time(1)
    return taken


def pairs_within(budget: float, seconds_per_pair: float, most: int = MOST_PAIRS) -> int:
    """How many fit, but never too few to speak of a spread, nor more than add to what is known."""
    return max(LEAST_PAIRS, min(most, int(budget / seconds_per_pair)))
