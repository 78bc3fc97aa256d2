"""How do learning rate and images go with the batch? `python -m benchmarks.experiments.batch_size` finds out.

The embedded faces and scikit-learn's digits at 32x32, networks of width 16, batches from 16 to 1,024. A batch B gets
the learning rates that the known rules would give it: in proportion to B / 16, and by its square root; then others,
other betas, more updates of D, and another average. For each the images are counted that it takes to come to the
quality of a batch of 16: the kernel distance on EfficientNet-Lite0, of G's average, whose half-life is held in images.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.trials import HALF_LIFE, Trial, as_table, mean_and_range, read_trials, run_command
from fastdcgan.config import RecipeConfig

BASE = 2e-4
"""The paper's rate, for a batch of 16 here."""

AIM = 32_000
"""Images of a batch of 16 at the paper's rate whose quality the others are to come to."""

MEASURED_AT = {16: (16_000, 32_000), 64: (32_000, 64_000), 256: (64_000, 128_000), 1024: (128_000, 256_000)}
"""Images, by batch: a larger one is trained for longer."""


def trial(batch: int, factor: float, half_life: int = HALF_LIFE, **recipe: Any) -> Trial:
    """One training of faces: its batch, its rate over `BASE`, and of the recipe what else isn't the paper's.

    With more updates of D a step takes more pictures: the batch is that of an update.
    """
    return Trial(
        name=f"batch {batch}",
        recipe=replace(RecipeConfig(lr=BASE * factor), **recipe),
        batch_size=batch,
        measured_at=MEASURED_AT[batch],
        half_life=half_life,
    )


RULES = [
    trial(16, 1),
    *(trial(batch, batch // 16) for batch in (64, 256, 1024)),  # in proportion
    *(trial(batch, (batch // 16) ** 0.5) for batch in (64, 256, 1024)),  # by the square root
    trial(16, 2),
]
"""What the rules of learning rates are about; and twice the paper's rate."""

OTHERS = [
    *(trial(16, factor) for factor in (4, 0.5)),
    *(trial(64, factor) for factor in (1, 8)),
    *(trial(256, factor) for factor in (1, 8, 32)),
    trial(1024, 32),
    *(trial(batch, batch // 16, beta1=beta1) for batch in (16, 256) for beta1 in (0.0, 0.9)),
    *(trial(batch, batch // 16, beta2=0.99) for batch in (16, 256)),
    *(trial(batch, batch // 16, d_steps=2) for batch in (16, 256)),
    *(trial(batch, batch // 16, half_life=500) for batch in (16, 256)),
]
"""Rates between and beyond; betas, updates of D and the average, by batch."""


BY_PAIRS = [trial(256, 16, objective="rpgan", beta2=0.99, ema_ramp=0.3)]
"""The recipe `large-batch`."""


def trials(seeds: int = 3) -> list[Trial]:
    """All of them: the rules for both kinds of pictures, then the others; small batches, the quicker ones, first."""
    by_kind = ((RULES, "faces"), (RULES, "digits"), (OTHERS, "faces"), (BY_PAIRS, "faces"), (BY_PAIRS, "digits"))
    return [
        replace(one, data=data, seed=seed)
        for cells, data in by_kind
        for batch in MEASURED_AT
        for seed in range(seeds)
        for one in cells
        if one.batch_size == batch
    ]


Curve = dict[int, dict[int, float]]
"""Of trials that differ in nothing but the seed: images to the kernel distances then, by seed."""


def curves(trials: Sequence[tuple[Trial, Sequence[Mapping[str, Any]]]]) -> dict[Trial, Curve]:
    """By trial, of seed 0, in the order of data, batch and rate; of these, images in rising order."""
    found: dict[Trial, Curve] = defaultdict(lambda: defaultdict(dict))
    for one, points in trials:
        for point in points:
            same = replace(one, seed=0, measured_at=MEASURED_AT[one.batch_size])
            found[same][round(point["images"], -3)][one.seed] = point["kernel"]
    order = sorted(found, key=lambda one: (one.data != "faces", one.batch_size, one.recipe.lr, _more(one)))
    return {one: dict(sorted(found[one].items())) for one in order}


def images_to(kernel_at: Mapping[int, float], kernel: float) -> float | None:
    """Images at which a curve falls to this for good, between points by logarithms; None: it doesn't.

    Args:
        kernel_at: kernel distances by images, which rise.
        kernel: above 0.
    """
    above = [images for images, found in kernel_at.items() if found > kernel]
    below = [images for images in kernel_at if images > max(above, default=0)]
    if not below or not above:
        return float(below[0]) if below else None
    (a, b), (kernel_a, kernel_b) = (above[-1], below[0]), (kernel_at[above[-1]], max(kernel_at[below[0]], 1e-6))
    return float(a * (b / a) ** (log(kernel_a / kernel) / log(kernel_a / kernel_b)))


def critical_batch(batch: int, share: float) -> float | None:
    """C, where a batch B takes 1 + B / C times the images of a tiny one, from its share of those of a batch of 16.

    None: the share is one that no C explains.
    """
    return (batch - 16 * share) / (share - 1) if 1 < share < batch / 16 else None


def show(out: Path) -> None:
    """Print a table of what a file holds."""
    by_trial = curves(read_trials(out))
    table = Table("pictures", "batch", "lr", "else", "n", "kernel distance after images: mean (least to greatest)")
    table.add_column("images to the aim, of the batch of 16's")
    table.add_column("critical batch")
    aims = {data: _aim(by_trial, data) for data in ("faces", "digits")}
    for one, curve in by_trial.items():
        points = ", ".join(
            f"{images // 1000}k: {mean_and_range(list(seeds.values()))}" for images, seeds in curve.items()
        )
        needed = images_to({images: fmean(seeds.values()) for images, seeds in curve.items()}, aims[one.data])
        critical = critical_batch(one.batch_size, needed / AIM) if needed else None
        table.add_row(
            *(one.data, str(one.batch_size), f"{one.recipe.lr:.1e}", _more(one)),
            *(str(min(len(seeds) for seeds in curve.values())), points),
            f"{needed / AIM:.2f}" if needed else f"more than {max(curve) / AIM:g}",
            f"{critical:.0f}" if critical and not _more(one) else "",
        )
    console = Console(width=160)
    console.print(table)
    for data, aim in aims.items():
        if aim:
            console.print(f"aim for {data}: {aim:.3f}, of the batch of 16 at {BASE:g} after {AIM:,} images")


def _aim(by_trial: Mapping[Trial, Curve], data: str) -> float:
    """0 where the trial that it is of is missing: nothing comes to that."""
    seeds = by_trial.get(replace(trial(16, 1), data=data), {}).get(AIM)
    return fmean(seeds.values()) if seeds else 0.0


def _more(one: Trial) -> str:
    """What of a trial isn't its batch, its rate or as usual, in words."""
    recipe = {name: value for name, value in as_table(one)["recipe"].items() if name != "lr"}
    more = recipe | ({"half-life": one.half_life} if one.half_life != HALF_LIFE else {})
    return ", ".join(f"{name} {value}" for name, value in more.items())


if __name__ == "__main__":
    run_command(trials, show, Path("batch_size.jsonl"))
