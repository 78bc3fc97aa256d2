"""What helps where pictures are few? `python -m benchmarks.experiments.small_data` tries it with few embedded faces.

Measured against faces that weren't trained on, too: the kernel distance to 256 of all 8,000. So knowing a few by heart
isn't best.
"""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.trials import Trial, mean_and_range, read_trials, run_command
from fastdcgan.config import RecipeConfig

PICTURES = (400, 100)
MEASURED_AT = (24_000, 48_000)

EVERYTHING = "colour,translation,cutout"

RECIPES = {
    "dcgan": RecipeConfig(),
    "DiffAugment": RecipeConfig(augment=EVERYTHING),
    "DiffAugment, lr 4e-4": RecipeConfig(augment=EVERYTHING, lr=4e-4),
    "translation, cutout": RecipeConfig(augment="translation,cutout"),
    "LeCam": RecipeConfig(lecam=0.3),
    "R1": RecipeConfig(r1=1.0),
}
"""From the literature, those that tell most first."""

REPEATED = ("dcgan", "DiffAugment", "translation, cutout")


def trials(seeds: int = 3) -> list[Trial]:
    """All of them: each once, then those that are repeated."""
    return [
        Trial(name=name, recipe=RECIPES[name], measured_at=MEASURED_AT, pictures=pictures, seed=seed)
        for seed in range(seeds)
        for pictures in PICTURES
        for name in (RECIPES if seed == 0 else REPEATED)
    ]


def show(out: Path) -> None:
    """Print a table of what a file holds."""
    kernels: dict[tuple[int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial, points in read_trials(out):
        for point in points:
            kernels[trial.pictures or 0, trial.name][point["images"]].append(point["kernel"])
    table = Table("pictures", "recipe", *(f"{images:,} images" for images in MEASURED_AT), "seeds", "of dcgan's")
    for (pictures, name), found in sorted(kernels.items()):
        columns = [found[images] for images in MEASURED_AT]
        means = map(mean_and_range, columns)
        papers = kernels.get((pictures, "dcgan"))
        share = f"{fmean(columns[-1]) / fmean(papers[MEASURED_AT[-1]]):.2f}" if papers else "?"
        table.add_row(str(pictures), name, *means, str(len(columns[-1])), share)
    Console(width=120).print(table)


if __name__ == "__main__":
    run_command(trials, show, Path("small_data.jsonl"))
