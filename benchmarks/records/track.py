"""What is frozen in a track, and how a record in it is tried: over training seeds, in turns with the reference.

A record may choose its recipe, its batch, its number of steps and its plan. It may not touch data, networks or metric.
Steps are fixed beforehand: the first crossing of a curve that goes up and down would be luck.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from scipy.stats import ttest_1samp, ttest_ind

from benchmarks.conditions import conditions, device
from benchmarks.experiments.trials import Judge, Point, Trial, as_table, points_of, points_of_reference
from fastdcgan.config import ExecutionConfig, RecipeConfig
from fastdcgan.data.open import open_source
from fastdcgan.evaluation.extractors import ExtractorName
from fastdcgan.execution.plan import Plan, choose_plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.cores import usable_cores

FEWEST_SEEDS = 5
MOST_P = 0.01


@dataclass(frozen=True, kw_only=True)
class Track:
    """Data, networks and metric: the same for all records in it."""

    name: str
    data: str
    arch: str
    width: int
    extractor: ExtractorName
    metric: str
    """kernel or frechet."""

    judged: int
    """Pictures on each side."""

    reference: Trial
    """What the reference is trained by. Its mean is the threshold, where there is no `threshold`."""

    threshold: float | None = None
    """That a record's mean has to be below; None: the reference's own mean."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a record chooses."""

    name: str
    recipe: RecipeConfig
    batch_size: int
    steps: int
    plan: Plan | None = None
    """None: by the package's rules for the machine."""


def attempt(track: Track, record: Record, out: Path, seeds: int = FEWEST_SEEDS) -> None:
    """Train the record and the reference in turns, seed by seed; write a log; say whether the claim holds.

    Args:
        track: what is frozen.
        record: what is claimed.
        out: the log: a line of JSON for each training.
        seeds: of training, counted from 0. Fewer than `FEWEST_SEEDS` prove nothing, and that is said.
    """
    where = device()
    torch.set_num_threads(usable_cores())
    size = architecture(track.arch).resolution
    source = open_source(track.data, resolution=size, channels=3, device=str(where), threads=1, cache="auto")
    judge = Judge.of(source, track.judged, track.extractor, where)
    plan = record.plan or choose_plan(ExecutionConfig(), where)
    found: dict[str, list[Point]] = {"reference": [], record.name: []}
    for seed in range(seeds):
        for name, trial in (
            ("reference", _with_seed(track.reference, seed)),
            (record.name, trial_of(track, record, seed)),
        ):
            points = (
                points_of_reference(trial, source, judge, where)
                if name == "reference"
                else points_of(trial, source, judge, plan, where)
            )
            (*_, last) = points
            found[name].append(last)
            line = {
                "track": track.name,
                "name": name,
                "trial": as_table(trial),
                "plan": str(plan) if name != "reference" else "reference",
                "point": asdict(last),
                "extractor": judge.extractor.identity,
                "real": judge.real.identity,
                "conditions": conditions(),
            }
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    Console().print(verdict(track, found["reference"], found[record.name]), highlight=False)


def trial_of(track: Track, record: Record, seed: int) -> Trial:
    """A training of a record: measured once, after its last step."""
    images = record.steps * record.batch_size * record.recipe.d_steps
    return Trial(
        name=record.name,
        recipe=record.recipe,
        batch_size=record.batch_size,
        measured_at=(images,),
        arch=track.arch,
        width=track.width,
        seed=seed,
    )


def _with_seed(trial: Trial, seed: int) -> Trial:
    return Trial(**{**vars(trial), "seed": seed})


def verdict(track: Track, reference: Sequence[Point], record: Sequence[Point]) -> str:
    """The claim's figures, its p-value, and whether it holds."""
    ours, theirs = (_metric(track, points) for points in (record, reference))
    if track.threshold is None:
        bound, p = fmean(theirs), float(ttest_ind(ours, theirs, equal_var=False, alternative="less").pvalue)
    else:
        bound, p = track.threshold, float(ttest_1samp(ours, track.threshold, alternative="less").pvalue)
    holds = len(ours) >= FEWEST_SEEDS and p < MOST_P
    lines = [
        f"{track.name}: {track.metric} below {bound:.4f}"
        + (", the reference's mean" if track.threshold is None else ""),
        _row("reference", theirs, reference),
        _row("record", ours, record),
        f"p = {p:.2g} (Welch's t, one-sided)" if track.threshold is None else f"p = {p:.2g} (t, one-sided)",
        "the claim holds"
        if holds
        else f"the claim is not shown: it takes p < {MOST_P} over at least {FEWEST_SEEDS} seeds",
    ]
    return "\n".join(lines)


def _metric(track: Track, points: Sequence[Point]) -> list[float]:
    values: list[Any] = [getattr(point, track.metric) for point in points]
    assert all(value is not None for value in values), f"{track.judged} pictures are too few for {track.metric}"
    return values


def _row(name: str, values: Sequence[float], points: Sequence[Point]) -> str:
    spread = f" (standard deviation {stdev(values):.4f})" if len(values) > 1 else ""
    return (
        f"{name:<10}{fmean(values):.4f}{spread}, {fmean(point.seconds for point in points):.1f} s of training, "
        f"{points[0].images:,} images, first step {fmean(point.first_step_seconds for point in points):.1f} s, "
        f"n = {len(values)}"
    )
