"""A curve in one line of text, and the series of any length that it shows."""

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The curve of the values, scaled from their minimum to their maximum, in at most `width` characters.

    Where there are more values than characters, a character shows the mean of several.
    """
    if not values or width < 1:
        return ""
    width = min(width, len(values))
    edges = [column * len(values) // width for column in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    least, span = min(means), max(means) - min(means)
    if span == 0:
        return BLOCKS[0] * width
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((mean - least) / span * len(BLOCKS)))] for mean in means)


class DownsampledSeries:
    """A series of any length in bounded memory: the longer it gets, the more values a point is the mean of."""

    def __init__(self, max_points: int = 256) -> None:
        """Keep fewer than `max_points` points, an even number."""
        assert max_points % 2 == 0
        self.points: list[float] = []
        """Each is the mean of equally many values, the oldest first."""

        self._max_points = max_points
        self._values_per_point, self._sum, self._count = 1, 0.0, 0

    def add(self, value: float) -> None:
        """Append a value. A point appears once all its values are there."""
        self._sum += value
        self._count += 1
        if self._count < self._values_per_point:
            return
        self.points.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self.points) == self._max_points:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self._values_per_point *= 2
