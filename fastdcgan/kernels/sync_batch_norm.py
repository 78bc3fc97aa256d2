"""Synchronised BatchNorm: normalises by the statistics of the global batch, on the CPU and on GPUs.

Each rank holds a part of each batch. Normalised by its own statistics alone, results would depend on the number of
ranks. `nn.SyncBatchNorm` is for CUDA only and breaks torch.compile's graph; this is made of plain operators and a
functional collective, which trace. It computes what `nn.BatchNorm2d` computes on the whole batch.

Ranks add up sum(x) and sum(x^2) of each channel in the forward pass, sum(dy) and sum(dy (x - mean)) in the backward
pass: one all-reduce each. Several batches that are normalised each by itself (D's real and fake pictures) share it.

The sums are fp64, each computed from a rank's own mean and the squares about it, so there is no cancellation. The
gradients of scale and shift are each rank's own, and averaged with all other gradients.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan.kernels.all_reduce import all_reduce_sum
from fastdcgan.kernels.batch_norm import (
    input_gradient_coefficients,
    normalise_each,
    statistics,
    update_running_statistics,
)

_PIXELS = (1, 3, 4)
"""The dimensions of [N, B, C, H, W] that a channel's sum is over."""


def install(network: nn.Module, ranks: int) -> int:
    """Let a network's BatchNorms normalise over the batches of all ranks; parameters, buffers and names stay.

    Must come before `fused_batch_norm.install`, and before the network is compiled.

    Args:
        network: changed in place.
        ranks: size of the default process group; each rank has an equal part of the batch. 1 changes nothing.

    Returns:
        how many BatchNorms are synchronised.
    """
    if ranks == 1:
        return 0
    norms = [module for module in network.modules() if type(module) is nn.BatchNorm2d]
    for norm in norms:
        norm.__class__ = SyncBatchNorm2d
        cast(SyncBatchNorm2d, norm).ranks = ranks
    return len(norms)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks, in training. In evaluation it is `nn.BatchNorm2d`."""

    ranks: int = 1
    """Among which a batch is divided; 1 is `nn.BatchNorm2d`."""

    def forward(self, x_BCHW: Tensor, batches: int = 1) -> Tensor:
        """[B, C, H, W] to the same. `x_BCHW` is this rank's part of `batches` concatenated batches."""
        if not self.training or self.ranks == 1:
            return normalise_each(super().forward, x_BCHW, batches)
        out_BCHW, mean_NC, variance_NC = _SyncBatchNorm.apply(
            x_BCHW, self.weight, self.bias, self.eps, self.ranks, batches
        )
        count = x_BCHW.numel() // self.num_features // batches * self.ranks
        update_running_statistics(self, mean_NC, variance_NC, count)
        return cast(Tensor, out_BCHW)


class _SyncBatchNorm(torch.autograd.Function):
    """Returns the result, and each global batch's mean and biased variance [N, C]."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, epsilon: float, ranks: int, batches: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide_NBCHW = x_BCHW.to(weight_C.dtype).unflatten(0, (batches, -1))
        own_count = wide_NBCHW[0].numel() // x_BCHW.shape[1]
        shift_NC = wide_NBCHW.mean(_PIXELS)  # rounded, which is why the sum about it is not zero
        centred_NBCHW = wide_NBCHW - _broadcast(shift_NC)
        sum_NC, squares_NC = centred_NBCHW.sum(_PIXELS).double(), centred_NBCHW.square().sum(_PIXELS).double()
        shift_NC = shift_NC.double()
        squares_NC = squares_NC + 2 * shift_NC * sum_NC + own_count * shift_NC.square()
        sum_NC = sum_NC + own_count * shift_NC
        ctx.count = own_count * ranks
        mean_NC, variance_NC, invstd_NC = statistics(
            all_reduce_sum(torch.stack((sum_NC, squares_NC))), ctx.count, epsilon, weight_C.dtype
        )
        out = [
            F.batch_norm(batch_BCHW, mean_C, variance_C, weight_C, bias_C, training=False, eps=epsilon)
            for batch_BCHW, mean_C, variance_C in zip(x_BCHW.chunk(batches), mean_NC, variance_NC, strict=True)
        ]
        ctx.save_for_backward(x_BCHW, weight_C, mean_NC, invstd_NC)
        ctx.mark_non_differentiable(mean_NC, variance_NC)
        return out[0] if batches == 1 else torch.cat(out), mean_NC, variance_NC

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_BCHW: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        x_BCHW, weight_C, mean_NC, invstd_NC = ctx.saved_tensors
        batches = len(mean_NC)
        centred_NBCHW = x_BCHW.to(weight_C.dtype).unflatten(0, (batches, -1)) - _broadcast(mean_NC)
        wide_NBCHW = grad_BCHW.to(weight_C.dtype).unflatten(0, (batches, -1))
        own_dy_NC = wide_NBCHW.sum(_PIXELS)
        own_dy_xmu_NC = (wide_NBCHW * centred_NBCHW).sum(_PIXELS)
        sums_2NC = all_reduce_sum(torch.stack((own_dy_NC, own_dy_xmu_NC)).double())

        a_NC, b_NC = input_gradient_coefficients(sums_2NC, ctx.count, invstd_NC)
        grad_x_NBCHW = wide_NBCHW - _broadcast(a_NC) - centred_NBCHW * _broadcast(b_NC)
        grad_x_BCHW = (grad_x_NBCHW * _broadcast(weight_C * invstd_NC)).to(x_BCHW.dtype).flatten(0, 1)
        return grad_x_BCHW, (own_dy_xmu_NC * invstd_NC).sum(0), own_dy_NC.sum(0), None, None, None


def _broadcast(channels_NC: Tensor) -> Tensor:
    """[N, C] to [N, 1, C, 1, 1]."""
    return channels_NC[:, None, :, None, None]
