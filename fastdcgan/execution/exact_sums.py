"""Exact sums: the same bits on any number of ranks, as every sum over the batch is taken in a fixed order.

Floating-point addition is not associative, and training amplifies a last bit: within twenty steps it changes the sign
of an activation, and loss curves part. So a batch is divided into shares, a power of two. Each share is computed by
itself, in one thread, as PyTorch's kernels add in another order for another batch or number of threads. The shares'
sums are added pairwise, neighbours first:

    ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))

A rank holds neighbouring shares and adds up a subtree; the ranks' sums are added by the same rule. Means over 2, 4,
8 ... only halve, which rounds nothing. Tanh is computed share by share too: PyTorch's vectorised kernel computes the
last few numbers of a tensor differently. Everything else depends on one picture alone, or on one weight.

A batch that is accumulated in parts is divided into shares part by part. D's gradients cross after each part, and the
parts' means are added in their order. G's parts go through it in one call, as D's real and fake pictures do: a share's
terms of all parts are added before the shares are.

Compared with the plain step, only the sums' rounding differs. For fp32 on CPUs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan.gan.objectives import Objective
from fastdcgan.gan.step import chunks
from fastdcgan.kernels.all_reduce import all_gather_single, world_size
from fastdcgan.kernels.batch_norm import input_gradient_coefficients, statistics, update_running_statistics

_PIXELS = (1, 3, 4)
"""The dimensions of [N, b, C, H, W] that a channel's sum is over: a share of each of N batches."""


def install(network: nn.Module, shares: int, parts: int = 1) -> int:
    """Replace the layers of a network that sum over the batch; names, parameters and buffers stay as they are.

    Layers that `sync_batch_norm.install` has replaced are replaced again.

    Args:
        network: changed in place.
        shares: of the global batch; a power of two and a multiple of the number of ranks.
        parts: batches that a call is of, where it isn't told.

    Returns:
        how many layers were replaced.
    """
    own_shares = shares // world_size()
    kinds = {nn.Conv2d: ExactConv2d, nn.ConvTranspose2d: ExactConvTranspose2d, nn.Tanh: ExactTanh}
    layers = list(network.modules())
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = ExactBatchNorm2d
        elif type(layer) in kinds:
            layer.__class__ = kinds[type(layer)]
        else:
            continue
        cast(Any, layer).shares, cast(Any, layer).batches = own_shares, parts
    return sum(hasattr(layer, "shares") for layer in layers)


@dataclass(frozen=True)
class ExactObjective(Objective):
    """An objective that is the mean of its values on the shares."""

    shares: int = 1
    """Of this rank's part of the batch."""

    def discriminator(self, logits_real_B: Tensor, logits_fake_B: Tensor) -> Tensor:
        """As `Objective.discriminator`."""
        pairs = zip(logits_real_B.chunk(self.shares), logits_fake_B.chunk(self.shares), strict=True)
        return torch.stack([Objective.discriminator(self, real_b, fake_b) for real_b, fake_b in pairs]).mean()

    def generator(self, logits_fake_B: Tensor, logits_real_B: Tensor | None = None) -> Tensor:
        """As `Objective.generator`."""
        pairs = zip(logits_fake_B.chunk(self.shares), chunks(logits_real_B, self.shares), strict=True)
        return torch.stack([Objective.generator(self, fake_b, real_b) for fake_b, real_b in pairs]).mean()


def exact_objective(objective: Objective, shares: int) -> ExactObjective:
    """The same objective, share by share; `shares` are those of the global batch."""
    return ExactObjective(**vars(objective), shares=shares // world_size())


def all_reduce_hook(
    state: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # public, but not in the stubs; DDP checks the annotation
) -> torch.futures.Future[Tensor]:
    """DDP communication hook: the mean of a bucket of gradients over the ranks, by a pairwise sum."""
    own = bucket.buffer()
    gathered_RN = own.new_empty((world_size(), own.numel()))
    work = all_gather_single(gathered_RN.view(-1), own, async_op=True)
    assert work is not None
    done: torch.futures.Future[Any] = work.get_future()
    return done.then(lambda _: pairwise_sum(list(gathered_RN)).div_(world_size()))


def pairwise_sum(terms: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape, neighbours first, while their number is even; then in their order."""
    while len(terms) > 1:
        if len(terms) % 2:
            return reduce(torch.add, terms)
        terms = [left + right for left, right in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


class ExactConv2d(nn.Conv2d):
    """A convolution whose weight gradient is the pairwise sum over the shares."""

    shares: int
    """Of this rank's part of a batch."""

    batches: int
    """In a call, where it isn't told."""

    def forward(self, x_BCHW: Tensor, batches: int | None = None) -> Tensor:
        """[B, C, H, W] to [B, O, H', W']; in training B is `batches` batches, each a multiple of the shares."""
        batches = batches or self.batches
        return _convolve(self, x_BCHW, batches, transposed=False) if self.training else super().forward(x_BCHW)


class ExactConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution whose weight gradient is the pairwise sum over the shares."""

    shares: int
    """Of this rank's part of a batch."""

    batches: int
    """In a call, where it isn't told."""

    def forward(self, x_BCHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, H, W] to [B, O, H', W']; in training B is `batches` batches, each a multiple of the shares."""
        assert output_size is None
        return _convolve(self, x_BCHW, self.batches, transposed=True) if self.training else super().forward(x_BCHW)


class ExactTanh(nn.Tanh):
    """Tanh, share by share."""

    shares: int
    """Of this rank's part of a batch."""

    batches: int
    """In a call, where it isn't told."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same; in training B is `batches` batches, each a multiple of the shares."""
        if not self.training:
            return super().forward(x_BCHW)
        return torch.cat([x_bCHW.tanh() for x_bCHW in x_BCHW.chunk(self.shares * self.batches)])


class ExactBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks, by pairwise sums in fp64."""

    shares: int
    """Of this rank's part of a batch."""

    batches: int
    """In a call, where it isn't told."""

    def forward(self, x_BCHW: Tensor, batches: int | None = None) -> Tensor:
        """[B, C, H, W] to the same; in training B is `batches` batches, each a multiple of the shares."""
        if not self.training:
            return super().forward(x_BCHW)
        batches = batches or self.batches
        out_BCHW, mean_NC, variance_NC = _ExactBatchNorm.apply(
            x_BCHW, self.weight, self.bias, self.eps, self.shares, batches
        )
        count = x_BCHW.numel() // self.num_features // batches * world_size()
        update_running_statistics(self, mean_NC, variance_NC, count)
        return cast(Tensor, out_BCHW)


def _convolve(layer: ExactConv2d | ExactConvTranspose2d, x_BCHW: Tensor, batches: int, transposed: bool) -> Tensor:
    assert layer.bias is None and layer.groups == 1
    options = (list(layer.stride), list(cast(tuple[int, int], layer.padding)), [1, 1], transposed, [0, 0], 1)
    out_BOHW: Tensor = _ExactConvolution.apply(x_BCHW, layer.weight, options, layer.shares, batches)
    return out_BOHW


class _ExactConvolution(torch.autograd.Function):
    """Share by share, so that the kernels are the same whatever the rank's batch."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight: Tensor, options: tuple[Any, ...], shares: int, batches: int
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight)
        ctx.options, ctx.shares, ctx.batches = options, shares, batches
        xs_bCHW = x_BCHW.chunk(shares * batches)
        return torch.cat([torch.convolution(x_bCHW, weight, None, *options) for x_bCHW in xs_bCHW])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_BCHW, weight = ctx.saved_tensors
        grads_bOHW = grad_BOHW.contiguous(memory_format=torch.channels_last).chunk(ctx.shares * ctx.batches)
        xs_bCHW = x_BCHW.chunk(ctx.shares * ctx.batches)

        def gradients(wanted: list[bool]) -> list[Tensor]:
            """Of each share, the gradient of the input, of the weight or of the bias."""
            return [
                torch.ops.aten.convolution_backward(grad_bOHW, x_bCHW, weight, None, *ctx.options, wanted)[
                    wanted.index(True)
                ]
                for grad_bOHW, x_bCHW in zip(grads_bOHW, xs_bCHW, strict=True)
            ]

        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.cat(gradients([True, False, False]))
        if ctx.needs_input_grad[1]:
            terms = gradients([False, True, False])
            # A share's real and fake pictures are added first: they are always on the same rank.
            grad_weight = pairwise_sum([pairwise_sum(terms[share :: ctx.shares]) for share in range(ctx.shares)])
        return grad_x, grad_weight, None, None, None


class _ExactBatchNorm(torch.autograd.Function):
    """Returns the result, and each global batch's mean and biased variance [N, C]."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, epsilon: float, shares: int, batches: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_NSbCHW = x_BCHW.unflatten(0, (batches, shares, -1))
        # fp64 holds the squares of fp32 numbers without rounding.
        wide_xs_NbCHW = [x_NbCHW.double() for x_NbCHW in x_NSbCHW.unbind(1)]
        sums_2NC = pairwise_sum([torch.stack((x.sum(_PIXELS), x.square().sum(_PIXELS))) for x in wide_xs_NbCHW])
        ctx.count, ctx.shares = x_NSbCHW[0].numel() // x_BCHW.shape[1] * world_size(), shares
        mean_NC, variance_NC, invstd_NC = statistics(_all_reduce(sums_2NC), ctx.count, epsilon, x_BCHW.dtype)
        ctx.save_for_backward(x_BCHW, weight_C, mean_NC, invstd_NC)
        ctx.mark_non_differentiable(mean_NC, variance_NC)
        out = [
            (x_bCHW - mean_C[:, None, None]) * (weight_C * invstd_C)[:, None, None] + bias_C[:, None, None]
            for x_bCHW, mean_C, invstd_C in zip(x_BCHW.chunk(batches), mean_NC, invstd_NC, strict=True)
        ]
        return out[0] if batches == 1 else torch.cat(out), mean_NC, variance_NC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x_BCHW, weight_C, mean_NC, invstd_NC = ctx.saved_tensors
        batches_and_shares = (len(mean_NC), ctx.shares, -1)
        grad_NSbCHW = grad_BCHW.unflatten(0, batches_and_shares)
        centred_NSbCHW = x_BCHW.unflatten(0, batches_and_shares) - _broadcast(mean_NC)
        sums = []
        for grad_NbCHW, centred_NbCHW in zip(grad_NSbCHW.unbind(1), centred_NSbCHW.unbind(1), strict=True):
            wide_NbCHW = grad_NbCHW.double()
            sums.append(torch.stack((wide_NbCHW.sum(_PIXELS), (wide_NbCHW * centred_NbCHW).sum(_PIXELS))))
        a_NC, b_NC = input_gradient_coefficients(_all_reduce(pairwise_sum(sums)), ctx.count, invstd_NC)
        grad_x_NSbCHW = grad_NSbCHW - _broadcast(a_NC) - centred_NSbCHW * _broadcast(b_NC)
        grad_x_BCHW = (grad_x_NSbCHW * _broadcast(weight_C * invstd_NC)).flatten(0, 2)
        # Added in fp32, as `all_reduce_hook` goes on with them over the ranks.
        scale_2NC = torch.stack((torch.ones_like(invstd_NC), invstd_NC))
        grad_bias_C, grad_weight_C = pairwise_sum(
            [(sums_2NC * scale_2NC).sum(1).to(weight_C.dtype) for sums_2NC in sums]
        )
        return grad_x_BCHW, grad_weight_C, grad_bias_C, None, None, None


def _all_reduce(sums: Tensor) -> Tensor:
    """The pairwise sum over the ranks."""
    if world_size() == 1:
        return sums
    gathered_R = sums.new_empty((world_size(), *sums.shape))
    all_gather_single(gathered_R.view(-1), sums.reshape(-1))
    return pairwise_sum(list(gathered_R))


def _broadcast(channels_NC: Tensor) -> Tensor:
    """[N, C] to [N, 1, 1, C, 1, 1]."""
    return channels_NC[:, None, None, :, None, None]
