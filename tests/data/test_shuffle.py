"""Our order against a uniform shuffle, and whether the statistics would tell if it weren't one."""

import importlib
import random
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import shuffle
from fastdcgan.data.decoding.dali import dali_available

COUNT = 10_000


def test_our_order_is_as_good_as_uniform() -> None:
    for against, found in shuffle.examine(shuffle.ours, COUNT, epochs=4, seeds=3).items():
        for statistic, each in zip(shuffle.STATISTICS, found, strict=True):
            assert abs(each.errors) < 4, (against, statistic.name, each)


def test_a_buffer_is_told_from_a_uniform_shuffle() -> None:
    found = shuffle.examine(partial(shuffle.dali_reader, initial_fill=256), COUNT, epochs=2, seeds=1)
    assert found["the epoch before"][0].mean > 0.9  # the correlation
    assert all(abs(each.errors) > 50 for each in found["the epoch before"])
    assert all(abs(each.errors) < 5 for each in found["storage"])  # it is shuffled once


def test_shards_in_random_order_leave_neighbours_together() -> None:
    weak = partial(shuffle.webdataset, shard=500, buffer_size=500)
    found = shuffle.examine(weak, COUNT, epochs=2, seeds=1)
    _, neighbours, deciles = found["storage"]
    assert neighbours.mean < 0.1
    assert neighbours.errors < -50
    assert deciles.errors > 50


@pytest.mark.parametrize("statistic", shuffle.STATISTICS, ids=lambda statistic: statistic.name)
def test_expectation_and_standard_error_are_those_of_uniform_shuffles(statistic: shuffle.Statistic) -> None:
    rng, count, times = random.Random(0), 400, 1000
    values = np.array([statistic.of(np.array(rng.sample(range(count), count))) for _ in range(times)])
    error = statistic.error(count)
    assert values.mean() == pytest.approx(statistic.expected(count), abs=4 * error / times**0.5)
    assert values.std() == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("order", shuffle.SHUFFLES.values(), ids=shuffle.SHUFFLES)
def test_every_shuffle_shows_every_picture_once(order: shuffle.Shuffle) -> None:
    epochs = order(3000, 1)
    first, second = next(epochs), next(epochs)
    assert sorted(first) == sorted(second) == list(range(3000))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_sees(world_size: int) -> None:
    assert shuffle.same_for_ranks(1000, seed=5, epochs=3, world_size=world_size)


def places_before_and_after(first: shuffle.Order, second: shuffle.Order) -> np.ndarray:
    place = np.empty(len(second), np.int64)
    place[second] = np.arange(len(second))
    return place[first]


@pytest.mark.skipif(not dali_available(), reason="DALI is not installed")
def test_the_model_of_dalis_reader_moves_pictures_as_far_as_the_reader_does(tmp_path: Path) -> None:
    count, buffer, dali = 2000, 64, importlib.import_module("nvidia.dali")
    files = [tmp_path / str(number) for number in range(count)]
    for file in files:
        file.write_bytes(b"x")

    def two_epochs(initial_fill: int) -> list[shuffle.Order]:
        pipeline: Any = dali.Pipeline(batch_size=100, num_threads=1, device_id=None)
        with pipeline:
            _, numbers = dali.fn.readers.file(
                files=[str(file) for file in files],
                labels=list(range(count)),
                random_shuffle=True,
                initial_fill=initial_fill,
            )
            pipeline.set_outputs(numbers)
        pipeline.build()
        batches = [np.array(pipeline.run()[0].as_array()).ravel() for _ in range(2 * count // 100)]
        return [np.concatenate(batches[: count // 100]), np.concatenate(batches[count // 100 :])]

    once, once_again = two_epochs(initial_fill=1)
    assert np.array_equal(once, once_again)  # all the shuffling between epochs is the buffer's
    real = places_before_and_after(*two_epochs(buffer))
    model = places_before_and_after(*islice(shuffle.dali_reader(count, 0, buffer), 2))
    distances = [np.abs(moved - np.arange(count)).mean() for moved in (real, model)]
    assert distances[0] == pytest.approx(distances[1], rel=0.1)
