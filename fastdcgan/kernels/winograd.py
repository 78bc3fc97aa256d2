"""Convolutions of kernel 4, stride 2, padding 1 on the CPU, with 9 multiplications where the definition has 16.

All but the outermost layers of a DCGAN are such convolutions, or such convolutions transposed, and they are nearly all
of its arithmetic. `native/winograd.cpp` explains the algorithm (Winograd's F(2, 2) on the four phases of the picture);
this file makes modules of it. Their twin is PyTorch's own convolution.

fp32 sums are no less exact than the direct ones: fewer terms are added. In bf16 the differences of pixels and the sums
of taps are rounded before they are multiplied, which costs about a bit: see `tests/parity`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan.kernels import native

LIBRARY = "winograd"


def available(precision: torch.dtype = torch.float32) -> bool:
    """Whether this machine can build and run the kernels for a precision."""
    return native.offers(LIBRARY, "gather", precision)


def install(network: nn.Module) -> int:
    """Let a network's layers use these kernels where they fit; names, parameters and buffers stay as they are.

    Returns:
        how many layers fit.
    """
    fitting = [module for module in network.modules() if fits(module)]
    for module in fitting:
        module.__class__ = WinogradConv2d if isinstance(module, nn.Conv2d) else WinogradConvTranspose2d
    return len(fitting)


def fits(module: nn.Module) -> bool:
    """Whether the kernels can do a layer's work. The picture's size is checked at each call."""
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return False
    small, big = module.weight.shape[:2]  # so for both kinds: a transposed convolution's input is the small side
    return (
        module.kernel_size in ((4, 4), (3, 3))
        and (module.stride, module.padding, module.dilation) == ((2, 2), (1, 1), (1, 1))
        and module.groups == 1
        and module.bias is None
        and big % 16 == 0
        and small % 32 == 0
    )


class WinogradConv2d(nn.Conv2d):
    """A convolution from the big side to the small one."""

    def forward(self, big_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, O, H/2, W/2], rounded up."""
        # A kernel of 4 is for even sides, one of 3 for odd ones: then the small side is half the big one, rounded up.
        odd = self.kernel_size[0] % 2
        if any(side % 2 != odd for side in big_BCHW.shape[2:]) or not native.knows(big_BCHW):
            return super().forward(big_BCHW)
        small_BOHW: Tensor = _Gather.apply(native.autocast(big_BCHW), self.weight)
        return small_BOHW


class WinogradConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution from the small side to the big one."""

    def forward(self, small_BOHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, O, H, W] to [B, C, 2H, 2W], or one less for a kernel of 3."""
        if not native.knows(small_BOHW):
            return super().forward(small_BOHW, output_size)
        big_BCHW: Tensor = _Scatter.apply(native.autocast(small_BOHW), self.weight)
        return big_BCHW


class _Gather(torch.autograd.Function):
    """From the big side to the small one."""

    @staticmethod
    def forward(ctx: Any, big_BCHW: Tensor, weight_OCKK: Tensor) -> Tensor:
        big_BCHW = big_BCHW.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(big_BCHW, weight_OCKK)
        return _gather(big_BCHW, weight_OCKK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        big_BCHW, weight_OCKK = ctx.saved_tensors
        grad_BOHW = grad_BOHW.to(big_BCHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_big = _scatter(grad_BOHW, weight_OCKK) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(big_BCHW, grad_BOHW, weight_OCKK) if ctx.needs_input_grad[1] else None
        return grad_big, grad_weight


class _Scatter(torch.autograd.Function):
    """From the small side to the big one."""

    @staticmethod
    def forward(ctx: Any, small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
        small_BOHW = small_BOHW.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(small_BOHW, weight_OCKK)
        return _scatter(small_BOHW, weight_OCKK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        small_BOHW, weight_OCKK = ctx.saved_tensors
        grad_BCHW = grad_BCHW.to(small_BOHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_small = _gather(grad_BCHW, weight_OCKK) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(grad_BCHW, small_BOHW, weight_OCKK) if ctx.needs_input_grad[1] else None
        return grad_small, grad_weight


def _gather(big_BCHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    B, C, H, W = big_BCHW.shape
    small = weight_OCKK.shape[0]
    small_BOHW = native.empty(big_BCHW, B, small, (H + 1) // 2, (W + 1) // 2)
    weights = _packed("gather", weight_OCKK, big_BCHW.dtype)
    kernel = native.kernel(LIBRARY, "gather", big_BCHW.dtype)
    kernel(big_BCHW, weights, small_BOHW, native.Shape(B, C, small, H, W))
    return small_BOHW


def _scatter(small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    B, small, H, W = small_BOHW.shape
    C = weight_OCKK.shape[1]
    odd = weight_OCKK.shape[2] % 2
    height, width = 2 * H - odd, 2 * W - odd
    big_BCHW = native.empty(small_BOHW, B, C, height, width)
    weights = _packed("scatter", weight_OCKK, small_BOHW.dtype)
    kernel = native.kernel(LIBRARY, "scatter", small_BOHW.dtype)
    kernel(small_BOHW, weights, big_BCHW, native.Shape(B, C, small, height, width))
    return big_BCHW


def _weight_gradient(big_BCHW: Tensor, small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    """In fp32: the sums are, and are not rounded on their way to the optimizer."""
    B, C, H, W = big_BCHW.shape
    gradient_OCKK = torch.empty((*weight_OCKK.shape[:2], 4, 4), dtype=torch.float32, memory_format=torch.channels_last)
    kernel = native.kernel(LIBRARY, "weight_gradient", big_BCHW.dtype)
    kernel(big_BCHW, small_BOHW, gradient_OCKK, native.Shape(B, C, small_BOHW.shape[1], H, W))
    kernel_size = weight_OCKK.shape[2]
    return gradient_OCKK[:, :, :kernel_size, :kernel_size]


def _packed(direction: str, weight_OCKK: Tensor, precision: torch.dtype) -> Tensor:
    """The weights as the kernels want them. Made anew each time: that is quick, and keeping them would take memory."""
    small, big, kernel_size, _ = weight_OCKK.shape
    missing = 4 - kernel_size  # the last taps of a kernel of 3
    whole = nn.functional.pad(weight_OCKK.detach(), (0, missing, 0, missing))
    packed = torch.empty(36 * small * big, dtype=precision)
    kernel = native.kernel(LIBRARY, f"pack_{direction}", precision)
    kernel(whole.contiguous(memory_format=torch.channels_last), big, small, packed)
    return packed
