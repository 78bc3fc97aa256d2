"""BatchNorm by the statistics of the global batch, on the CPU and on GPUs, in one all-reduce each way.

A rank sees a share of each batch. By its own statistics alone it would train another network: what is learned would
depend on the number of ranks. `nn.SyncBatchNorm` is for CUDA only, and breaks the compiler's graph; this is plain
operators and a functional collective, which trace. Its twin is `nn.BatchNorm2d` on the whole batch.

Forward, ranks add up    sum(x), sum(x^2)        of each channel
Backward, they add up    sum(dy), sum(dy (x - mean))

The sums cross in fp64, each made from a rank's own mean and squares about it: nothing cancels that fp32 could hold. The
gradients of scale and shift are each rank's own, and averaged with all others.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_PIXELS = (0, 2, 3)


def install(network: nn.Module, ranks: int) -> int:
    """Let a network's BatchNorms normalise over the batches of all ranks; parameters, buffers and names stay.

    Must come before `fused_norm.install`, and before the network is compiled.

    Args:
        network: changed in place.
        ranks: in the default process group, each with as large a share of the batch. Of one, nothing is changed.

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


def over_ranks(sums: Tensor) -> Tensor:
    """The sums over all ranks. Traces."""
    group = dist.group.WORLD
    assert group is not None, "there are no ranks to add up over"
    total: Tensor = collectives.wait_tensor(collectives.all_reduce(sums, "sum", group))
    return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks, in training. In evaluation the statistics are constants."""

    ranks: int = 1
    """Among which a batch is shared out; 1 is plain BatchNorm."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same; B of this rank."""
        if not self.training or self.ranks == 1:
            return super().forward(x_BCHW)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        out_BCHW, mean_C, variance_C = _Normalise.apply(x_BCHW, self.weight, self.bias, self.eps, self.ranks)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        count = x_BCHW.numel() // self.num_features * self.ranks
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C * (count / (count - 1)), self.momentum)
        return cast(Tensor, out_BCHW)


class _Normalise(torch.autograd.Function):
    """Returns the result, and the global batch's mean and variance [C]."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, epsilon: float, ranks: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide_BCHW = x_BCHW.to(weight_C.dtype)
        here = x_BCHW.numel() // x_BCHW.shape[1]
        about_C = wide_BCHW.mean(_PIXELS)  # rounded, which is why the sum about it is not zero
        centred_BCHW = wide_BCHW - _spread(about_C)
        sum_C, squares_C = centred_BCHW.sum(_PIXELS).double(), centred_BCHW.square().sum(_PIXELS).double()
        about_C = about_C.double()
        squares_C = squares_C + 2 * about_C * sum_C + here * about_C.square()
        sum_C = sum_C + here * about_C
        sum_C, squares_C = over_ranks(torch.cat((sum_C, squares_C))).chunk(2)

        count = here * ranks
        mean_C = sum_C / count
        variance_C = (squares_C / count - mean_C.square()).clamp(min=0.0)
        inverse_C = (variance_C + epsilon).rsqrt().to(weight_C.dtype)
        mean_C, variance_C = mean_C.to(weight_C.dtype), variance_C.to(weight_C.dtype)
        out_BCHW = F.batch_norm(x_BCHW, mean_C, variance_C, weight_C, bias_C, training=False, eps=epsilon)
        ctx.count = count
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, inverse_C)
        ctx.mark_non_differentiable(mean_C, variance_C)
        return out_BCHW, mean_C, variance_C

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_BCHW: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x_BCHW, weight_C, mean_C, inverse_C = ctx.saved_tensors
        centred_BCHW = x_BCHW.to(weight_C.dtype) - _spread(mean_C)
        wide_BCHW = grad_BCHW.to(weight_C.dtype)
        own_sum_C = wide_BCHW.sum(_PIXELS)
        own_with_x_C = (wide_BCHW * centred_BCHW).sum(_PIXELS)
        sum_C, with_x_C = over_ranks(torch.cat((own_sum_C, own_with_x_C)).double()).chunk(2)

        by_mean_C = (sum_C / ctx.count).to(weight_C.dtype)
        by_x_C = (with_x_C / ctx.count * inverse_C.double().square()).to(weight_C.dtype)
        grad_x_BCHW = wide_BCHW - _spread(by_mean_C) - centred_BCHW * _spread(by_x_C)
        grad_x_BCHW = (grad_x_BCHW * _spread(weight_C * inverse_C)).to(x_BCHW.dtype)
        return grad_x_BCHW, own_with_x_C * inverse_C, own_sum_C, None, None


def _spread(channels_C: Tensor) -> Tensor:
    return channels_C[:, None, None]
