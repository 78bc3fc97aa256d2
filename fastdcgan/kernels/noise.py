"""A step's noise by a kernel: the numbers of `gan.randomness.latents`, bit for bit."""

from functools import cache

import torch
from torch import Tensor

from fastdcgan.gan import randomness
from fastdcgan.gan.randomness import Stream, normal_table
from fastdcgan.kernels import native


def available() -> bool:
    """Whether this machine can build and run the kernel."""
    return native.has_kernel("noise", torch.float32)


def latents(seed: int, stream: Stream, position: int, count: int, latent_dim: int) -> Tensor:
    """See `gan.randomness.latents`. Numbers that are not looked up in a table are drawn there."""
    if stream is not Stream.NOISE_BY_TABLE or not available():
        return randomness.latents(seed, stream, position, count, latent_dim)
    z_BL = torch.empty(count, latent_dim)
    native.kernel("noise", torch.float32)(seed, stream, position, _table(), z_BL.numel(), z_BL)
    return z_BL


@cache
def _table() -> Tensor:
    return torch.from_numpy(normal_table().copy())
