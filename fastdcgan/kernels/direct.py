"""Strided convolutions by the matrix unit (AMX) that some processors have for bf16, as they are defined.

It multiplies so fast that Winograd's algorithm (`winograd.py`), whose layers these are, takes longer for its transforms
than it saves. `native/direct.cpp` explains how; this file calls it.
"""

import torch
from torch import Tensor

from fastdcgan.kernels import native
from fastdcgan.kernels.convolution import Kernels, empty_big_side, empty_gradient, empty_small_side, shape_of

_FEWEST_PICTURES = 2
"""Fewer than 16 take as long as 16: for one Winograd's kernels, whose products are ten times slower, catch up."""


def is_faster(pictures: Tensor) -> bool:
    """Whether a batch [B, C, H, W] on the CPU takes less time than by Winograd's algorithm."""
    return native.has_kernel("direct_gather", pictures.dtype) and len(pictures) >= _FEWEST_PICTURES


def _gather(big_BCHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    small_BOHW = empty_small_side(big_BCHW, weight_OCKK)
    kernel = native.kernel("direct_gather", big_BCHW.dtype)
    kernel(big_BCHW, _channels_last(weight_OCKK), small_BOHW, shape_of(big_BCHW, small_BOHW))
    return small_BOHW


def _scatter(small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    big_BCHW = empty_big_side(small_BOHW, weight_OCKK)
    kernel = native.kernel("direct_scatter", small_BOHW.dtype)
    kernel(small_BOHW, _channels_last(weight_OCKK), big_BCHW, shape_of(big_BCHW, small_BOHW))
    return big_BCHW


def _weight_gradient(big_BCHW: Tensor, small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    gradient_OCKK = empty_gradient(weight_OCKK)
    kernel = native.kernel("direct_weight_gradient", big_BCHW.dtype)
    kernel(big_BCHW, small_BOHW, gradient_OCKK, shape_of(big_BCHW, small_BOHW))
    return gradient_OCKK


def _channels_last(weight_OCKK: Tensor) -> Tensor:
    return weight_OCKK.detach().contiguous(memory_format=torch.channels_last)


KERNELS = Kernels(_gather, _scatter, _weight_gradient)
