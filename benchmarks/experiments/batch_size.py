"""How do learning rate and images go with the batch? `python -m benchmarks.experiments.batch_size` finds out.

The embedded faces at 32x32, networks of width 16, batches from 16 to 1,024. A batch B gets the learning rates that the
known rules would give it (constant; times the square root of B / 16; times B / 16), and those between. For each the
images are counted that it takes to come to the quality of a batch of 16: the kernel distance on EfficientNet-Lite0, of
G's average, whose half-life is held in images.

What is done already is not done again: the results are lines of a file.
"""

from collections import defaultdict
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.trials import Trial, read_lines, run_command
from fastdcgan.config import RecipeConfig

BASE = 2e-4
"""The paper's rate, for a batch of 16 here."""

AIM = 32_000
"""Images of a batch of 16 at the paper's rate whose quality the others are to come to."""

MEASURED_AT = {16: (16_000, 32_000), 64: (32_000, 64_000), 256: (64_000, 128_000), 1024: (128_000,)}
"""Images, by batch: a larger one is trained for longer."""

FACTORS = (
    *((16, 1), (64, 2), (256, 4)),  # by the square root
    *((64, 4), (16, 2), (256, 16)),  # linearly; 16 itself with more
    *((16, 4), (256, 8), (64, 8), (64, 1), (256, 1), (1024, 16)),
)
"""(batch, rate / BASE) of the first seed, those that tell most first."""

REPEATED = ((16, 1), (64, 2), (64, 4), (256, 8))
"""What is repeated from other seeds."""


def trial(batch: int, factor: float, beta1: float = 0.5, seed: int = 0) -> Trial:
    """One training."""
    recipe = RecipeConfig(lr=BASE * factor, beta1=beta1)
    return Trial(name=f"batch {batch}", recipe=recipe, batch_size=batch, measured_at=MEASURED_AT[batch], seed=seed)


def trials() -> list[Trial]:
    """All of them, those that tell most first."""
    first = [trial(*one) for one in FACTORS]
    betas = [trial(64, 4, beta1=0.0)]
    return first + [trial(*one, seed=seed) for seed in (1, 2) for one in REPEATED] + betas


Curve = dict[int, list[float]]
"""Of a batch, a rate and a beta1: images to the kernel distances then, one a seed."""


def curves(lines: list[dict[str, Any]]) -> dict[tuple[int, float, float], Curve]:
    """By batch, learning rate and beta1; of these, images in rising order."""
    found: dict[tuple[int, float, float], Curve] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        recipe = line["trial"]["recipe"]
        key = line["trial"]["batch_size"], recipe.get("lr", BASE), recipe.get("beta1", 0.5)
        for point in line["points"]:
            found[key][round(point["images"], -3)].append(point["kernel"])
    return {key: dict(sorted(curve.items())) for key, curve in sorted(found.items())}


def images_to(curve: Curve, kernel: float) -> float | None:
    """Images at which the mean falls to this for good, between points by logarithms; None: it doesn't."""
    means = {images: fmean(kernels) for images, kernels in curve.items()}
    above = [images for images, mean in means.items() if mean > kernel]
    below = [images for images in means if images > max(above, default=0)]
    if not below or not above:
        return float(below[0]) if below else None
    (a, b), (mean_a, mean_b) = (above[-1], below[0]), (means[above[-1]], max(means[below[0]], 1e-6))
    return float(a * (b / a) ** (log(mean_a / kernel) / log(mean_a / mean_b)))


def show(out: Path) -> None:
    """Print a table of what a file holds."""
    by_key = curves(read_lines(out))
    table = Table("batch", "lr", "beta1", "images: kernel distance (least to greatest of n seeds)", "")
    aim = fmean(by_key.get((16, BASE, 0.5), {}).get(AIM, [0.0]))
    table.columns[-1].header = f"images to {aim:.3f}"
    for (batch, lr, beta1), curve in by_key.items():
        points = ", ".join(f"{images // 1000}k: {_spread(kernels)}" for images, kernels in curve.items())
        needed = images_to(curve, aim)
        table.add_row(str(batch), f"{lr:.1e}", f"{beta1:g}", points, f"{needed:,.0f}" if needed else "more")
    Console(width=140).print(table)


def _spread(kernels: list[float]) -> str:
    mean, count = fmean(kernels), len(kernels)
    return f"{mean:.3f}" + (f" ({min(kernels):.3f} to {max(kernels):.3f}, n = {count})" if count > 1 else "")


if __name__ == "__main__":
    run_command(trials(), show, Path("batch_size.jsonl"))
