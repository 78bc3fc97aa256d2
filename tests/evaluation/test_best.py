"""Which step is the best, by each of the figures."""

from dataclasses import replace

import pytest

from fastdcgan.config import MetricName
from fastdcgan.evaluation.best import find_best
from fastdcgan.evaluation.records import Evaluation

ONE = Evaluation(
    step=1,
    images=10,
    weights="average",
    pictures=60,
    seed=0,
    repeat=0,
    extractor="a toy",
    frechet_label="FID",
    kernel_label="KID",
    real="abc",
    frechet=50.0,
    kernel=0.5,
    kernel_std=0.0,
    precision=0.5,
    recall=0.5,
    seconds=1.0,
    training=True,
)


@pytest.mark.parametrize(
    ("by", "label"),
    [
        ("kernel", "KID, 60 pictures, average weights"),
        ("frechet", "FID, 60 pictures, average weights"),
        ("precision", "precision, a toy, 60 pictures, average weights"),
        ("recall", "recall, a toy, 60 pictures, average weights"),
    ],
)
def test_each_figure_has_its_best(by: MetricName, label: str) -> None:
    better = {"kernel": 0.4, "frechet": 40.0, "precision": 0.6, "recall": 0.6}[by]
    worse = {"kernel": 0.6, "frechet": 60.0, "precision": 0.4, "recall": 0.4}[by]
    found = find_best([replace(ONE, **{by: worse}), replace(ONE, step=2, **{by: better}), replace(ONE, step=3)], by)
    assert found is not None
    assert (found.step, found.value, found.by, found.metric) == (2, better, by, label)


def test_sets_of_pictures_count_by_their_mean() -> None:
    found = find_best([replace(ONE, kernel=0.1), replace(ONE, kernel=0.9, repeat=1), replace(ONE, step=2)], "kernel")
    assert found is not None and (found.step, found.value) == (1, 0.5), "of equals the first"
    found = find_best([replace(ONE, kernel=0.1), replace(ONE, kernel=1.1, repeat=1), replace(ONE, step=2)], "kernel")
    assert found is not None and found.step == 2


def test_where_no_generated_picture_is_among_real_ones_the_kernel_distance_decides() -> None:
    ones = [replace(ONE, step=step, precision=0.0, kernel=kernel) for step, kernel in ((1, 2.0), (2, 0.3), (3, 0.4))]
    found = find_best(ones, "precision")
    assert found is not None and (found.step, found.value) == (2, 0.0)


def test_without_such_a_figure_there_is_no_best() -> None:
    assert find_best([], "kernel") is None
    assert find_best([replace(ONE, frechet=None)], "frechet") is None
