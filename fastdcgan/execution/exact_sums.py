"""The same bits on any number of ranks: every sum over the batch is taken in one order, whoever takes it.

Numbers on a computer don't add up the same in another order, and training makes much of a little: within twenty steps a
last bit decides the side of zero on which an activation lies, and two curves part. So a batch is divided into shares, a
power of two, and a rank computes share by share, in one thread: PyTorch's kernels add up in another order for another
batch or number of threads. The shares' sums are added pairwise, neighbours first:

    ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))

A rank holds neighbouring shares, and so a branch of this tree, and the ranks are its trunk. Means over 2, 4, 8 ... only
halve, which rounds nothing. Exponentials are taken share by share too: PyTorch computes the last few of a row of
numbers otherwise than the rest. All else (pictures' own arithmetic, Adam) looks at one picture or weight at a time.

Its twin is the plain step: the sums are the same but for their rounding. For fp32 on CPUs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.autograd.function import once_differentiable

from fastdcgan.gan.objectives import Objective
from fastdcgan.kernels.batch_norm import update_running_statistics

_PIXELS = (1, 3, 4)
"""Of [N, b, C, H, W]: a share of each of N batches."""


def install(network: nn.Module, shares: int) -> int:
    """Let a network's layers add up over the batch in one order; names, parameters and buffers stay as they are.

    Must come before `sync_norm.install`'s layers are first called: it takes their place.

    Args:
        network: changed in place.
        shares: of the global batch; a power of two and a multiple of the ranks.

    Returns:
        how many layers were changed.
    """
    mine = shares // _ranks()
    kinds = {nn.Conv2d: ExactConv2d, nn.ConvTranspose2d: ExactConvTranspose2d, nn.Tanh: ExactTanh}
    layers = list(network.modules())
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = ExactBatchNorm2d
        elif type(layer) in kinds:
            layer.__class__ = kinds[type(layer)]
        else:
            continue
        cast(Any, layer).shares = mine
    return sum(hasattr(layer, "shares") for layer in layers)


@dataclass(frozen=True)
class ExactObjective(Objective):
    """An objective as the mean of those of the shares."""

    shares: int = 1

    def discriminator(self, logits_real_B: Tensor, logits_fake_B: Tensor) -> Tensor:
        """As `Objective.discriminator`."""
        of_shares = zip(logits_real_B.chunk(self.shares), logits_fake_B.chunk(self.shares), strict=True)
        return torch.stack([Objective.discriminator(self, real_b, fake_b) for real_b, fake_b in of_shares]).mean()

    def generator(self, logits_fake_B: Tensor) -> Tensor:
        """As `Objective.generator`."""
        return torch.stack([Objective.generator(self, fake_b) for fake_b in logits_fake_B.chunk(self.shares)]).mean()


def exact_objective(objective: Objective, shares: int) -> ExactObjective:
    """The same, over this rank's part of the shares."""
    terms = (objective.discriminator_terms, objective.generator_term, objective.label_smoothing)
    return ExactObjective(*terms, shares // _ranks())


def exchange(state: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's gradients, averaged over the ranks as the trunk of the tree: a communication hook."""
    own = bucket.buffer()
    everyones_RN = own.new_empty((_ranks(), own.numel()))
    gathering = dist.all_gather_into_tensor(everyones_RN.view(-1), own, async_op=True)
    assert gathering is not None
    done: torch.futures.Future[Any] = gathering.get_future()
    return done.then(lambda _: in_a_tree(list(everyones_RN)).div_(_ranks()))


def in_a_tree(terms: Sequence[Tensor]) -> Tensor:
    """Their sum, neighbours first; as many as a power of two."""
    while len(terms) > 1:
        terms = [left + right for left, right in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


class ExactConv2d(nn.Conv2d):
    """A convolution whose weight gradient is the tree of its shares'."""

    shares: int

    def forward(self, x_BCHW: Tensor, batches: int = 1) -> Tensor:
        """[B, C, H, W] to [B, O, H', W']; in training B is so many batches, each a multiple of the shares."""
        return _convolve(self, x_BCHW, batches, transposed=False) if self.training else super().forward(x_BCHW)


class ExactConvTranspose2d(nn.ConvTranspose2d):
    """Likewise, transposed."""

    shares: int

    def forward(self, x_BCHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, H, W] to [B, O, H', W']; in training B is a multiple of the shares."""
        assert output_size is None
        return _convolve(self, x_BCHW, 1, transposed=True) if self.training else super().forward(x_BCHW)


class ExactTanh(nn.Tanh):
    """Tanh, share by share."""

    shares: int

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same; in training B is a multiple of the shares."""
        if not self.training:
            return super().forward(x_BCHW)
        return torch.cat([x_bCHW.tanh() for x_bCHW in x_BCHW.chunk(self.shares)])


class ExactBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks, by sums in fp64."""

    shares: int

    def forward(self, x_BCHW: Tensor, batches: int = 1) -> Tensor:
        """[B, C, H, W] to the same; in training B is so many batches of this rank, each a multiple of the shares."""
        if not self.training:
            return super().forward(x_BCHW)
        out_BCHW, mean_NC, variance_NC = _Normalise.apply(
            x_BCHW, self.weight, self.bias, self.eps, self.shares, batches
        )
        update_running_statistics(self, mean_NC, variance_NC, x_BCHW.numel() // self.num_features // batches * _ranks())
        return cast(Tensor, out_BCHW)


def _convolve(layer: ExactConv2d | ExactConvTranspose2d, x_BCHW: Tensor, batches: int, transposed: bool) -> Tensor:
    assert layer.bias is None and layer.groups == 1
    how = (list(layer.stride), list(cast(tuple[int, int], layer.padding)), [1, 1], transposed, [0, 0], 1)
    out_BOHW: Tensor = _Convolution.apply(x_BCHW, layer.weight, how, layer.shares, batches)
    return out_BOHW


class _Convolution(torch.autograd.Function):
    """Share by share, for the same kernels whatever the rank's batch."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, how: tuple[Any, ...], shares: int, batches: int) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight)
        ctx.how, ctx.shares, ctx.batches = how, shares, batches
        return torch.cat([torch.convolution(x_bCHW, weight, None, *how) for x_bCHW in x_BCHW.chunk(shares * batches)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_BCHW, weight = ctx.saved_tensors
        grads_BOHW = grad_BOHW.contiguous(memory_format=torch.channels_last).chunk(ctx.shares * ctx.batches)
        xs_BCHW = x_BCHW.chunk(ctx.shares * ctx.batches)

        def of_each(wanted: list[bool]) -> list[Tensor]:
            return [
                torch.ops.aten.convolution_backward(grad_bOHW, x_bCHW, weight, None, *ctx.how, wanted)[
                    wanted.index(True)
                ]
                for grad_bOHW, x_bCHW in zip(grads_BOHW, xs_BCHW, strict=True)
            ]

        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.cat(of_each([True, False, False]))
        if ctx.needs_input_grad[1]:
            terms = of_each([False, True, False])
            # A share's real and fake pictures are added first: they are always on the same rank.
            grad_weight = in_a_tree([in_a_tree(terms[share :: ctx.shares]) for share in range(ctx.shares)])
        return grad_x, grad_weight, None, None, None


class _Normalise(torch.autograd.Function):
    """Returns the result, and each global batch's mean and variance [N, C]."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, epsilon: float, shares: int, batches: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_NSbCHW = x_BCHW.unflatten(0, (batches, shares, -1))
        count = x_NSbCHW[0].numel() // x_BCHW.shape[1] * _ranks()
        # fp64 holds the squares of fp32 numbers: nothing cancels.
        of_shares = [x_NbCHW.double() for x_NbCHW in x_NSbCHW.unbind(1)]
        sums = [torch.stack((x.sum(_PIXELS), x.square().sum(_PIXELS))) for x in of_shares]
        mean_NC, squares_NC = _over_ranks(in_a_tree(sums)) / count
        variance_NC = (squares_NC - mean_NC.square()).clamp(min=0.0)
        inverse_NC = (variance_NC + epsilon).rsqrt().to(x_BCHW.dtype)
        mean_NC, variance_NC = mean_NC.to(x_BCHW.dtype), variance_NC.to(x_BCHW.dtype)
        ctx.count, ctx.shares = count, shares
        ctx.save_for_backward(x_BCHW, weight_C, mean_NC, inverse_NC)
        ctx.mark_non_differentiable(mean_NC, variance_NC)
        out = [
            (x_bCHW - mean_C[:, None, None]) * (weight_C * inverse_C)[:, None, None] + bias_C[:, None, None]
            for x_bCHW, mean_C, inverse_C in zip(x_BCHW.chunk(batches), mean_NC, inverse_NC, strict=True)
        ]
        return out[0] if batches == 1 else torch.cat(out), mean_NC, variance_NC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x_BCHW, weight_C, mean_NC, inverse_NC = ctx.saved_tensors
        divided = (len(mean_NC), ctx.shares, -1)
        grad_NSbCHW = grad_BCHW.unflatten(0, divided)
        centred_NSbCHW = x_BCHW.unflatten(0, divided) - _spread(mean_NC)
        sums = []
        for grad_NbCHW, centred_NbCHW in zip(grad_NSbCHW.unbind(1), centred_NSbCHW.unbind(1), strict=True):
            wide_NbCHW = grad_NbCHW.double()
            sums.append(torch.stack((wide_NbCHW.sum(_PIXELS), (wide_NbCHW * centred_NbCHW).sum(_PIXELS))))
        sum_NC, with_x_NC = _over_ranks(in_a_tree(sums)) / ctx.count
        by_mean_NC, by_x_NC = sum_NC.to(x_BCHW.dtype), (with_x_NC * inverse_NC.double().square()).to(x_BCHW.dtype)
        grad_x_NSbCHW = grad_NSbCHW - _spread(by_mean_NC) - centred_NSbCHW * _spread(by_x_NC)
        grad_x_BCHW = (grad_x_NSbCHW * _spread(weight_C * inverse_NC)).flatten(0, 2)
        # Ranks exchange gradients in fp32, so that is what the tree must be of.
        own = in_a_tree(
            [
                (own_2NC * torch.stack((torch.ones_like(inverse_NC), inverse_NC))).sum(1).to(weight_C.dtype)
                for own_2NC in sums
            ]
        )
        grad_bias_C, grad_weight_C = own
        return grad_x_BCHW, grad_weight_C, grad_bias_C, None, None, None


def _over_ranks(sums: Tensor) -> Tensor:
    if _ranks() == 1:
        return sums
    everyones_R = sums.new_empty((_ranks(), *sums.shape))
    dist.all_gather_into_tensor(everyones_R.view(-1), sums.reshape(-1))
    return in_a_tree(list(everyones_R))


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _spread(channels_NC: Tensor) -> Tensor:
    return channels_NC[:, None, None, :, None, None]
