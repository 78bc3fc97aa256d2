"""Random numbers as a pure function of (seed, stream, position in the run).

There is no generator state to save. So a resumed run draws what an uninterrupted one would, noise and order are the
same on any number of ranks, and sampling can't disturb training.
"""

from enum import IntEnum
from functools import cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Stream(IntEnum):
    """What numbers are drawn for. A run repeats only while these values stay: never change or reuse one."""

    WEIGHTS = 0
    NOISE = 1
    ORDER = 2
    FLIP = 3
    SAMPLES = 4
    GENERATE = 5
    EVALUATE = 6
    EVALUATE_REAL = 7
    AUGMENT = 8
    NOISE_BY_TABLE = 9
    """A step's noise. Runs that were begun before there was a table go on with NOISE."""


def rng(seed: int, stream: Stream, position: int = 0) -> np.random.Generator:
    """A generator, independent of those of all other seeds, streams and positions.

    Args:
        seed: 0 to 2**63 - 1.
        stream: what the numbers are for.
        position: where in the run, such as the step or the epoch; 0 or more.
    """
    # The seed is always two 32-bit words: SeedSequence concatenates the words of its integers, so a long seed would
    # else equal a short seed with another stream.
    return np.random.default_rng(np.random.SeedSequence((seed & 0xFFFFFFFF, seed >> 32, stream, position)))


def uniform(seed: int, stream: Stream, position: int, count: int, numbers: int) -> Tensor:
    """Uniform numbers in [0, 1): [count, numbers], fp32, on the CPU; the first rows don't depend on `count`.

    They are multiples of 2**-14: so their product with a whole number up to 1,024 is not rounded, and what is chosen by
    it is the same in any arithmetic.
    """
    drawn = rng(seed, stream, position).integers(2**14, size=(count, numbers), dtype=np.int32)
    return torch.from_numpy(drawn.astype(np.float32) / np.float32(2**14))


def latents(seed: int, stream: Stream, position: int, count: int, latent_dim: int) -> Tensor:
    """Standard normal noise [count, latent_dim], fp32, on the CPU; the first rows don't depend on `count`.

    Of Stream.NOISE_BY_TABLE each number is one of `normal_table`: to look it up by sixteen random bits takes 1 to 2 ns,
    to draw it 9, which was most of what the host did beside a step (`benchmarks/test_host_overhead.py`). A step takes
    them from `kernels/noise.py`, where they take half of that.
    """
    if stream is Stream.NOISE_BY_TABLE:
        numbers = count * latent_dim
        bits = rng(seed, stream, position).bit_generator.random_raw(-(-numbers // 4)).view(np.uint16)
        return torch.from_numpy(normal_table().take(bits[:numbers]).reshape(count, latent_dim))
    return torch.from_numpy(rng(seed, stream, position).standard_normal((count, latent_dim), dtype=np.float32))


@cache
def normal_table() -> NDArray[np.float32]:
    """The standard normal distribution as 65,536 equally likely numbers [65536], fp32, rising.

    They are the medians of as many equally likely slices: from -4.32 to 4.32, of mean 0 and variance 1 - 2e-5.
    """
    normal = NormalDist()
    lower = np.array([normal.inv_cdf((slice_ + 0.5) / 2**16) for slice_ in range(2**15)], np.float32)
    table: NDArray[np.float32] = np.concatenate([lower, -lower[::-1]])
    table.flags.writeable = False
    return table
