"""Our order against a uniform shuffle, and whether the statistics would tell if it weren't one."""

import random
from functools import partial

import numpy as np
import pytest

from benchmarks import shuffle

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
