from collections.abc import Generator, Iterable, Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdcgan.data.order import flip_mask
from fastdcgan.data.source import Skipped
from fastdcgan.data.stream import Batching, label_batches, mirror, normalise, real_batches

CPU = torch.device("cpu")


class Memory:
    """A source of random pictures that remembers what was asked of it."""

    description = origin = fingerprint = "in memory"
    skipped: Sequence[Skipped] = ()

    def __init__(self, count: int = 20, side: int = 6, channels: int = 3) -> None:
        rng = torch.Generator().manual_seed(0)
        self.pictures = torch.randint(0, 256, (count, side, side, channels), generator=rng, dtype=torch.uint8)
        self.read_so_far: list[list[int]] = []
        self.open = 0

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        self.open += 1
        try:
            for numbers in batches:
                self.read_so_far.append(list(numbers))
                yield self.pictures[list(numbers)]
        finally:
            self.open -= 1


def take(steps: int, batching: Batching, start: int = 0) -> list[Tensor]:
    batches = real_batches(Memory(), batching, CPU, start)
    taken = list(islice(batches, steps))
    batches.close()
    return taken


def test_normalise_maps_the_levels_onto_minus_one_to_one() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    found = normalise(levels)
    assert (found.dtype, found.shape) == (torch.float32, (1, 1, 16, 16))
    values = found.flatten()
    assert (values[0].item(), values[255].item()) == (-1.0, 1.0)
    torch.testing.assert_close(values, torch.arange(256) / 127.5 - 1)
    assert levels.flatten().tolist() == list(range(256)), "the source's own picture is left alone"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_normalise_keeps_the_memory_layout(channels: int) -> None:
    pictures_BHWC = torch.randint(0, 256, (2, 5, 7, channels), dtype=torch.uint8)
    found = normalise(pictures_BHWC)
    assert found.shape == (2, channels, 5, 7)
    assert found.is_contiguous(memory_format=torch.channels_last)
    # In memory the numbers still stand as in the source: pixel by pixel, channels together.
    in_memory = found.as_strided((found.numel(),), (1,))
    torch.testing.assert_close(in_memory, pictures_BHWC.flatten() / 127.5 - 1)


def test_mirror_flips_the_given_pictures_left_to_right() -> None:
    pictures_BHWC = torch.arange(2 * 2 * 3 * 2, dtype=torch.uint8).reshape(2, 2, 3, 2)
    found = mirror(pictures_BHWC, torch.tensor([0]))
    assert torch.equal(found[1], pictures_BHWC[1])
    for column in range(3):
        assert torch.equal(found[0, :, column], pictures_BHWC[0, :, 2 - column])
    both = torch.tensor([1, 0])
    assert torch.equal(mirror(mirror(pictures_BHWC, both), both), pictures_BHWC)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("contiguous", [True, False])
def test_mirror_on_the_cpu_is_as_on_a_device_and_leaves_the_source_alone(channels: int, contiguous: bool) -> None:
    pictures_BHWC = torch.randint(0, 256, (9, 5, 7, channels), dtype=torch.uint8)
    if not contiguous:
        pictures_BHWC = pictures_BHWC.flip(2)[:, :, 1:].permute(0, 2, 1, 3)
    before = pictures_BHWC.clone()
    for chosen in ([], [3], [8, 0, 4]):
        numbers_M = torch.tensor(chosen, dtype=torch.int64)
        as_on_a_device = before.index_copy(0, numbers_M, before.index_select(0, numbers_M).flip(2))
        assert torch.equal(mirror(pictures_BHWC, numbers_M), as_on_a_device)
    assert torch.equal(pictures_BHWC, before)


def test_batches_are_the_pictures_of_the_order() -> None:
    source = Memory()
    batches = real_batches(source, Batching(seed=1, global_batch=4), CPU)
    for step in range(7):
        real_BCHW = next(batches)
        assert torch.equal(real_BCHW, normalise(source.pictures[source.read_so_far[step]]))
        assert real_BCHW.is_contiguous(memory_format=torch.channels_last)
    batches.close()


def test_flipped_batches_are_mirrored_by_the_flip_mask() -> None:
    plain = take(6, Batching(seed=1, global_batch=4), start=3)
    flipped = take(6, Batching(seed=1, global_batch=4, flip=True), start=3)
    for step, (a, b) in enumerate(zip(plain, flipped, strict=True), start=3):
        coins = flip_mask(seed=1, step=step, global_batch=4, rank=0, world_size=1)
        for picture, other, coin in zip(a, b, coins, strict=True):
            assert torch.equal(other, picture.flip(-1) if coin else picture)
        assert b.is_contiguous(memory_format=torch.channels_last)
    assert any(not torch.equal(a, b) for a, b in zip(plain, flipped, strict=True))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("start", [1, 4, 5, 11])
def test_a_start_at_any_step_is_the_tail_of_the_uninterrupted_run(start: int, flip: bool) -> None:
    batching = Batching(seed=2, global_batch=4, flip=flip)
    whole, tail = take(14, batching), take(14 - start, batching, start)
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], tail, strict=True))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_all_ranks_together_see_what_one_would_see(world: int) -> None:
    whole = take(8, Batching(seed=2, global_batch=8, flip=True))
    ranks = [take(8, Batching(seed=2, global_batch=8, rank=rank, world_size=world, flip=True)) for rank in range(world)]
    for step, one in enumerate(whole):
        assert torch.equal(torch.cat([batches[step] for batches in ranks]), one)


def test_closing_closes_the_source() -> None:
    source = Memory()
    batches = real_batches(source, Batching(seed=0, global_batch=4), CPU)
    next(batches)
    assert source.open == 1
    batches.close()
    assert source.open == 0


def test_a_source_that_fails_is_closed_and_says_why() -> None:
    class Vanished(Memory):
        def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
            for number, pictures in enumerate(super().read(batches)):
                if number == 1:
                    raise ValueError("photo.jpg vanished")
                yield pictures

    batches = real_batches(Vanished(), Batching(seed=0, global_batch=4), CPU)
    next(batches)
    with pytest.raises(ValueError, match=r"photo\.jpg vanished"):
        next(batches)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize(("rank", "ranks", "parts"), [(0, 1, 1), (1, 2, 1), (0, 2, 2)])
def test_labels_are_those_of_the_pictures(rank: int, ranks: int, parts: int, start: int) -> None:
    """Over several epochs, on any rank, from any step."""
    source = Memory(count=21)
    labels_N = np.arange(21) % 5
    for number, label in enumerate(labels_N):
        source.pictures[number] = int(label) * 51
    batching = Batching(seed=3, global_batch=4, rank=rank, world_size=ranks, parts=parts, flip=True)
    pictures, labels = real_batches(source, batching, CPU, start), label_batches(labels_N, batching, CPU, start)
    for real_BCHW, labels_B in islice(zip(pictures, labels, strict=True), 13):
        assert labels_B.dtype == torch.int64
        assert labels_B.tolist() == ((real_BCHW[:, 0, 0, 0] + 1) * 127.5 / 51).round().long().tolist()
