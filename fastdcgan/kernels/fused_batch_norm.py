"""Fused BatchNorm and ReLU or LeakyReLU on the CPU: two passes over the pixels forward, two backward.

PyTorch makes four passes forward (mean, variance, result, activation) and three backward, and memory bandwidth bounds
them. `native/normalise.cpp` has the formulas; this file makes modules of it. They compute what `nn.BatchNorm2d` and
`nn.ReLU` or `nn.LeakyReLU` compute. Synchronised, each pass is two kernels with an all-reduce between them.

In evaluation the statistics are constants, and PyTorch's own operations run.
"""

import ctypes
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan.kernels import native
from fastdcgan.kernels.all_reduce import all_reduce_sum
from fastdcgan.kernels.sync_batch_norm import SyncBatchNorm2d

_LANES = 16
"""Channels that the kernels take at a time."""


def available(precision: torch.dtype = torch.float32) -> bool:
    """Whether this machine can build and run the kernels for a precision."""
    return native.has_kernel("normalise_forward", precision)


def install(network: nn.Module) -> int:
    """Fuse each BatchNorm of a network with the ReLU or LeakyReLU after it; parameters, buffers and names stay.

    Returns:
        how many pairs were fused.
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
        activation.__class__ = FusedActivation
    return len(pairs)


def fits(norm: nn.Module, activation: nn.Module) -> bool:
    """Whether the kernels can replace two neighbouring layers."""
    return (
        type(norm) in (nn.BatchNorm2d, SyncBatchNorm2d)
        and isinstance(norm, nn.BatchNorm2d)
        and type(activation) in (nn.ReLU, nn.LeakyReLU)
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.num_features % _LANES == 0
    )


class FusedActivation(nn.Identity):
    """In the place of an activation that the BatchNorm before it applies."""


class FusedBatchNorm2d(SyncBatchNorm2d):
    """BatchNorm, synchronised or not, and ReLU or LeakyReLU."""

    slope: float
    """Of the activation below zero; 0 for ReLU."""

    def forward(self, x_BCHW: Tensor, batches: int = 1) -> Tensor:
        """[B, C, H, W] to the same. `x_BCHW` is this rank's part of `batches` concatenated batches."""
        if not (self.training and self._kernel_fits(x_BCHW, batches)):
            y_BCHW = super().forward(x_BCHW, batches)
            return F.leaky_relu(y_BCHW, self.slope, inplace=True) if self.slope else F.relu(y_BCHW, inplace=True)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(batches)
        out_BCHW: Tensor = _FusedBatchNorm.apply(x_BCHW, self.weight, self.bias, self, batches)
        return out_BCHW

    def _kernel_fits(self, x_BCHW: Tensor, batches: int) -> bool:
        return (
            x_BCHW.device.type == "cpu"
            and self.weight.dtype == torch.float32
            and available(x_BCHW.dtype)
            and x_BCHW.dim() == 4
            and x_BCHW.shape[1] == self.num_features
            and x_BCHW.numel() * self.ranks > self.num_features * batches  # PyTorch raises for a single pixel
        )


class _FusedBatchNorm(torch.autograd.Function):
    """Training mode: normalises by the batch's statistics and updates the running ones."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, norm: FusedBatchNorm2d, batches: int
    ) -> Tensor:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        out_BCHW = torch.empty_like(x_BCHW)
        mean_NC, invstd_NC = (torch.empty(batches, norm.num_features) for _ in range(2))
        setting = ctx.setting = _Setting.of(x_BCHW, norm, batches)
        ctx.ranks = norm.ranks

        results = weight_C, bias_C, norm.running_mean, norm.running_var, out_BCHW, mean_NC, invstd_NC
        if ctx.ranks == 1:
            _kernel("forward", x_BCHW, *results, setting)
        else:
            sums_N2C = torch.empty(batches, 2 * norm.num_features, dtype=torch.float64)
            _kernel("forward_sums", x_BCHW, sums_N2C, setting)
            _kernel("forward_from", x_BCHW, all_reduce_sum(sums_N2C), *results, setting)
        ctx.save_for_backward(x_BCHW, weight_C, bias_C, mean_NC, invstd_NC)
        return out_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x_BCHW, *parameters = ctx.saved_tensors
        weight_C, _, mean_NC, _ = parameters
        grad_BCHW = grad_BCHW.to(x_BCHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_x_BCHW = torch.empty_like(x_BCHW)
        grad_weight_C, grad_bias_C = own_gradients = [
            torch.empty_like(weight_C) if needed else None for needed in ctx.needs_input_grad[1:3]
        ]
        if ctx.ranks == 1:
            _kernel("backward", x_BCHW, grad_BCHW, *parameters, grad_x_BCHW, *own_gradients, ctx.setting)
        else:
            sums_N2C = torch.empty(len(mean_NC), 2 * len(weight_C), dtype=torch.float64)
            _kernel("backward_sums", x_BCHW, grad_BCHW, *parameters, sums_N2C, *own_gradients, ctx.setting)
            sums_N2C = all_reduce_sum(sums_N2C)
            _kernel("backward_from", x_BCHW, grad_BCHW, sums_N2C, *parameters, grad_x_BCHW, ctx.setting)
        return grad_x_BCHW, grad_weight_C, grad_bias_C, None, None


def _kernel(name: str, x_BCHW: Tensor, *rest: object) -> None:
    native.kernel(f"normalise_{name}", x_BCHW.dtype)(x_BCHW, *rest)


class _Setting(ctypes.Structure):
    """`Setting` of `native/normalise.cpp`."""

    _fields_ = (
        ("batches", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("C", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("momentum", ctypes.c_double),
        ("epsilon", ctypes.c_double),
        ("slope", ctypes.c_float),
    )

    @classmethod
    def of(cls, x_BCHW: Tensor, norm: FusedBatchNorm2d, batches: int) -> "_Setting":
        rows = x_BCHW.numel() // norm.num_features // batches
        return cls(batches, rows, norm.num_features, rows * norm.ranks, norm.momentum, norm.eps, norm.slope)
