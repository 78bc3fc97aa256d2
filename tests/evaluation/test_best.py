"""Which step is the best, by each of the figures."""

from dataclasses import replace

import pytest
from measured import ONE

from fastdcgan.config import MetricName
from fastdcgan.evaluation.best import find_best
from fastdcgan.runs.checkpoints.folder import Best


@pytest.mark.parametrize(
    ("by", "label"),
    [
        ("kernel", "kernel distance, toy, 100 pictures, average weights"),
        ("frechet", "Fréchet distance, toy, 100 pictures, average weights"),
        ("precision", "precision, a toy, 100 pictures, average weights"),
        ("recall", "recall, a toy, 100 pictures, average weights"),
    ],
)
def test_each_figure_has_its_best(by: MetricName, label: str) -> None:
    sign = 1 if by in ("precision", "recall") else -1
    middle = getattr(ONE, by)
    worse, better = (
        replace(ONE, step=step, **{by: middle + sign * by_much}) for step, by_much in ((1, -0.1), (2, 0.1))
    )
    found = find_best([worse, better, replace(ONE, step=3)], by)
    assert found is not None
    assert (found.step, found.value, found.by, found.metric) == (2, getattr(better, by), by, label)


def test_sets_of_pictures_count_by_their_mean() -> None:
    def best_of_twice(second: float) -> Best | None:
        sets = [replace(ONE, step=1, kernel=0.125), replace(ONE, step=1, kernel=second, repeat=1)]
        return find_best([*sets, replace(ONE, step=2, kernel=0.5)], "kernel")

    equal, worse = best_of_twice(0.875), best_of_twice(1.0)
    assert equal is not None and (equal.step, equal.value) == (1, 0.5), "of equals the first"
    assert worse is not None and worse.step == 2


def test_where_no_generated_picture_is_among_real_ones_the_kernel_distance_decides() -> None:
    ones = [replace(ONE, step=step, precision=0.0, kernel=kernel) for step, kernel in ((1, 2.0), (2, 0.3), (3, 0.4))]
    found = find_best(ones, "precision")
    assert found is not None and (found.step, found.value) == (2, 0.0)


def test_without_such_a_figure_there_is_no_best() -> None:
    assert find_best([], "kernel") is None
    assert find_best([replace(ONE, frechet=None)], "frechet") is None
