"""Contenders that take turns: A B C A B C ...

A machine's speed drifts: it heats up, and others use it. Turns taken one after the other see nearly the same machine,
so their ratio says more than the ratio of two means, and the spread of the ratios says how much.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fastdcgan.tuning.paired import PairedTimes

LEAST_PAIRS, MOST_PAIRS = 3, 15

TURN_SECONDS = 0.2
"""A turn takes as many steps as the fastest contender needs for this: short ones drown in noise."""


def budget_seconds() -> float:
    """How long a case may take, if `LEAST_PAIRS` fit into it; the warm-up comes on top."""
    return float(os.environ.get("FASTDCGAN_BENCH_SECONDS", "25"))


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


def take_turns(
    benchmark: Any,
    contenders: dict[str, Contender],
    *,
    turn_seconds: float = TURN_SECONDS,
    most_pairs: int = MOST_PAIRS,
    budgets: float = 1.0,
) -> Measured:
    """Warm everyone up, then let them take turns within the budget.

    Args:
        benchmark: pytest-benchmark's fixture. It times the turns of "ours" too, for its table.
        contenders: by name; one of them is "ours". They take turns in this order, "ours" last.
        turn_seconds: the least that a turn of the fastest should take.
        most_pairs: turns of each, at most.
        budgets: how many times the budget of a case this one is worth.
    """
    warm_up = {name: contender.time(1) for name, contender in contenders.items()}
    estimates = [contender.time(1) for contender in contenders.values()]
    steps = max(1, math.ceil(turn_seconds / min(estimates)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}

    def turn(name: str) -> None:
        seconds[name].append(contenders[name].time(steps) / steps)

    def the_others() -> None:
        for name in contenders:
            if name != "ours":
                turn(name)

    pairs = pairs_within(budgets * budget_seconds(), steps * sum(estimates), most_pairs)
    benchmark.pedantic(lambda: turn("ours"), setup=the_others, rounds=pairs)
    return Measured(
        seconds={name: tuple(each) for name, each in seconds.items()},
        warm_up_seconds=warm_up,
        steps_per_turn=steps,
    )


def pairs_within(budget: float, seconds_per_pair: float, most: int = MOST_PAIRS) -> int:
    """How many fit, but never too few to speak of a spread, nor more than add to what is known."""
    return max(LEAST_PAIRS, min(most, int(budget / seconds_per_pair)))
