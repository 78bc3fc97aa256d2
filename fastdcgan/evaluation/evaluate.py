"""What `fastdcgan evaluate` does with a run: its checkpoints' pictures against those that it was trained on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from fastdcgan.config import FEWEST_EVALUATED, UNKNOWN_DATA, MetricName, TrainConfig
from fastdcgan.data.open import open_pictures
from fastdcgan.data.source import ImageSource
from fastdcgan.evaluation import distances
from fastdcgan.evaluation.best import check_enough, find_best, write_best
from fastdcgan.evaluation.extractors import Extractor, ExtractorName, open_extractor
from fastdcgan.evaluation.features import RealSide, generated_features, real_features
from fastdcgan.evaluation.records import Evaluation, append_evaluations
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.folder import Named, checkpoint_path, list_checkpoints, step_in_name
from fastdcgan.runs.checkpoints.record import Progress, read_record
from fastdcgan.runs.classes import labels_by_balance, read_class_counts
from fastdcgan.runs.folder import (
    RunFolder,
    converting_write_errors,
    read_condition,
    read_config,
    run_id,
    value_range_of,
)
from fastdcgan.runs.generate import load_generator

OnStage = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be measured, and how."""

    images: int = 10_000
    """Pictures on each side; all real ones where there are fewer."""

    checkpoint: Named | Literal["all"] = "latest"
    metric: MetricName | None = None
    """By which of all checkpoints the best is told; None: as the run tells it."""

    weights: Literal["both", "average", "last"] = "both"
    extractor: ExtractorName = "auto"
    inception_weights: Path | None = None
    data: str | None = None
    """Pictures to compare with; None: those that the run was trained on."""

    seed: int = 0
    repeats: int = 1
    """Sets of pictures to draw, each from a seed of its own."""

    def check(self) -> None:
        """Raises ValueError for a number that is out of range."""
        if self.images < FEWEST_EVALUATED:
            raise ValueError(f"--images {self.images}: must be at least {FEWEST_EVALUATED}")
        if self.repeats < 1:
            raise ValueError(f"--repeats {self.repeats}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: must be at least 0")
        if self.metric is not None and self.checkpoint != "all":
            raise ValueError(f"--metric {self.metric} says which of all checkpoints is the best: add --checkpoint all")


def evaluate_run(
    run: Path, request: Request, *, say: Callable[[str], None], on_stage: OnStage
) -> tuple[list[Evaluation], Extractor]:
    """Measure a run's pictures, and add what was found to its evaluations.jsonl.

    Args:
        run: the run's folder.
        request: what to measure.
        say: told what is compared with, and of checkpoints that were passed over, a line each.
        on_stage: told how far it is.

    Raises:
        ValueError: a package, the run, a checkpoint or the pictures are missing, or the pictures are too few.
    """
    request.check()
    distances.check_installed()
    folder = RunFolder(run)
    config = read_config(folder)
    arch = config.model.architecture()
    checkpoints = _all_steps(folder) if request.checkpoint == "all" else [request.checkpoint]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor = open_extractor(request.extractor, device, request.inception_weights)
    source = _open_source(folder, config, arch, request.data or cast(str, config.data.data), on_stage)
    if request.data is None and read_condition(folder, "data_fingerprint") not in (None, source.fingerprint):
        say("changed   these are not, file for file, the pictures that the run was trained on, or not decoded as then")
    count = min(request.images, len(source))
    if count < FEWEST_EVALUATED:
        raise ValueError(
            f"{source.origin}: {count} pictures are too few to measure distances to: at least {FEWEST_EVALUATED}"
        )
    by = request.metric or config.run.best_by
    if request.checkpoint == "all":
        check_enough(by, count, extractor.features)
    few = f": all there are, fewer than --images {request.images:,}" if count < request.images else ""
    say(f"real      {f'{count:,} of ' if count < len(source) else ''}{source.description}{few}")
    real = real_features(
        source,
        count,
        extractor,
        flip=config.data.flip,
        on_progress=lambda done, total: on_stage("real pictures", done, total),
    )
    evaluations: list[Evaluation] = []
    for named in checkpoints:
        evaluations += _evaluate_checkpoint(run, named, request, extractor, real, say, on_stage)
    with converting_write_errors(folder.evaluations):
        append_evaluations(folder.evaluations, evaluations)
        if request.checkpoint == "all":
            of_shown = [one for one in evaluations if one.weights == evaluations[0].weights]
            best = find_best(of_shown, by)
            assert best is not None
            write_best(folder, best)
            say(f"best      step {best.step:,}: {best.metric}: {best.value:.4f} (generate --checkpoint best)")
    return evaluations, extractor


def measure(
    generator: nn.Module,
    latent_dim: int,
    real: RealSide,
    extractor: Extractor,
    *,
    seed: int,
    repeat: int,
    progress: Progress,
    weights: str,
    training: bool,
    on_stage: OnStage,
    class_counts: Sequence[int] = (),
) -> Evaluation:
    """Draw as many pictures as there are real ones, and compare. Nothing of the generator is changed.

    Args:
        generator: the plain module.
        latent_dim: of its noise.
        real: what is compared with.
        extractor: of the features, as of `real`.
        seed: of the noise.
        repeat: which set of pictures of this seed.
        progress: how far the generator was trained.
        weights: as in `Evaluation`.
        training: as in `Evaluation`.
        on_stage: told how far it is.
        class_counts: training pictures of each class, where there are classes: pictures are drawn as often of each.
    """
    begin = time.perf_counter()
    count = len(real.features)
    z_NL = latents(seed, Stream.EVALUATE, repeat, count, latent_dim)
    stage = f"pictures of step {progress.step:,}, {weights} weights"
    generated_NF = generated_features(
        generator,
        z_NL,
        extractor,
        on_progress=lambda done, total: on_stage(stage, done, total),
        labels_N=labels_by_balance(class_counts, count, seed, repeat),
    )
    found = distances.distances(generated_NF, real.features)
    return Evaluation(
        step=progress.step,
        images=progress.images,
        weights=weights,
        pictures=count,
        seed=seed,
        repeat=repeat,
        extractor=extractor.name,
        frechet_label=extractor.frechet_label,
        kernel_label=extractor.kernel_label,
        real=real.identity,
        **asdict(found),
        seconds=time.perf_counter() - begin,
        training=training,
    )


def _evaluate_checkpoint(
    run: Path,
    named: Named,
    request: Request,
    extractor: Extractor,
    real: RealSide,
    say: Callable[[str], None],
    on_stage: OnStage,
) -> list[Evaluation]:
    """Raises ValueError where there is no such checkpoint, or no average in it that was asked for."""
    evaluations = []
    averaged, arch, progress, skipped = load_generator(run, checkpoint=named)
    for line in skipped:
        say(f"passed over: {line}")
    raw, *_ = load_generator(run, raw=True, checkpoint=progress.step)
    has_average = checkpoint_has_average(RunFolder(run), progress.step)
    if request.weights == "average" and not has_average:
        raise ValueError(f"--weights average: {run} has no average of G at step {progress.step:,}; use --weights last")
    for name, generator in (("average", averaged), ("last", raw)):
        if request.weights not in ("both", name) or (name == "average" and not has_average):
            continue
        evaluations += [
            measure(
                generator,
                arch.latent_dim,
                real,
                extractor,
                seed=request.seed,
                repeat=repeat,
                progress=progress,
                weights=name,
                training=False,
                on_stage=on_stage,
                class_counts=read_class_counts(RunFolder(run), arch),
            )
            for repeat in range(request.repeats)
        ]
    return evaluations


def checkpoint_has_average(folder: RunFolder, step: int) -> bool:
    """Whether a checkpoint holds a moving average of G. Raises ValueError where it can't be read."""
    _, manifest = read_record(checkpoint_path(folder.checkpoints, step), run_id(folder))
    return checkpoint.has_average(manifest)


def _all_steps(folder: RunFolder) -> Sequence[Named]:
    """Raises ValueError where there are none."""
    steps = [step_in_name(path) for path in list_checkpoints(folder.checkpoints)]
    if not steps:
        raise ValueError(f"{folder.path} has no checkpoint yet: there is nothing to measure")
    return [step for step in steps if step is not None]


def _open_source(
    folder: RunFolder, config: TrainConfig, arch: Architecture, spec: str, on_stage: OnStage
) -> ImageSource:
    if spec == UNKNOWN_DATA:
        raise ValueError("what these weights were trained on is unknown: name pictures to compare with by --data")
    asked = replace(config.data, data=spec)
    return open_pictures(asked, arch, begun_range=value_range_of(folder), on_progress=on_stage)
