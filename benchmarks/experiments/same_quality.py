"""Is a picture as good from our step as from the reference's? `python -m benchmarks.experiments.same_quality` asks.

The same recipe, data and noise, seed by seed, on the embedded faces: batches of 16, networks of width 16, our kernels
in fp32; G as its last step left it, as the reference has no average. Parity tests bind single steps; after some
hundred, two roundings have become two trainings, and only their distributions can be compared. The table says by
Welch's t-test whether they differ, and how large a difference so many seeds would show (power 0.8).
"""

from collections import defaultdict
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.stats import f, ncf, ttest_ind

from benchmarks.experiments.trials import Trial, read_trials, run_command

SEEDS = 5
SIGNIFICANT, POWER = 0.05, 0.8


def trials(seeds: int = SEEDS) -> list[Trial]:
    """In turns, so that a change of the machine's is no difference between the two."""
    return [
        Trial(
            name="reference" if reference else "ours",
            measured_at=(16_000, 32_000),
            averaged=False,
            reference=reference,
            seed=seed,
        )
        for seed in range(seeds)
        for reference in (True, False)
    ]


def power(count: int, effect: float) -> float:
    """Probability that a two-sided t-test finds a difference.

    Args:
        count: of seeds on each side, at least 2.
        effect: the difference over the seeds' standard deviation, above 0.
    """
    degrees = 2 * count - 2  # t's square is F, whose one tail is both of t's
    return float(ncf.sf(f.isf(SIGNIFICANT, 1, degrees), 1, degrees, effect**2 * count / 2))


def shown_effect(count: int) -> float:
    """The difference, in standard deviations, that so many seeds find with probability `POWER`."""
    return float(brentq(lambda effect: power(count, effect) - POWER, 1e-3, 30.0))


def show(out: Path) -> None:
    """Print a table of what a file holds."""
    found: dict[int, dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
    for trial, points in read_trials(out):
        for point in points:
            found[point["images"]][trial.reference].append(point["kernel"])
    table = Table("images", "the reference's kernel distance", "ours", "p that they are of one kind", "would be shown")
    for images, kernels in sorted(found.items()):
        theirs, ours = kernels[True], kernels[False]
        count = min(len(theirs), len(ours))
        if count > 1:
            spread = sqrt((stdev(theirs) ** 2 + stdev(ours) ** 2) / 2)
            table.add_row(
                f"{images:,}",
                *(f"{fmean(one):.3f} ± {stdev(one):.3f}, n = {len(one)}" for one in (theirs, ours)),
                f"{ttest_ind(ours, theirs, equal_var=False).pvalue:.2f}",
                f"a difference of {shown_effect(count) * spread:.3f}",
            )
    Console(width=140).print(table)


if __name__ == "__main__":
    run_command(trials, show, Path("same_quality.jsonl"), seeds=SEEDS)
