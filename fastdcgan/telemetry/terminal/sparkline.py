"""A curve in one line of text, of figures that come in without end."""

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The curve of these values, from their least to their greatest, in at most `width` characters.

    Where there are more values than characters, a character is the mean of those that fall to it.
    """
    if not values or width < 1:
        return ""
    width = min(width, len(values))
    edges = [place * len(values) // width for place in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    least, span = min(means), max(means) - min(means)
    if span == 0:
        return BLOCKS[0] * width
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((mean - least) / span * len(BLOCKS)))] for mean in means)


class Trace:
    """A figure over a run of any length, in bounded memory: the longer the run, the more figures a point stands for."""

    def __init__(self, most: int = 256) -> None:
        """Keep at most `most` points, an even number."""
        assert most % 2 == 0
        self.points: list[float] = []
        """Each the mean of equally many figures, the oldest first."""

        self._most = most
        self._each, self._sum, self._count = 1, 0.0, 0

    def add(self, value: float) -> None:
        """One more figure. It may show only once a point's worth has come."""
        self._sum += value
        self._count += 1
        if self._count < self._each:
            return
        self.points.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self.points) == self._most:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self._each *= 2
