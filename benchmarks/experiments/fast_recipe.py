"""What gives the same quality sooner? `python -m benchmarks.experiments.fast_recipe` tries it on two kinds of pictures.

The embedded faces in batches of 16, as the default run has them: measured after 32,000 images, 36,000, where that run
ends, 40,000, where it ended before, and 48,000. "G itself" is what was sampled before there was an average of G. And
scikit-learn's digits in batches of 128. Networks of width 64, by the rules' plan for this machine on all cores.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.experiments.trials import Trial, mean_and_range, read_trials, run_command
from fastdcgan.config import ExecutionConfig, RecipeConfig
from fastdcgan.execution.plan import choose_plan


class Way(NamedTuple):
    """One way to train and to sample."""

    recipe: RecipeConfig = RecipeConfig()
    averaged: bool = True
    flip: bool = False
    also_at: tuple[int, ...] = ()
    """Images after which faces are measured too."""


PAIRS = RecipeConfig(objective="rpgan", lr=1.2e-3, beta2=0.99, ema_ramp=0.3)
"""What the recipe fast is."""

WAYS = {
    "dcgan, G itself": Way(averaged=False),
    "dcgan": Way(),
    "lr 4e-4": Way(RecipeConfig(lr=4e-4)),
    "lr 4e-4, beta2 0.99": Way(RecipeConfig(lr=4e-4, beta2=0.99)),
    "lr 1.2e-3, beta2 0.99": Way(RecipeConfig(lr=1.2e-3, beta2=0.99)),
    "lr 1.2e-3, beta2 0.99, flip": Way(RecipeConfig(lr=1.2e-3, beta2=0.99), flip=True),
    "the same, ramp 0.3": Way(RecipeConfig(lr=1.2e-3, beta2=0.99, ema_ramp=0.3)),
    "the same, ramp 0.3, flip": Way(RecipeConfig(lr=1.2e-3, beta2=0.99, ema_ramp=0.3), flip=True, also_at=(40_000,)),
    "the same, rpgan": Way(PAIRS),
    "rpgan, beta1 0.3, flip": Way(replace(PAIRS, beta1=0.3), flip=True, also_at=(36_000, 40_000)),
}

DATA = {"faces": (16, (32_000, 48_000)), "digits": (128, (32_000, 96_000))}
"""The batch, and the images after which is measured."""


def trials(seeds: int = 3) -> list[Trial]:
    """All ways, seed by seed. A mirrored digit is none."""
    return [
        Trial(
            name=name,
            data=data,
            recipe=way.recipe,
            averaged=way.averaged,
            flip=way.flip,
            batch_size=batch,
            measured_at=tuple(sorted((*measured_at, *(way.also_at if data == "faces" else ())))),
            width=64,
            seed=seed,
        )
        for data, (batch, measured_at) in DATA.items()
        for seed in range(seeds)
        for name, way in WAYS.items()
        if not (way.flip and data == "digits")
    ]


def show(out: Path) -> None:
    """Print a table for each kind of pictures, of what a file holds."""
    kernels: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial, points in read_trials(out):
        for point in points:
            kernels[trial.data, trial.name][point["images"]].append(point["kernel"])
    for data in DATA:
        ways = [name for name in WAYS if (data, name) in kernels]
        columns = sorted({images for name in ways for images in kernels[data, name]})
        table = Table(data, *(f"{images:,} images" for images in columns), "seeds")
        for name in ways:
            found = kernels[data, name]
            cells = [mean_and_range(found[images]) if images in found else "" for images in columns]
            table.add_row(name, *cells, str(len(next(iter(found.values())))))
        Console(width=140).print(table)


if __name__ == "__main__":
    plan = choose_plan(ExecutionConfig(), torch.device("cpu"))
    run_command(trials, show, Path("fast_recipe.jsonl"), plan=plan, judged=1000)
