"""Autograd of convolutions whose kernels are our own C++.

A convolution makes a small side from a big one (gather), a transposed convolution makes a big side from a small one
(scatter). Each is the gradient of the other with respect to its input, and both have the same gradient with respect to
the weights. So three kernels suffice for both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastdcgan.kernels import native


@dataclass(frozen=True)
class Kernels:
    """Kernels of one convolution; pictures and weights [O, C, K, K] are channels-last in memory."""

    gather: Callable[[Tensor, Tensor], Tensor]
    """(big_BCHW, weight_OCKK) to small_BOHW."""

    scatter: Callable[[Tensor, Tensor], Tensor]
    """(small_BOHW, weight_OCKK) to big_BCHW."""

    weight_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(big_BCHW, small_BOHW, weight_OCKK) to the gradient [O, C, K, K]. One of the two sides is a gradient."""


def convolution(kernels: Kernels, x: Tensor, weight_OCKK: Tensor, *, transposed: bool) -> Tensor:
    """A convolution by these kernels, or a transposed one; differentiable once."""
    out: Tensor = _Convolution.apply(x, weight_OCKK, kernels, transposed)
    return out


def empty_small_side(big_BCHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    """An uninitialised result of a gather, stride 2, padding 1: [B, O, H/2, W/2], rounded up."""
    B, _, H, W = big_BCHW.shape
    return native.empty_channels_last(big_BCHW, B, len(weight_OCKK), (H + 1) // 2, (W + 1) // 2)


def empty_big_side(small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    """An uninitialised result of a scatter, stride 2, padding 1: [B, C, 2H, 2W], or one less for kernels of 3."""
    B, _, H, W = small_BOHW.shape
    odd = weight_OCKK.shape[2] % 2
    return native.empty_channels_last(small_BOHW, B, weight_OCKK.shape[1], 2 * H - odd, 2 * W - odd)


def empty_gradient(weight_OCKK: Tensor) -> Tensor:
    """In fp32 also where pictures are bf16: the sums are fp32, and the optimizer gets them unrounded."""
    return torch.empty(weight_OCKK.shape, dtype=torch.float32, memory_format=torch.channels_last)


def shape_of(big_BCHW: Tensor, small_BOHW: Tensor) -> native.Shape:
    """The shape of the convolution between two sides, as kernels take it."""
    B, C, H, W = big_BCHW.shape
    return native.Shape(B, C, small_BOHW.shape[1], H, W)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OCKK: Tensor, kernels: Kernels, transposed: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.kernels, ctx.transposed = kernels, transposed
        ctx.save_for_backward(x, weight_OCKK)
        return (kernels.scatter if transposed else kernels.gather)(x, weight_OCKK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight_OCKK = ctx.saved_tensors
        kernels: Kernels = ctx.kernels
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = (kernels.gather if ctx.transposed else kernels.scatter)(grad, weight_OCKK)
        if ctx.needs_input_grad[1]:
            big_BCHW, small_BOHW = (grad, x) if ctx.transposed else (x, grad)
            grad_weight = kernels.weight_gradient(big_BCHW, small_BOHW, weight_OCKK)
        return grad_x, grad_weight, None, None
