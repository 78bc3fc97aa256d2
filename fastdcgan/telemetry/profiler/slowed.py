"""Steps that a profiler slows down stay out of the figures of speed."""

from typing import NamedTuple


class Lap(NamedTuple):
    """What passed since the last tick."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of it for data."""

    def less(self, other: "Lap") -> "Lap":
        """This one without the other."""
        return Lap(self.steps - other.steps, self.seconds - other.seconds, self.waited - other.waited)


class Slowed:
    """Keeps apart, between two ticks, what passed while steps were slow."""

    def __init__(self) -> None:
        self._since: Lap | None = None
        self._slow: list[Lap] = []

    def turn(self, now: Lap) -> None:
        """From here on steps are slow; or no longer, if they were."""
        if self._since is None:
            self._since = now
        else:
            self._slow.append(now.less(self._since))
            self._since = None

    def rest(self, whole: Lap) -> Lap:
        """At a tick: what passed at full speed; the whole lap where no step was fast. A new one begins."""
        if self._since is not None:
            self._slow.append(whole.less(self._since))
            self._since = Lap()
        rest = whole
        for slow in self._slow:
            rest = rest.less(slow)
        self._slow = []
        return rest if rest.steps > 0 and rest.seconds > 0 else whole
