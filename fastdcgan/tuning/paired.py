"""Paired timing: functions timed in turns, A B A B ... or A B C A B C ..., in one process.

A machine's speed drifts: it heats up, and others use it. Two calls one after the other run at nearly the same speed, so
the median of their ratios is more precise than the ratio of two means, and the ratios' quartiles are its uncertainty.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PairedTimes:
    """Seconds of each turn, in order; those at the same index are a pair. Raises ValueError if they are no pairs."""

    reference: tuple[float, ...]
    ours: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ours or len(self.reference) != len(self.ours):
            raise ValueError(f"{len(self.reference)} turns of the reference and {len(self.ours)} of ours are no pairs")

    @property
    def speedup(self) -> float:
        """How many times faster ours is: the median of the pairs' ratios."""
        return statistics.median(self._ratios)

    @property
    def speedup_quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the pairs' ratios."""
        if len(self._ratios) == 1:
            return self._ratios[0], self._ratios[0]
        lower, _, upper = statistics.quantiles(self._ratios, n=4, method="inclusive")
        return lower, upper

    @property
    def reference_seconds(self) -> float:
        """The reference's median, seconds."""
        return statistics.median(self.reference)

    @property
    def our_seconds(self) -> float:
        """Our median, seconds."""
        return statistics.median(self.ours)

    @property
    def _ratios(self) -> list[float]:
        return [reference / ours for reference, ours in zip(self.reference, self.ours, strict=True)]


@dataclass
class RoundTimer:
    """Times a reference and any number of candidates in rounds: in each the reference first, then every candidate.

    A turn is as many calls as fit into `turn_seconds`, by the last turn's, and at least one: the first call after
    others' turns finds the caches full of what is not its own.
    """

    reference: Callable[[], object]
    candidates: Mapping[str, Callable[[], object]]
    """By name, in the order of their turns."""

    clock: Callable[[], float] = time.perf_counter
    synchronize: Callable[[], None] = lambda: None
    """Synchronises with the device; called before the clock is read."""

    turn_seconds: float = 0.0

    active: list[str] = field(init=False)
    """Names of the candidates that still get turns."""

    reference_seconds: list[float] = field(default_factory=list, init=False)
    """Of a call, in each turn of the reference."""

    _seconds: dict[str, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.active = list(self.candidates)
        self._seconds = {name: [] for name in self.candidates}

    def time_round(self) -> None:
        """Time a turn of the reference and of each active candidate."""
        self._time_turn(self.reference, self.reference_seconds)
        for name in self.active:
            self._time_turn(self.candidates[name], self._seconds[name])

    def _time_turn(self, function: Callable[[], object], seconds: list[float]) -> None:
        calls = max(1, int(self.turn_seconds / seconds[-1])) if seconds else 1

        def turn() -> None:
            for _ in range(calls):
                function()

        seconds.append(time_call(turn, self.clock, self.synchronize) / calls)

    def drop(self, name: str) -> None:
        """Give a candidate no more turns; those it has had are kept."""
        self.active.remove(name)

    def result(self, name: str) -> PairedTimes:
        """A candidate's turns so far, each with the reference's of the same round."""
        ours = self._seconds[name]
        return PairedTimes(tuple(self.reference_seconds[: len(ours)]), tuple(ours))


def time_call(
    function: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], None] = lambda: None,
) -> float:
    """Seconds that a call takes, with the work that it queues on the device."""
    synchronize()
    start = clock()
    function()
    synchronize()
    return clock() - start
