"""Which pictures a rank sees at a step: a function of (seed, step), the same for any number of ranks.

An epoch is one shuffle of all pictures; those that don't fill a batch at its end are left out of it. Each rank takes
its slice of the global batch, so four ranks together see what one would have seen.
"""

from collections.abc import Iterator

import numpy as np

from fastdcgan.gan.randomness import Stream, rng


def steps_per_epoch(count: int, global_batch: int) -> int:
    """Full batches in one pass over `count` pictures."""
    return count // global_batch


def rank_slice(global_batch: int, rank: int, world_size: int) -> slice:
    """The part of a global batch that belongs to a rank. `global_batch` must be a multiple of `world_size`."""
    assert global_batch % world_size == 0, (global_batch, world_size)
    share = global_batch // world_size
    return slice(rank * share, (rank + 1) * share)


def rank_share(global_batch: int, rank: int, world_size: int, parts: int = 1) -> np.ndarray:
    """A rank's positions in a global batch that is accumulated in `parts`, as `rank_rows` has them: int [B]."""
    return rank_rows(np.arange(global_batch), rank, world_size, parts)


def rank_rows(rows_B: np.ndarray, rank: int, world_size: int, parts: int = 1) -> np.ndarray:
    """A rank's rows of a global batch that is accumulated in `parts`: its slice of each part; a view where it can be.

    So a part is made of the same pictures however many ranks there are.
    """
    assert len(rows_B) % parts == 0, (len(rows_B), parts)
    part, shape = len(rows_B) // parts, rows_B.shape[1:]
    own = rows_B.reshape(parts, part, *shape)[:, rank_slice(part, rank, world_size)]
    return own.reshape(own.shape[0] * own.shape[1], *shape)


def batch_numbers(
    *, seed: int, count: int, global_batch: int, rank: int, world_size: int, start_step: int, parts: int = 1
) -> Iterator[list[int]]:
    """Yield a rank's picture numbers of each batch, from step `start_step` (counted from 0) on, endlessly."""
    per_epoch = steps_per_epoch(count, global_batch)
    assert per_epoch > 0, (count, global_batch)
    share = rank_share(global_batch, rank, world_size, parts)
    epoch, first = divmod(start_step, per_epoch)
    dtype = np.int32 if count <= np.iinfo(np.int32).max else np.int64  # the same order in half the memory
    while True:
        order = np.arange(count, dtype=dtype)
        rng(seed, Stream.ORDER, epoch).shuffle(order)
        for position in range(first, per_epoch):
            yield order[position * global_batch : (position + 1) * global_batch][share].tolist()
        epoch, first = epoch + 1, 0


def flip_mask(*, seed: int, step: int, global_batch: int, rank: int, world_size: int, parts: int = 1) -> np.ndarray:
    """Which pictures of a rank's share to mirror at a step: bool [B], each true with probability 1/2."""
    share = rank_share(global_batch, rank, world_size, parts)
    return rng(seed, Stream.FLIP, step).random(global_batch).take(share) < 0.5
