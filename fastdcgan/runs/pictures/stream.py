"""Any number of pictures from a generator in the memory of a few: the one way they are made from latents."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastdcgan.gan.architecture import Architecture
from fastdcgan.runs.classes import labels_in_turn
from fastdcgan.runs.pictures.latents import Latents, truncate
from fastdcgan.runs.sampling import CHUNK, generate_uint8, generate_values

BATCH_BYTES = 2**26
"""Of a batch's activations in G's last hidden layer, which are its largest."""

_AHEAD = 2
"""Batches that are made before the work on the one before is done."""

T = TypeVar("T")


def batch_size(arch: Architecture) -> int:
    """How many pictures are made at a time: 64 up to 64x64 at the usual widths, fewer of larger ones."""
    activations = 4 * arch.width * arch.resolution.area // 4
    return max(1, min(CHUNK, BATCH_BYTES // (2 * activations)))  # before and after BatchNorm


def picture_batches(
    generator: nn.Module,
    arch: Architecture,
    latents: Latents,
    *,
    truncation: float | None = None,
    start: int = 0,
    value_range: tuple[float, float] | None = None,
    classes: Sequence[int] = (),
) -> Iterator[NDArray[Any]]:
    """Make the pictures of latents, a batch at a time, in the memory of one batch.

    The generator is in evaluation mode while a batch is made; random state and training mode are left as they were.
    A picture's last bits may depend on the place in its batch. So batches always begin at multiples of `batch_size`:
    what is made in several goes is what is made in one.

    Args:
        generator: the plain module, on any device (`runs.generate.load_generator`).
        arch: its architecture.
        latents: `SeedLatents`, `LatentOfEachSeed` or `LatentsOfFile`.
        truncation: as `truncate`'s limit; None: the latents as they are.
        start: number of the first picture, a multiple of `batch_size(arch)`, or behind the last.
        value_range: give numbers of the range that the data had, of which these were its black and white.
        classes: which ones pictures are of, in turn, by number (`class_numbers`); () for a generator without classes.

    Yields:
        [B, H, W, C], C as the architecture's, with B = `batch_size(arch)` but for the last: uint8 of 0 to 255, or
        float32 with a `value_range`.
    """
    size = batch_size(arch)
    assert start % size == 0 or start == len(latents), (start, size)
    for z_BL in latents.batches(size, start):
        kept_BL = z_BL if truncation is None else truncate(z_BL, truncation)
        labels_B = labels_in_turn(classes, len(z_BL), start)
        if value_range:
            yield generate_values(generator, kept_BL, *value_range, labels_B)
        else:
            yield generate_uint8(generator, kept_BL, labels_B)
        start += len(z_BL)


def in_order(
    batches: Iterable[NDArray[np.uint8]], work: Callable[[int, NDArray[np.uint8]], T], start: int
) -> Iterator[list[T]]:
    """Do `work` on each picture in several threads, while the next batches are made.

    Args:
        batches: uint8 [B, H, W, C].
        work: called with a picture's number and its pixels [H, W, C].
        start: number of the first picture.

    Yields:
        what it returned for the pictures of a batch, batch by batch in order. Raises what it raised.
    """
    pending: deque[list[Future[T]]] = deque()
    number = start
    with ThreadPoolExecutor(_threads(), thread_name_prefix="pictures") as pool:
        try:
            for pictures_NHWC in batches:
                pending.append([pool.submit(work, number + n, picture) for n, picture in enumerate(pictures_NHWC)])
                number += len(pictures_NHWC)
                if len(pending) > _AHEAD:
                    yield _results(pending.popleft())
            while pending:
                yield _results(pending.popleft())
        finally:
            for future in chain.from_iterable(pending):
                future.cancel()


def _results(futures: Sequence[Future[T]]) -> list[T]:
    return [future.result() for future in futures]


def _threads() -> int:
    """Those for arithmetic, which follow the cores that may be used; more than 8 wait for Python's lock."""
    return min(8, torch.get_num_threads())
