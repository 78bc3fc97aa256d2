"""Every random number of a run as a function of (seed, what it is for, where in the run it is used).

Nothing is drawn from a stream that has a position to lose. So a resumed run needs no generator state, noise and order
are the same on any number of ranks, and sampling can't disturb training.
"""

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """What numbers are drawn for. The values are part of what makes a run repeatable: never reuse one."""

    WEIGHTS = 0
    NOISE = 1
    ORDER = 2
    FLIP = 3
    SAMPLES = 4
    GENERATE = 5


def rng(seed: int, stream: Stream, position: int = 0) -> np.random.Generator:
    """A generator for one use at one place, independent of those of all other seeds, streams and positions."""
    # Two words for the seed, always: SeedSequence joins the words of its integers, so a long seed with stream 1 would
    # else be a short seed with another stream.
    return np.random.default_rng(np.random.SeedSequence((seed & 0xFFFFFFFF, seed >> 32, stream, position)))


def latents(seed: int, stream: Stream, position: int, count: int, latent_dim: int) -> Tensor:
    """Standard normal noise [count, latent_dim], fp32, on the CPU; the first rows don't depend on `count`."""
    return torch.from_numpy(rng(seed, stream, position).standard_normal((count, latent_dim), dtype=np.float32))
