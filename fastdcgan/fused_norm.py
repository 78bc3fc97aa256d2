"""BatchNorm and the activation after it as one operation on the CPU: two passes over the pixels each way.

PyTorch makes four passes forward (mean, variance, result, activation) and three back. Memory is what they wait for.
`native/normalise.cpp` says what is computed; this file makes modules of it. Their twin is `nn.BatchNorm2d` with
`nn.ReLU` or `nn.LeakyReLU`. Where BatchNorm is synchronised, each way is two kernels with the ranks' sum between them.

Only training takes this path. In evaluation the statistics are constants, and PyTorch's own operations run as before.
"""

import ctypes
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan import native
from fastdcgan.sync_norm import SyncBatchNorm2d, over_ranks

LIBRARY = "normalise"

_LANES = 16
"""Channels that the kernels take at a time."""


def available(precision: torch.dtype = torch.float32) -> bool:
    """Whether this machine can build and run the kernels for a precision."""
    return native.offers(LIBRARY, "forward", precision)


def install(network: nn.Module) -> int:
    """Let each BatchNorm of a network apply the ReLU or LeakyReLU after it; parameters, buffers and names stay.

    Returns:
        how many do.
    """
    pairs = [
        (norm, activation)
        for module in network.modules()
        if isinstance(module, nn.Sequential)
        for norm, activation in pairwise(module)
        if fits(norm, activation)
    ]
    for norm, activation in pairs:
        norm.__class__ = FusedBatchNorm2d
        cast(FusedBatchNorm2d, norm).slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
        activation.__class__ = AppliedBefore
    return len(pairs)


def fits(norm: nn.Module, activation: nn.Module) -> bool:
    """Whether the kernels can do the work of two neighbours."""
    return (
        type(norm) in (nn.BatchNorm2d, SyncBatchNorm2d)
        and isinstance(norm, nn.BatchNorm2d)
        and type(activation) in (nn.ReLU, nn.LeakyReLU)
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.num_features % _LANES == 0
    )


class AppliedBefore(nn.Identity):
    """In an activation's place: the BatchNorm before it has applied it."""


class FusedBatchNorm2d(SyncBatchNorm2d):
    """BatchNorm, synchronised or not, and activation."""

    slope: float
    """Of the activation below zero."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        if not (self.training and self._suits(x_BCHW)):
            y_BCHW = super().forward(x_BCHW)
            return F.leaky_relu(y_BCHW, self.slope, inplace=True) if self.slope else F.relu(y_BCHW, inplace=True)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        out_BCHW: Tensor = _Normalise.apply(x_BCHW, self.weight, self.bias, self)
        return out_BCHW

    def _suits(self, x_BCHW: Tensor) -> bool:
        return (
            x_BCHW.device.type == "cpu"
            and self.weight.dtype == torch.float32
            and available(x_BCHW.dtype)
            and x_BCHW.dim() == 4
            and x_BCHW.shape[1] == self.num_features
            and x_BCHW.numel() * self.ranks > self.num_features  # of one pixel there is no variance: PyTorch says so
        )


class _Normalise(torch.autograd.Function):
    """By the batch's statistics; updates the running ones."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, norm: FusedBatchNorm2d) -> Tensor:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        out_BCHW = torch.empty_like(x_BCHW)
        mean_C, inverse_C = torch.empty_like(weight_C), torch.empty_like(weight_C)
        ctx.setting = _Setting.of(x_BCHW, norm)
        ctx.ranks = norm.ranks
        rest = weight_C, bias_C, norm.running_mean, norm.running_var, out_BCHW, mean_C, inverse_C, ctx.setting
        if ctx.ranks == 1:
            _kernel("forward", x_BCHW, *rest)
        else:
            sums = torch.empty(2 * norm.num_features, dtype=torch.float64)
            _kernel("forward_sums", x_BCHW, sums, ctx.setting)
            _kernel("forward_from", x_BCHW, over_ranks(sums), *rest)
        ctx.save_for_backward(x_BCHW, weight_C, bias_C, mean_C, inverse_C)
        return out_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x_BCHW, weight_C, bias_C, mean_C, inverse_C = ctx.saved_tensors
        grad_BCHW = grad_BCHW.to(x_BCHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_x_BCHW = torch.empty_like(x_BCHW)
        grad_weight_C = torch.empty_like(weight_C) if ctx.needs_input_grad[1] else None
        grad_bias_C = torch.empty_like(bias_C) if ctx.needs_input_grad[2] else None
        known = weight_C, bias_C, mean_C, inverse_C
        if ctx.ranks == 1:
            _kernel("backward", x_BCHW, grad_BCHW, *known, grad_x_BCHW, grad_weight_C, grad_bias_C, ctx.setting)
        else:
            sums = torch.empty(2 * weight_C.numel(), dtype=torch.float64)
            _kernel("backward_sums", x_BCHW, grad_BCHW, *known, sums, grad_weight_C, grad_bias_C, ctx.setting)
            _kernel("backward_from", x_BCHW, grad_BCHW, over_ranks(sums), *known, grad_x_BCHW, ctx.setting)
        return grad_x_BCHW, grad_weight_C, grad_bias_C, None


def _kernel(name: str, x_BCHW: Tensor, *rest: object) -> None:
    native.kernel(LIBRARY, name, x_BCHW.dtype)(x_BCHW, *rest)


class _Setting(ctypes.Structure):
    """As the kernels expect it."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("C", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("momentum", ctypes.c_double),
        ("epsilon", ctypes.c_double),
        ("slope", ctypes.c_float),
    )

    @classmethod
    def of(cls, x_BCHW: Tensor, norm: FusedBatchNorm2d) -> "_Setting":
        rows = x_BCHW.numel() // norm.num_features
        return cls(rows, norm.num_features, rows * norm.ranks, norm.momentum, norm.eps, norm.slope)
