from itertools import pairwise

import pytest

from fastdcgan.telemetry.terminal.sparkline import BLOCKS, DownsampledSeries, sparkline


def heights(curve: str) -> list[int]:
    return [BLOCKS.index(block) for block in curve]


def test_a_curve_rises_and_falls_with_its_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7, 7, 5, 3, 0], 12) == "▁▂▃▄▅▆▇██▆▄▁"


@pytest.mark.parametrize("offset", [-1e6, 0.0, 1e6])
def test_only_differences_count(offset: float) -> None:
    assert sparkline([offset, offset + 1], 5) == "▁█"


def test_more_values_than_characters_are_averaged() -> None:
    assert sparkline([0, 2, 7, 9], 2) == "▁█"
    rising = heights(sparkline([float(value) for value in range(1001)], 40))
    assert len(rising) == 40
    assert all(a <= b for a, b in pairwise(rising))
    assert {0, len(BLOCKS) - 1} <= set(rising)


@pytest.mark.parametrize(
    ("values", "width", "curve"), [([], 9, ""), ([1.0], 9, "▁"), ([2.0] * 4, 3, "▁▁▁"), ([1], 0, "")]
)
def test_sparklines_without_a_curve(values: list[float], width: int, curve: str) -> None:
    assert sparkline(values, width) == curve


def test_a_long_run_takes_no_more_memory_and_keeps_its_shape() -> None:
    series = DownsampledSeries(max_points=64)
    for number in range(100_000):
        series.add(float(number))
    assert 32 <= len(series.points) < 64
    steps = [b - a for a, b in pairwise(series.points)]
    assert min(steps) == max(steps), "each point stands for as many figures"
    assert series.points[0] < 2000
    assert series.points[-1] > 96_000


def test_a_short_run_is_kept_as_it_is() -> None:
    series = DownsampledSeries()
    for value in (3.0, 1.0, 2.0):
        series.add(value)
    assert series.points == [3.0, 1.0, 2.0]
