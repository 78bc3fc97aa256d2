"""Which checkpoint of a run is the best by its evaluations: best.json."""

import json
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict

from fastdcgan.config import MetricName
from fastdcgan.evaluation.records import Evaluation
from fastdcgan.runs.checkpoints.folder import Best, checkpoint_path, read_best
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.files import write_replacing


def figure(one: Evaluation, by: MetricName) -> float | None:
    """What an evaluation has found; None: no Fréchet distance, as pictures were too few."""
    found: float | None = getattr(one, by)
    return found


def figure_label(one: Evaluation, by: MetricName) -> str:
    """What that is called, with the network that it was found by."""
    labels = {"kernel": one.kernel_label, "frechet": one.frechet_label}
    return labels.get(by, f"{by}, {one.extractor}")


def is_better_high(by: MetricName) -> bool:
    """Whether the greatest figure is the best, not the least."""
    return by in ("precision", "recall")


def check_enough(by: MetricName, pictures: int, features: int) -> None:
    """Raises ValueError where so many pictures don't have such a figure."""
    if by == "frechet" and pictures <= features:
        raise ValueError(
            f"--metric frechet: {pictures:,} pictures have no Fréchet distance, which takes more than there are "
            f"features ({features:,}): use --metric kernel, or more pictures"
        )


def find_best(evaluations: Iterable[Evaluation], by: MetricName) -> Best | None:
    """The step with the best figure, in the mean of its sets of pictures; None where none has such a figure.

    Of equals it is the one with the least kernel distance: precision and recall of early steps may all be 0.

    Args:
        evaluations: of the same conditions.
        by: the figure.
    """
    by_step: dict[int, list[Evaluation]] = {}
    for one in evaluations:
        if figure(one, by) is not None:
            by_step.setdefault(one.step, []).append(one)
    if not by_step:
        return None
    means = {step: statistics.fmean(figure(one, by) or 0.0 for one in ones) for step, ones in by_step.items()}
    kernels = {step: statistics.fmean(one.kernel for one in ones) for step, ones in by_step.items()}
    sign = -1 if is_better_high(by) else 1
    step = min(means, key=lambda step: (sign * means[step], kernels[step]))
    one = by_step[step][0]
    metric = f"{figure_label(one, by)}, {one.pictures:,} pictures, {one.weights} weights"
    return Best(step=step, metric=metric, value=means[step], by=by)


def comparable(evaluations: Sequence[Evaluation], last: Evaluation, folder: RunFolder) -> list[Evaluation]:
    """Those of the same conditions as the last one whose checkpoints are still there."""
    return [
        one
        for one in evaluations
        if one.conditions == last.conditions
        and one.training == last.training
        and checkpoint_path(folder.checkpoints, one.step).is_dir()
    ]


def write_best(folder: RunFolder, best: Best) -> None:
    """Write best.json. Raises OSError."""
    write_replacing(folder.best, json.dumps(asdict(best)) + "\n")


def known_best(folder: RunFolder, until_step: int) -> Best | None:
    """What best.json says, if that is of a step that the run has come to; None else."""
    with suppress(ValueError):
        best = read_best(folder)
        if best.step <= until_step and checkpoint_path(folder.checkpoints, best.step).is_dir():
            return best
    return None
