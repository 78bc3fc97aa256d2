"""BatchNorm by the statistics of the global batch, on the CPU and on GPUs: ranks wait for each other once each way.

A rank sees a share of each batch. By its own statistics alone it would train another network: what is learned would
depend on the number of ranks. `nn.SyncBatchNorm` is for CUDA only, and breaks the compiler's graph; this is plain
operators and a functional collective, which trace. Its twin is `nn.BatchNorm2d` on the whole batch.

Forward, ranks add up    sum(x), sum(x^2)        of each channel
Backward, they add up    sum(dy), sum(dy (x - mean))

Several batches that are normalised each by itself (D's real and fake pictures) cross together. The sums are fp64, each
made from a rank's own mean and squares about it: nothing cancels that fp32 could hold. The gradients of scale and shift
are each rank's own, and averaged with all others.
"""

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan.gan.ranges import ALL_REDUCE, profiler_range

_PIXELS = (1, 3, 4)
"""Of [N, B, C, H, W]: N batches, each normalised by itself."""


_FEW = 16
"""Ranks that gather sums. Of more, all of all ranks' sums would outweigh the rounds."""

_AWAKE = 0.05
"""Seconds after which a rank that waits for another lets its core rest."""

_yield = getattr(os, "sched_yield", partial(time.sleep, 0))  # Windows has no such call


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
    with profiler_range(ALL_REDUCE):
        return _over_ranks(sums)


def _over_ranks(sums: Tensor) -> Tensor:
    group = dist.group.WORLD
    assert group is not None, "there are no ranks to add up over"
    ranks = group.size()
    if sums.device.type == "cpu" and ranks <= _FEW and not torch.compiler.is_compiling():
        # Of a small message the latency is all that counts, and gloo's ring takes half as many rounds to gather as to
        # add up. Called directly: as functional collectives they take twice as long to start.
        everyones_R = sums.new_empty((ranks, *sums.shape))
        gathering = dist.all_gather_into_tensor(everyones_R.view(-1), sums.reshape(-1), async_op=True)
        assert gathering is not None
        _look_for(gathering)
        return everyones_R.sum(0)
    total: Tensor = collectives.wait_tensor(collectives.all_reduce(sums, "sum", group))
    return total


def _look_for(work: dist.Work) -> None:
    """Wait awake at first: to be woken takes longer than a small message does. Raises what the work did."""
    asleep_at = time.perf_counter() + _AWAKE
    while not work.is_completed() and time.perf_counter() < asleep_at:
        _yield()
    work.wait()


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks, in training. In evaluation the statistics are constants."""

    ranks: int = 1
    """Among which a batch is shared out; 1 is plain BatchNorm."""

    def forward(self, x_BCHW: Tensor, batches: int = 1) -> Tensor:
        """[B, C, H, W] to the same; B of this rank, of as many batches, one after the other."""
        if not self.training or self.ranks == 1:
            return each(super().forward, x_BCHW, batches)
        out_BCHW, mean_NC, variance_NC = _Normalise.apply(x_BCHW, self.weight, self.bias, self.eps, self.ranks, batches)
        remember(self, mean_NC, variance_NC, x_BCHW.numel() // self.num_features // batches * self.ranks)
        return cast(Tensor, out_BCHW)


def remember(norm: nn.BatchNorm2d, mean_NC: Iterable[Tensor], variance_NC: Iterable[Tensor], count: int) -> None:
    """Move a BatchNorm's running statistics towards those of N global batches of `count` numbers a channel."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    for mean_C, variance_C in zip(mean_NC, variance_NC, strict=True):
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean_C, norm.momentum)
        norm.running_var.lerp_(variance_C * (count / (count - 1)), norm.momentum)


def each(normalise: Callable[[Tensor], Tensor], x_BCHW: Tensor, batches: int) -> Tensor:
    """Batches that lie one after the other, normalised one after the other."""
    if batches == 1:
        return normalise(x_BCHW)
    return torch.cat([normalise(batch_BCHW) for batch_BCHW in x_BCHW.chunk(batches)])


class _Normalise(torch.autograd.Function):
    """Returns the result, and each global batch's mean and variance [N, C]."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, epsilon: float, ranks: int, batches: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide_NBCHW = x_BCHW.to(weight_C.dtype).unflatten(0, (batches, -1))
        here = wide_NBCHW[0].numel() // x_BCHW.shape[1]
        about_NC = wide_NBCHW.mean(_PIXELS)  # rounded, which is why the sum about it is not zero
        centred_NBCHW = wide_NBCHW - _spread(about_NC)
        sum_NC, squares_NC = centred_NBCHW.sum(_PIXELS).double(), centred_NBCHW.square().sum(_PIXELS).double()
        about_NC = about_NC.double()
        squares_NC = squares_NC + 2 * about_NC * sum_NC + here * about_NC.square()
        sum_NC = sum_NC + here * about_NC
        sum_NC, squares_NC = over_ranks(torch.stack((sum_NC, squares_NC))).unbind()

        count = here * ranks
        mean_NC = sum_NC / count
        variance_NC = (squares_NC / count - mean_NC.square()).clamp(min=0.0)
        inverse_NC = (variance_NC + epsilon).rsqrt().to(weight_C.dtype)
        mean_NC, variance_NC = mean_NC.to(weight_C.dtype), variance_NC.to(weight_C.dtype)
        out = [
            F.batch_norm(batch_BCHW, mean_C, variance_C, weight_C, bias_C, training=False, eps=epsilon)
            for batch_BCHW, mean_C, variance_C in zip(x_BCHW.chunk(batches), mean_NC, variance_NC, strict=True)
        ]
        ctx.count = count
        ctx.save_for_backward(x_BCHW, weight_C, mean_NC, inverse_NC)
        ctx.mark_non_differentiable(mean_NC, variance_NC)
        return out[0] if batches == 1 else torch.cat(out), mean_NC, variance_NC

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_BCHW: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        x_BCHW, weight_C, mean_NC, inverse_NC = ctx.saved_tensors
        batches = len(mean_NC)
        centred_NBCHW = x_BCHW.to(weight_C.dtype).unflatten(0, (batches, -1)) - _spread(mean_NC)
        wide_NBCHW = grad_BCHW.to(weight_C.dtype).unflatten(0, (batches, -1))
        own_sum_NC = wide_NBCHW.sum(_PIXELS)
        own_with_x_NC = (wide_NBCHW * centred_NBCHW).sum(_PIXELS)
        sum_NC, with_x_NC = over_ranks(torch.stack((own_sum_NC, own_with_x_NC)).double()).unbind()

        by_mean_NC = (sum_NC / ctx.count).to(weight_C.dtype)
        by_x_NC = (with_x_NC / ctx.count * inverse_NC.double().square()).to(weight_C.dtype)
        grad_x_NBCHW = wide_NBCHW - _spread(by_mean_NC) - centred_NBCHW * _spread(by_x_NC)
        grad_x_BCHW = (grad_x_NBCHW * _spread(weight_C * inverse_NC)).to(x_BCHW.dtype).flatten(0, 1)
        return grad_x_BCHW, (own_with_x_NC * inverse_NC).sum(0), own_sum_NC.sum(0), None, None, None


def _spread(channels_NC: Tensor) -> Tensor:
    return channels_NC[:, None, :, None, None]
