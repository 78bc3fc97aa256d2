"""Implementations timed in turns: A B A B ..., or A B C A B C ..., in one process.

A machine's speed drifts: it heats up, and others use it. Two steps taken one after the other see nearly the same
machine, so their ratio says more than the ratio of two means, and the spread of the ratios says how much.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Paired:
    """Seconds of each turn, in the order they were taken; those at the same place belong together."""

    reference: tuple[float, ...]
    ours: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ours or len(self.reference) != len(self.ours):
            raise ValueError(f"{len(self.reference)} turns of the reference and {len(self.ours)} of ours are no pairs")

    @property
    def speedup(self) -> float:
        """How many times faster ours is: the median over the pairs."""
        return statistics.median(self._ratios)

    @property
    def speedup_quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the pairs."""
        if len(self._ratios) == 1:
            return self._ratios[0], self._ratios[0]
        lower, _, upper = statistics.quantiles(self._ratios, n=4, method="inclusive")
        return lower, upper

    @property
    def reference_seconds(self) -> float:
        """The reference's median."""
        return statistics.median(self.reference)

    @property
    def our_seconds(self) -> float:
        """Our median."""
        return statistics.median(self.ours)

    @property
    def _ratios(self) -> list[float]:
        return [reference / ours for reference, ours in zip(self.reference, self.ours, strict=True)]


@dataclass
class Turns:
    """A stopwatch for two functions that take turns.

    Who calls it decides about the order, so that a benchmark tool can time one of them as well.
    """

    reference: Callable[[], object]
    ours: Callable[[], object]
    clock: Callable[[], float] = time.perf_counter
    finish: Callable[[], None] = lambda: None
    """Waits until all the work given to the device is done; called before each reading of the clock."""

    _reference_seconds: list[float] = field(default_factory=list, init=False)
    _our_seconds: list[float] = field(default_factory=list, init=False)

    def warm_up(self, turns: int) -> None:
        """Both, in turns, without timing."""
        for _ in range(turns):
            self.reference()
            self.ours()

    def time_reference(self) -> None:
        """The reference's turn."""
        self._reference_seconds.append(seconds_of(self.reference, self.clock, self.finish))

    def time_ours(self) -> None:
        """Our turn."""
        self._our_seconds.append(seconds_of(self.ours, self.clock, self.finish))

    def result(self) -> Paired:
        """All turns so far."""
        return Paired(tuple(self._reference_seconds), tuple(self._our_seconds))


@dataclass
class Rounds:
    """A stopwatch for a reference and any number of contenders: in a round each has its turn, the reference first."""

    reference: Callable[[], object]
    contenders: Mapping[str, Callable[[], object]]
    """By name; they take their turns in this order."""

    clock: Callable[[], float] = time.perf_counter
    finish: Callable[[], None] = lambda: None
    """As in `Turns`."""

    running: list[str] = field(init=False)
    """Those who still get turns."""

    reference_seconds: list[float] = field(default_factory=list, init=False)
    """Of each of the reference's turns."""

    _seconds: dict[str, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.running = list(self.contenders)
        self._seconds = {name: [] for name in self.contenders}

    def time_round(self) -> None:
        """A turn for everyone who is still running."""
        self.reference_seconds.append(seconds_of(self.reference, self.clock, self.finish))
        for name in self.running:
            self._seconds[name].append(seconds_of(self.contenders[name], self.clock, self.finish))

    def drop(self, name: str) -> None:
        """No more turns for this one; those it has had are kept."""
        self.running.remove(name)

    def result(self, name: str) -> Paired:
        """A contender's turns so far, each with the reference's of the same round."""
        ours = self._seconds[name]
        return Paired(tuple(self.reference_seconds[: len(ours)]), tuple(ours))


def seconds_of(
    function: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    finish: Callable[[], None] = lambda: None,
) -> float:
    """How long a call takes, with the work that it gives to the device."""
    finish()
    start = clock()
    function()
    finish()
    return clock() - start
