"""Trials: short trainings in this process, each measured after so many images; and a file of them that grows.

A file of lines is all there is to it: a killed process loses the trial under way, the same command goes on with what is
missing, and lines of several machines may be joined (`cat there.jsonl >> here.jsonl`).

A trial is a function of its fields: data, noise and weights are drawn as `fastdcgan train` draws them. What is measured
is what `fastdcgan evaluate` measures, of the moving average of G.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import tyro
from rich.progress import track
from torch import Tensor, nn

from benchmarks.conditions import conditions
from benchmarks.experiments.digits import digits
from fastdcgan.config import RecipeConfig
from fastdcgan.data.array import ArraySource
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.device import to_device
from fastdcgan.evaluation.distances import distances
from fastdcgan.evaluation.extractors import Extractor, ExtractorName, open_extractor
from fastdcgan.evaluation.features import RealSide, generated_features, real_features
from fastdcgan.execution.plan import Plan, own_kernels
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan.architecture import Size, architecture
from fastdcgan.gan.augment import NUMBERS
from fastdcgan.gan.average import MovingAverage
from fastdcgan.gan.randomness import Stream, latents, uniform
from fastdcgan.gan.reference import initialise
from fastdcgan.gan.spectral import build_for
from fastdcgan.gan.step import penalise
from fastdcgan.tuning.implementations import reference_implementation

CPU = torch.device("cpu")

HALF_LIFE = 11_000
"""Images after which the average has forgotten half, if not said; at most a twentieth of those so far
(`gan/average.py`)."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training."""

    name: str
    """Of the recipe, in tables."""

    data: str = "faces"
    """What is trained on: as `fastdcgan train --data` has it; or digits (`digits.py`)."""

    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    batch_size: int = 16
    measured_at: tuple[int, ...]
    """Images, rising. The last is where the trial ends."""

    arch: str = "dcgan32"
    width: int = 16
    pictures: int | None = None
    """Of the data only the first so many are trained on; None: all."""

    flip: bool = False
    half_life: int = HALF_LIFE
    """Of G's average, in images."""

    averaged: bool = True
    """Whether the average is measured, or G as the last step left it."""

    reference: bool = False
    """Whether the reference is trained, which has no average; else our step."""

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a trial had come to after so many images."""

    images: int
    cpu_seconds: float
    """Of training alone, in all threads. Other programs hardly change it, as they would seconds."""

    seconds: float
    """Of training alone, by the clock; without what comes before the first step's end, which may compile."""

    first_step_seconds: float
    frechet: float | None
    kernel: float
    precision: float
    recall: float
    loss_d: float


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What pictures are measured against."""

    extractor: Extractor
    real: RealSide

    @classmethod
    def of(
        cls,
        source: ImageSource,
        pictures: int,
        extractor: ExtractorName = "efficientnet-lite0",
        device: torch.device = CPU,
        weights: Path | None = None,
    ) -> "Judge":
        """So many pictures of a source, by an extractor; Inception's weights are downloaded where none are named."""
        network = open_extractor(extractor, device, weights)
        return cls(extractor=network, real=real_features(source, pictures, network, flip=False))


def points_of(
    trial: Trial, source: ImageSource, judge: Judge, plan: Plan | None = None, device: torch.device = CPU
) -> Iterator[Point]:
    """Train, and measure on the way. Without a plan: our kernels in fp32, in one thread."""
    arch = architecture(trial.arch, width=trial.width)
    recipe = replace(trial.recipe, ema=0.5 ** (trial.batch_size * trial.recipe.d_steps / trial.half_life))
    plan = plan or Plan(kernels=own_kernels(CPU, "fp32"), keep_memory=True, threads=1)
    state = prepare(plan, *build_for(recipe, arch, trial.seed), recipe, device)
    average = MovingAverage(state.generator, recipe.ema, recipe.ema_ramp)
    one_step = step_function(plan, state)

    def take_step(step: int, real_BCHW: Tensor, *drawn: Tensor) -> Mapping[str, Tensor]:
        metrics = one_step(real_BCHW, *drawn)
        penalise(state, step, real_BCHW, *drawn)
        average.update(step)
        return metrics._asdict()

    yield from _measured(
        trial, source, judge, take_step, average.network if trial.averaged else state.generator, device
    )


def points_of_reference(trial: Trial, source: ImageSource, judge: Judge, device: torch.device = CPU) -> Iterator[Point]:
    """The same with the reference: eager PyTorch, fp32, channels first, no average."""
    found = reference_implementation(architecture(trial.arch, width=trial.width), device, trial.recipe)

    def take_step(step: int, real_BCHW: Tensor, *drawn: Tensor) -> Mapping[str, Tensor]:
        return found.step(real_BCHW.contiguous(), drawn[0])

    with torch.random.fork_rng():
        torch.manual_seed(trial.seed)
        for network in (found.generator, found.discriminator):
            initialise(network)
        yield from _measured(trial, source, judge, take_step, found.generator, device)


def _measured(
    trial: Trial,
    source: ImageSource,
    judge: Judge,
    take_step: Callable[..., Mapping[str, Tensor]],
    generator: nn.Module,
    device: torch.device,
) -> Iterator[Point]:
    """Take a trial's steps, and measure at its images. Only steps and their data are timed."""
    recipe, latent_dim = trial.recipe, architecture(trial.arch).latent_dim
    a_step = trial.batch_size * recipe.d_steps
    parts = recipe.d_steps * recipe.accumulate
    batching = Batching(seed=trial.seed, global_batch=a_step, parts=parts, flip=trial.flip)
    batches = real_batches(source, batching, device)
    step, cpu_seconds, seconds, first = 0, 0.0, 0.0, 0.0
    for images in trial.measured_at:
        begin_cpu, begin = time.process_time(), time.perf_counter()
        while step * a_step < images:
            step += 1
            drawn = [latents(trial.seed, Stream.NOISE_BY_TABLE, step, a_step, latent_dim)]
            if recipe.augmentation():
                drawn.append(uniform(trial.seed, Stream.AUGMENT, step, a_step, 2 * NUMBERS))
            metrics = take_step(step, next(batches), *(to_device(numbers_BN, device) for numbers_BN in drawn))
            if step == 1:
                loss_d = float(metrics["loss_d"])  # waits for the device
                first = time.perf_counter() - begin
        loss_d = float(metrics["loss_d"])
        cpu_seconds += time.process_time() - begin_cpu
        seconds += time.perf_counter() - begin
        z_NL = latents(0, Stream.EVALUATE, 0, len(judge.real.features), latent_dim)
        found = distances(generated_features(generator, z_NL, judge.extractor), judge.real.features)
        yield Point(
            images=step * a_step,
            cpu_seconds=round(cpu_seconds, 2),
            seconds=round(seconds - first, 2),
            first_step_seconds=round(first, 2),
            frechet=found.frechet,
            kernel=found.kernel,
            precision=found.precision,
            recall=found.recall,
            loss_d=loss_d,
        )


def first_of(source: ImageSource, count: int | None) -> ImageSource:
    """Only the first so many pictures of a source; None: all."""
    if count is None:
        return source
    assert isinstance(source, ArraySource), source
    few = source.pictures_NHWC[:count]
    return ArraySource(few, description=f"the first {count:,} of {source.description}", origin=source.origin)


def run_trials(trials: Sequence[Trial], out: Path, *, judged: int = 256, plan: Plan | None = None) -> None:
    """Take the trials that a file doesn't hold yet, in order, and add a line of JSON for each.

    Args:
        trials: all that are wanted.
        out: the file.
        judged: pictures that are measured each time, against as many real ones. Of few pictures trained on, those of
            the whole data: else learning them by heart would be best.
        plan: of our step, on all cores. None: our kernels in fp32, in one thread.
    """
    if plan is None:
        torch.set_num_threads(1)
    done = [as_table(trial) for trial, _ in read_trials(out)]
    opened = cache(partial(_open, judged=judged))
    for trial in track([one for one in trials if as_table(one) not in done], description=out.name):
        source, judge = opened(trial.data, architecture(trial.arch).resolution)
        train = points_of_reference if trial.reference else partial(points_of, plan=plan)
        points = [asdict(point) for point in train(trial, first_of(source, trial.pictures), judge)]
        append_line(out, {"trial": as_table(trial), "points": points, "conditions": conditions()})


def _open(data: str, size: Size, *, judged: int) -> tuple[ImageSource, Judge]:
    source = (
        digits(size)
        if data == "digits"
        else open_source(data, resolution=size, channels=3, device="cpu", threads=1, cache="auto")
    )
    return source, Judge.of(source, judged)


def as_table(trial: Trial) -> dict[str, Any]:
    """A trial as a file has it: of the recipe what differs from the paper's."""
    papers = asdict(RecipeConfig())
    recipe = {name: value for name, value in asdict(trial.recipe).items() if value != papers[name]}
    return {**asdict(trial), "recipe": recipe, "measured_at": list(trial.measured_at)}


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line of JSON to a file, which is made where there is none. What a kill left of a line stays invalid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_off = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a") as file:
        file.write("\n" * cut_off + json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What a file of lines of JSON holds, without what a kill left half written; nothing where there is none."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def read_trials(path: Path) -> list[tuple[Trial, list[dict[str, Any]]]]:
    """The trials in a file and their points. What a line doesn't name is as it was before it could be named."""
    return [(trial_in(line["trial"]), line["points"]) for line in read_lines(path)]


def mean_and_range(figures: Sequence[float]) -> str:
    """Of one trial over its seeds, for tables: "0.550 (0.500 to 0.600)"; of one seed the figure."""
    return f"{fmean(figures):.3f}" + (f" ({min(figures):.3f} to {max(figures):.3f})" if len(figures) > 1 else "")


def trial_in(table: Mapping[str, Any]) -> Trial:
    """The inverse of `as_table`, of this version or an earlier one."""
    recipe, measured_at = RecipeConfig(**table["recipe"]), tuple(table["measured_at"])
    return Trial(**{**table, "recipe": recipe, "measured_at": measured_at})


def run_command(
    trials_of: Callable[[int], Sequence[Trial]],
    show: Callable[[Path], None],
    default: Path,
    *,
    seeds: int = 3,
    judged: int = 256,
    plan: Plan | None = None,
) -> None:
    """The command line of an experiment, whose trials go with the number of seeds. The others as in `run_trials`."""

    def run(out: Path, seeds: int) -> None:
        run_trials(trials_of(seeds), out, judged=judged, plan=plan)

    run_seeds_command(run, show, default, seeds=seeds)


def run_seeds_command(
    run: Callable[[Path, int], None], show: Callable[[Path], None], default: Path, *, seeds: int = 3
) -> None:
    """The command line of an experiment that adds to a file what it lacks of so many seeds."""

    def main(out: Annotated[Path, tyro.conf.Positional] = default, seeds: int = seeds, show_only: bool = False) -> None:
        """Train what is missing, and print a table.

        Args:
            out: the file of results. What it holds is not done again.
            seeds: of training, from 0.
            show_only: only print.
        """
        if not show_only:
            run(out, seeds)
        show(out)

    tyro.cli(main)
