"""The time of a run of the suite, shared out among its cases."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MINUTES = 10.0
"""Of a run that isn't told otherwise."""


def budget_seconds() -> float:
    """Of turns that a case of weight 1 takes, at most; what comes before them is on top."""
    return float(os.environ.get("FASTDCGAN_BENCH_SECONDS", "25"))


class OutOfTimeError(Exception):
    """A case's share of the time is used up, or too short to begin."""


@dataclass
class Case:
    """What one case may take; it tells what it is at.

    Without arguments it may take `budget_seconds` of turns, whenever it comes to them.
    """

    weight: float = 1.0
    """How many times `budget_seconds` its turns may take."""

    end: float = math.inf
    """By the clock: when its share of the whole is used up."""

    latest: float = math.inf
    """By the clock: when its fewest pairs must be there."""

    clock: Callable[[], float] = time.perf_counter
    say: Callable[[str], None] = lambda what: None
    """Is told what the case is at, a few words."""

    enough: bool = field(default=False, init=False)
    """Its fewest pairs are there: whenever it ends, there is a result."""

    stop: bool = field(default=False, init=False)
    """Somebody asks for it to end after this turn."""

    @property
    def over(self) -> bool:
        """Whether no further pair should be begun, if there are enough."""
        return self.stop or self.clock() >= self.end

    def doing(self, what: str) -> None:
        """Say what comes next. Raises OutOfTimeError if there's no time left for it."""
        if self.clock() >= self.latest:
            raise OutOfTimeError(f"its share of the time was over before {what}")
        self.say(what)

    def seconds_of_turns(self, least: float) -> float:
        """How long it may take turns. Raises OutOfTimeError if there's not even time for `least` seconds."""
        now = self.clock()
        if now + least > self.latest:
            left = max(0.0, self.latest - now)
            raise OutOfTimeError(f"its fewest pairs take {least:.0f} s, and {left:.0f} s are left of its share")
        return max(0.0, min(self.weight * budget_seconds(), self.end - now))


BEYOND = 0.5
"""Of its share, that a case may take in addition if its fewest pairs need it. Most leave something over."""


@dataclass
class Budget:
    """A time for all cases, which begins now.

    A case's share is its weight's part of the whole, or its part of what is left among those to come if that is more:
    what a case leaves over is shared by all that follow. When the time runs short, the last ones go without.
    """

    seconds: float = math.inf
    weights: float = math.inf
    """Of all cases together."""

    clock: Callable[[], float] = time.perf_counter
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def passed(self) -> float:
        """Seconds."""
        return self.clock() - self.begun

    @property
    def left(self) -> float:
        """Seconds; never less than 0."""
        return max(0.0, self.seconds - self.passed)

    def is_short(self, weight: float) -> bool:
        """Whether so little is left that such a case had better not begin: less than half its part of the whole."""
        return self.seconds < math.inf and self.left < 0.5 * self.seconds * weight / self.weights

    def next_case(self, weight: float, to_come: float, say: Callable[[str], None], *, vital: bool = False) -> Case:
        """The case that begins now.

        Args:
            weight: its own.
            to_come: the weights of all that come after it.
            say: see `Case.say`.
            vital: its fewest pairs may take all that is left, not only `BEYOND` more than its share.
        """
        end = latest = math.inf
        if self.seconds < math.inf:
            share = max(self.seconds * weight / self.weights, self.left * weight / (weight + to_come))
            now, over = self.clock(), self.begun + self.seconds
            end = min(now + share, over)
            latest = over if vital else min(now + (1 + BEYOND) * share, over)
        return Case(weight=weight, end=end, latest=latest, clock=self.clock, say=say)
