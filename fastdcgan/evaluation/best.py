"""Which checkpoint of a run is the best by its evaluations: best.json."""

import json
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict

from fastdcgan.evaluation.records import Evaluation
from fastdcgan.runs.checkpoints.folder import Best, checkpoint_path, read_best
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.files import write_replacing


def find_best(evaluations: Iterable[Evaluation]) -> Best | None:
    """The step with the lowest kernel distance, in the mean of its sets of pictures; None of no evaluations.

    It is the kernel distance because that has no bias, so that few pictures will do.

    Args:
        evaluations: of the same conditions.
    """
    by_step: dict[int, list[Evaluation]] = {}
    for one in evaluations:
        by_step.setdefault(one.step, []).append(one)
    if not by_step:
        return None
    means = {step: statistics.fmean(one.kernel for one in ones) for step, ones in by_step.items()}
    step = min(means, key=lambda step: means[step])
    one = by_step[step][0]
    metric = f"{one.kernel_label}, {one.pictures:,} pictures, {one.weights} weights"
    return Best(step=step, metric=metric, value=means[step])


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
