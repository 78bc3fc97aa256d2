"""Whether a claim is shown: figures over seeds, the p-value, and what it took."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import ttest_1samp, ttest_ind

from benchmarks.experiments.trials import Point
from benchmarks.records.track import Track
from fastdcgan.evaluation.best import is_better_high

FEWEST_SEEDS = 5
MOST_P = 0.01

Pair = tuple[Point, Point]
"""After the last steps of the reference and of the record, from one seed, trained one after the other."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What pairs of trainings say of a record."""

    track: Track
    pairs: Sequence[Pair]
    bound: float
    """What the record's mean has to be below."""

    p: float

    @classmethod
    def of(cls, track: Track, pairs: Sequence[Pair]) -> "Verdict":
        """At least two pairs. Against the reference it is Welch's t-test, else Student's, one-sided."""
        assert len(pairs) > 1 and not is_better_high(track.metric)
        theirs, ours = ([figure(track, pair[side]) for pair in pairs] for side in (0, 1))
        if track.threshold is None:
            p = ttest_ind(ours, theirs, equal_var=False, alternative="less").pvalue
            return cls(track=track, pairs=pairs, bound=fmean(theirs), p=float(p))
        p = ttest_1samp(ours, track.threshold, alternative="less").pvalue
        return cls(track=track, pairs=pairs, bound=track.threshold, p=float(p))

    @property
    def holds(self) -> bool:
        """Whether there are seeds enough, and luck is improbable."""
        return len(self.pairs) >= FEWEST_SEEDS and self.p < MOST_P

    def seconds(self, side: int) -> float:
        """Of training, in the mean: of the reference (0) or the record (1)."""
        return fmean(pair[side].seconds for pair in self.pairs)

    def mean(self, side: int) -> float:
        """Of the metric."""
        return fmean(figure(self.track, pair[side]) for pair in self.pairs)

    def __str__(self) -> str:
        """All figures, and whether the claim holds."""
        relative = self.track.threshold is None
        whose, test = (", the reference's mean", "Welch's t") if relative else ("", "t")
        return "\n".join(
            [
                f"{self.track.name}: {self.track.metric} below {self.bound:.4f}{whose}",
                self._row("reference", 0),
                self._row("record", 1),
                f"p = {self.p:.2g} ({test}, one-sided)",
                "the claim holds"
                if self.holds
                else f"the claim is not shown: it takes p < {MOST_P} over at least {FEWEST_SEEDS} seeds",
            ]
        )

    def _row(self, name: str, side: int) -> str:
        points = [pair[side] for pair in self.pairs]
        values = [figure(self.track, point) for point in points]
        return (
            f"{name:<10}{fmean(values):.4f} (standard deviation {stdev(values):.4f}), "
            f"{self.seconds(side):.1f} s of training, {points[0].images:,} images, "
            f"first step {fmean(point.first_step_seconds for point in points):.1f} s, n = {len(points)}"
        )


def figure(track: Track, point: Point) -> float:
    """What the track measures."""
    value: float | None = getattr(point, track.metric)
    assert value is not None, f"{track.judged} pictures are too few for {track.metric}"
    return value
