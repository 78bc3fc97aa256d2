"""Strided convolutions by the matrix unit (AMX) that some processors have for bf16, as they are defined.

It multiplies so fast that Winograd's algorithm (`winograd.py`), whose layers these are, takes longer for its transforms
than it saves. `native/direct.cpp` explains how; this file calls it.
"""

import torch
from torch import Tensor

from fastdcgan.kernels import native
from fastdcgan.kernels.convolution import Kernels

_FEWEST_PICTURES = 4
"""Fewer than 32 take as long as 32: with so few Winograd's kernels, whose products are ten times slower, catch up."""


def is_faster(pictures: Tensor) -> bool:
    """Whether a batch [B, C, H, W] on the CPU takes less time than by Winograd's algorithm."""
    return native.has_kernel("direct_gather", pictures.dtype) and len(pictures) >= _FEWEST_PICTURES


def _gather(big_BCHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    B, C, H, W = big_BCHW.shape
    maps = weight_OCKK.shape[0]
    small_BOHW = native.empty_channels_last(big_BCHW, B, maps, (H + 1) // 2, (W + 1) // 2)
    kernel = native.kernel("direct_gather", big_BCHW.dtype)
    kernel(big_BCHW, _channels_last(weight_OCKK), small_BOHW, native.Shape(B, C, maps, H, W))
    return small_BOHW


def _scatter(small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    B, maps, H, W = small_BOHW.shape
    C = weight_OCKK.shape[1]
    odd = weight_OCKK.shape[2] % 2
    height, width = 2 * H - odd, 2 * W - odd
    big_BCHW = native.empty_channels_last(small_BOHW, B, C, height, width)
    kernel = native.kernel("direct_scatter", small_BOHW.dtype)
    kernel(small_BOHW, _channels_last(weight_OCKK), big_BCHW, native.Shape(B, C, maps, height, width))
    return big_BCHW


def _weight_gradient(big_BCHW: Tensor, small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    B, C, H, W = big_BCHW.shape
    gradient_OCKK = torch.empty(weight_OCKK.shape, dtype=torch.float32, memory_format=torch.channels_last)
    kernel = native.kernel("direct_weight_gradient", big_BCHW.dtype)
    kernel(big_BCHW, small_BOHW, gradient_OCKK, native.Shape(B, C, len(weight_OCKK), H, W))
    return gradient_OCKK


def _channels_last(weight_OCKK: Tensor) -> Tensor:
    return weight_OCKK.detach().contiguous(memory_format=torch.channels_last)


KERNELS = Kernels(_gather, _scatter, _weight_gradient)
