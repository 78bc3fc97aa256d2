from collections.abc import Iterable
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdcgan.data.order import batch_numbers, flip_mask, rank_share, rank_slice, steps_per_epoch


def batches(
    steps: int, *, seed: int = 0, count: int = 23, batch: int = 4, rank: int = 0, world: int = 1, start: int = 0
) -> list[list[int]]:
    numbers = batch_numbers(seed=seed, count=count, global_batch=batch, rank=rank, world_size=world, start_step=start)
    return list(islice(numbers, steps))


def joined(batches: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


@pytest.mark.parametrize(("count", "batch", "steps"), [(8000, 32, 250), (23, 4, 5), (4, 4, 1), (3, 4, 0), (0, 4, 0)])
def test_an_epoch_is_whole_batches(count: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(count, batch) == steps


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(1, 60), st.integers(1, 12), st.integers(0, 4))
def test_an_epoch_visits_each_picture_at_most_once(seed: int, count: int, batch: int, epoch: int) -> None:
    batch = min(batch, count)
    per_epoch = count // batch
    epoch_batches = batches(per_epoch, seed=seed, count=count, batch=batch, start=epoch * per_epoch)
    assert all(len(numbers) == batch for numbers in epoch_batches)
    seen = joined(epoch_batches)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(count))


def test_what_an_epoch_leaves_out_is_not_always_the_same() -> None:
    left_out = [set(range(23)) - set(joined(batches(5, start=5 * epoch))) for epoch in range(20)]
    assert all(len(rest) == 3 for rest in left_out)
    assert set.union(*left_out) > left_out[0]


def test_epochs_and_seeds_differ() -> None:
    epochs = [batches(5, start=5 * epoch, count=20) for epoch in range(4)] + [batches(5, seed=1, count=20)]
    flat = [tuple(joined(epoch)) for epoch in epochs]
    assert len(set(flat)) == len(flat)
    assert all(list(epoch) != sorted(epoch) for epoch in flat), "pictures come shuffled"


@settings(deadline=None)
@given(st.integers(0, 30), st.sampled_from([1, 2, 4]), st.data())
def test_a_start_at_any_step_is_the_tail_of_the_uninterrupted_run(start: int, world: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, world - 1))
    whole = batches(40, rank=rank, world=world)
    assert batches(40 - start, rank=rank, world=world, start=start) == whole[start:]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_slices_of_all_ranks_make_up_the_batch_of_one(world: int) -> None:
    ranks = [batches(12, batch=8, rank=rank, world=world) for rank in range(world)]
    assert [joined(parts) for parts in zip(*ranks, strict=True)] == batches(12, batch=8)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_flips_of_all_ranks_make_up_those_of_one(world: int) -> None:
    for step in range(5):
        whole = flip_mask(seed=3, step=step, global_batch=8, rank=0, world_size=1)
        parts = [flip_mask(seed=3, step=step, global_batch=8, rank=rank, world_size=world) for rank in range(world)]
        assert whole.shape == (8,)
        assert np.array_equal(np.concatenate(parts), whole)


def test_flips_are_a_fair_coin_and_a_function_of_seed_and_step() -> None:
    def at(seed: int, step: int) -> np.ndarray:
        return flip_mask(seed=seed, step=step, global_batch=1000, rank=0, world_size=1)

    assert np.array_equal(at(0, 5), at(0, 5))
    assert at(0, 5).dtype == bool
    for other in (at(0, 6), at(1, 5)):
        assert 400 < (at(0, 5) == other).sum() < 600, "independent coins agree half of the time"
    assert abs(np.mean([at(0, step).mean() for step in range(20)]) - 0.5) < 5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize("world", [1, 2, 4])
def test_rank_slices_cut_a_batch_into_equal_parts(world: int) -> None:
    parts = [list(range(8))[rank_slice(8, rank, world)] for rank in range(world)]
    assert joined(parts) == list(range(8))
    assert {len(part) for part in parts} == {8 // world}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_part_has_the_same_pictures_on_any_number_of_ranks(world: int) -> None:
    shares = [rank_share(16, rank, world, parts=2).reshape(2, -1) for rank in range(world)]
    for part, places in enumerate((range(8), range(8, 16))):
        assert np.concatenate([share[part] for share in shares]).tolist() == list(places)
    assert rank_share(16, 1, 2).tolist() == list(range(16))[rank_slice(16, 1, 2)]
