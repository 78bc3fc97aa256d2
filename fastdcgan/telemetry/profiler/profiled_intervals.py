"""Keeps steps that the profiler slows down out of the figures of speed."""

from typing import NamedTuple


class Interval(NamedTuple):
    """Steps since the last tick, with their time."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of it spent waiting for data."""

    def minus(self, other: "Interval") -> "Interval":
        """The difference."""
        return Interval(self.steps - other.steps, self.seconds - other.seconds, self.waited - other.waited)


class ProfiledIntervals:
    """Records which part of the time between two ticks is profiled."""

    def __init__(self) -> None:
        self._since: Interval | None = None
        self._profiled: list[Interval] = []

    def toggle(self, now: Interval) -> None:
        """Profiling begins, or ends if it has begun, at `now`, counted since the last tick."""
        if self._since is None:
            self._since = now
        else:
            self._profiled.append(now.minus(self._since))
            self._since = None

    def unprofiled(self, total: Interval) -> Interval:
        """At a tick: `total` without what was profiled; all of it if every step was. Begins the next interval."""
        if self._since is not None:
            self._profiled.append(total.minus(self._since))
            self._since = Interval()
        rest = total
        for profiled in self._profiled:
            rest = rest.minus(profiled)
        self._profiled = []
        return rest if rest.steps > 0 and rest.seconds > 0 else total
