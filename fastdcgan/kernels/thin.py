"""Image layers: D's first with its LeakyReLU, and G's last: convolutions of a picture or to one, on the CPU.

PyTorch chooses kernels that are slow for the few channels of a picture. `native/thin.cpp` computes a layer as a matrix
product with windows of the picture; the results are those of PyTorch's own convolution and LeakyReLU.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan.kernels import native
from fastdcgan.kernels.convolution import Kernels, convolution


def available(precision: torch.dtype = torch.float32) -> bool:
    """Whether this machine can build and run the kernels for a precision."""
    return native.has_kernel("thin_gather", precision)


def install(network: nn.Module) -> int:
    """Replace the classes of a network's layers that fit, in place; names, parameters and buffers stay as they are.

    A LeakyReLU after a convolution becomes part of it, and an Identity takes its place.

    Returns:
        how many convolutions were replaced.
    """
    layers = [module for module in network.modules() if not isinstance(module, nn.Sequential)]
    count = 0
    for module, following in zip(layers, [*layers[1:], None], strict=True):
        if not fits(module):
            continue
        count += 1
        if isinstance(module, nn.ConvTranspose2d):
            module.__class__ = ThinConvTranspose2d
            continue
        module.__class__ = ThinConv2d
        assert isinstance(module, ThinConv2d)
        if isinstance(following, nn.LeakyReLU):
            module.slope = following.negative_slope
            following.__class__ = nn.Identity  # type: ignore[assignment]
        else:
            module.slope = 1.0
    return count


def fits(module: nn.Module) -> bool:
    """Whether the kernels can compute a layer. The picture's size is checked at each call."""
    if type(module) not in (nn.Conv2d, nn.ConvTranspose2d):
        return False
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    maps, channels = module.weight.shape[:2]
    return (
        (module.kernel_size, module.stride, module.padding, module.dilation) == ((4, 4), (2, 2), (1, 1), (1, 1))
        and module.groups == 1
        and module.bias is None
        and channels <= 8
        and maps % 32 == 0
    )


class ThinConv2d(nn.Conv2d):
    """A convolution from a picture to feature maps, and LeakyReLU."""

    slope: float
    """Of the LeakyReLU below zero; 1 where there is none."""

    def forward(self, picture_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, O, H/2, W/2]."""
        if picture_BCHW.shape[2] % 2 or picture_BCHW.shape[3] % 2 or not native.supports(picture_BCHW):
            maps = super().forward(picture_BCHW)
            return maps if self.slope == 1 else F.leaky_relu(maps, self.slope)
        maps_BOHW: Tensor = _ConvLeakyReLU.apply(native.to_autocast_dtype(picture_BCHW), self.weight, self.slope)
        return maps_BOHW


class ThinConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution from feature maps to a picture."""

    def forward(self, maps_BOHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, O, H, W] to [B, C, 2H, 2W]."""
        if not native.supports(maps_BOHW):
            return super().forward(maps_BOHW, output_size)
        return convolution(KERNELS, native.to_autocast_dtype(maps_BOHW), self.weight, transposed=True)


class _ConvLeakyReLU(torch.autograd.Function):
    """As `convolution`, and LeakyReLU: its gradient is computed within the kernels."""

    @staticmethod
    def forward(ctx: Any, picture_BCHW: Tensor, weight_OCKK: Tensor, slope: float) -> Tensor:
        picture_BCHW = picture_BCHW.contiguous(memory_format=torch.channels_last)
        maps_BOHW = _gather(picture_BCHW, weight_OCKK, slope)
        # LeakyReLU keeps the sign of its input, so its output suffices for its gradient.
        ctx.save_for_backward(picture_BCHW, weight_OCKK, maps_BOHW if slope != 1 else None)
        ctx.slope = slope
        return maps_BOHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        picture_BCHW, weight_OCKK, activation_BOHW = ctx.saved_tensors
        grad_BOHW = grad_BOHW.to(picture_BCHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_picture = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_picture = _scatter(grad_BOHW, weight_OCKK, activation_BOHW, ctx.slope)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(picture_BCHW, grad_BOHW, weight_OCKK, activation_BOHW, ctx.slope)
        return grad_picture, grad_weight, None


def _gather(picture_BCHW: Tensor, weight_OCKK: Tensor, slope: float = 1.0) -> Tensor:
    """The convolution, and LeakyReLU."""
    B, C, H, W = picture_BCHW.shape
    maps = weight_OCKK.shape[0]
    maps_BOHW = native.empty_channels_last(picture_BCHW, B, maps, H // 2, W // 2)
    kernel = native.kernel("thin_gather", picture_BCHW.dtype)
    kernel(picture_BCHW, _channels_last(weight_OCKK), maps_BOHW, native.Shape(B, C, maps, H, W), ctypes.c_float(slope))
    return maps_BOHW


def _scatter(
    maps_BOHW: Tensor, weight_OCKK: Tensor, activation_BOHW: Tensor | None = None, slope: float = 1.0
) -> Tensor:
    """The transposed convolution; of LeakyReLU's gradient, if `maps_BOHW` is that of its output `activation_BOHW`."""
    B, maps, H, W = maps_BOHW.shape
    C = weight_OCKK.shape[1]
    picture_BCHW = native.empty_channels_last(maps_BOHW, B, C, 2 * H, 2 * W)
    kernel = native.kernel("thin_scatter", maps_BOHW.dtype)
    shape = native.Shape(B, C, maps, 2 * H, 2 * W)
    kernel(maps_BOHW, activation_BOHW, _channels_last(weight_OCKK), picture_BCHW, shape, ctypes.c_float(slope))
    return picture_BCHW


def _weight_gradient(
    picture_BCHW: Tensor,
    maps_BOHW: Tensor,
    weight_OCKK: Tensor,
    activation_BOHW: Tensor | None = None,
    slope: float = 1.0,
) -> Tensor:
    """Activation and slope as in `_scatter`."""
    B, C, H, W = picture_BCHW.shape
    gradient_OCKK = torch.empty_like(weight_OCKK, memory_format=torch.channels_last)
    kernel = native.kernel("thin_weight_gradient", picture_BCHW.dtype)
    shape = native.Shape(B, C, maps_BOHW.shape[1], H, W)
    kernel(picture_BCHW, maps_BOHW, activation_BOHW, gradient_OCKK, shape, ctypes.c_float(slope))
    return gradient_OCKK


def _channels_last(weight_OCKK: Tensor) -> Tensor:
    return weight_OCKK.detach().contiguous(memory_format=torch.channels_last)


KERNELS = Kernels(_gather, _scatter, _weight_gradient)
