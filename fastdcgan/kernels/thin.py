"""D's first layer with its LeakyReLU, and G's last: convolutions between a picture and feature maps, on the CPU.

A picture has too few channels for the kernels that PyTorch chooses. `native/thin.cpp` treats a layer as a product with
windows of the picture; its twins are PyTorch's own convolutions and LeakyReLU.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan.kernels import native

LIBRARY = "thin"


def available(precision: torch.dtype = torch.float32) -> bool:
    """Whether this machine can build and run the kernels for a precision."""
    return native.offers(LIBRARY, "gather", precision)


def install(network: nn.Module) -> int:
    """Let a network's layers use these kernels where they fit; names, parameters and buffers stay as they are.

    Returns:
        how many layers fit.
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
    """Whether the kernels can do a layer's work."""
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
    """A picture to feature maps, and LeakyReLU."""

    slope: float

    def forward(self, picture_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, O, H/2, W/2]."""
        if picture_BCHW.shape[2] % 2 or picture_BCHW.shape[3] % 2 or not native.knows(picture_BCHW):
            maps = super().forward(picture_BCHW)
            return maps if self.slope == 1 else F.leaky_relu(maps, self.slope)
        maps_BOHW: Tensor = _Gather.apply(native.autocast(picture_BCHW), self.weight, self.slope)
        return maps_BOHW


class ThinConvTranspose2d(nn.ConvTranspose2d):
    """Feature maps to a picture."""

    def forward(self, maps_BOHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, O, H, W] to [B, C, 2H, 2W]."""
        if not native.knows(maps_BOHW):
            return super().forward(maps_BOHW, output_size)
        picture_BCHW: Tensor = _Scatter.apply(native.autocast(maps_BOHW), self.weight)
        return picture_BCHW


class _Gather(torch.autograd.Function):
    """From the picture to the maps."""

    @staticmethod
    def forward(ctx: Any, picture_BCHW: Tensor, weight_OCKK: Tensor, slope: float) -> Tensor:
        picture_BCHW = picture_BCHW.contiguous(memory_format=torch.channels_last)
        maps_BOHW = _gather(picture_BCHW, weight_OCKK, slope)
        # The activation's sign is that of what went into it.
        ctx.save_for_backward(picture_BCHW, weight_OCKK, maps_BOHW if slope != 1 else None)
        ctx.slope = slope
        return maps_BOHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        picture_BCHW, weight_OCKK, active_BOHW = ctx.saved_tensors
        grad_BOHW = grad_BOHW.to(picture_BCHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_picture = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_picture = _scatter(grad_BOHW, active_BOHW, weight_OCKK, ctx.slope)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(picture_BCHW, grad_BOHW, active_BOHW, weight_OCKK, ctx.slope)
        return grad_picture, grad_weight, None


class _Scatter(torch.autograd.Function):
    """From the maps to the picture."""

    @staticmethod
    def forward(ctx: Any, maps_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
        maps_BOHW = maps_BOHW.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(maps_BOHW, weight_OCKK)
        return _scatter(maps_BOHW, None, weight_OCKK, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps_BOHW, weight_OCKK = ctx.saved_tensors
        grad_BCHW = grad_BCHW.to(maps_BOHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_maps = _gather(grad_BCHW, weight_OCKK, 1.0) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(grad_BCHW, maps_BOHW, None, weight_OCKK, 1.0)
        return grad_maps, grad_weight


def _gather(picture_BCHW: Tensor, weight_OCKK: Tensor, slope: float) -> Tensor:
    B, C, H, W = picture_BCHW.shape
    maps = weight_OCKK.shape[0]
    maps_BOHW = native.empty(picture_BCHW, B, maps, H // 2, W // 2)
    kernel = native.kernel(LIBRARY, "gather", picture_BCHW.dtype)
    kernel(picture_BCHW, _plain(weight_OCKK), maps_BOHW, native.Shape(B, C, maps, H, W), ctypes.c_float(slope))
    return maps_BOHW


def _scatter(maps_BOHW: Tensor, active_BOHW: Tensor | None, weight_OCKK: Tensor, slope: float) -> Tensor:
    B, maps, H, W = maps_BOHW.shape
    C = weight_OCKK.shape[1]
    picture_BCHW = native.empty(maps_BOHW, B, C, 2 * H, 2 * W)
    kernel = native.kernel(LIBRARY, "scatter", maps_BOHW.dtype)
    shape = native.Shape(B, C, maps, 2 * H, 2 * W)
    kernel(maps_BOHW, active_BOHW, _plain(weight_OCKK), picture_BCHW, shape, ctypes.c_float(slope))
    return picture_BCHW


def _weight_gradient(
    picture_BCHW: Tensor, maps_BOHW: Tensor, active_BOHW: Tensor | None, weight_OCKK: Tensor, slope: float
) -> Tensor:
    B, C, H, W = picture_BCHW.shape
    gradient_OCKK = torch.empty_like(weight_OCKK, memory_format=torch.channels_last)
    kernel = native.kernel(LIBRARY, "weight_gradient", picture_BCHW.dtype)
    shape = native.Shape(B, C, maps_BOHW.shape[1], H, W)
    kernel(picture_BCHW, maps_BOHW, active_BOHW, gradient_OCKK, shape, ctypes.c_float(slope))
    return gradient_OCKK


def _plain(weight_OCKK: Tensor) -> Tensor:
    return weight_OCKK.detach().contiguous(memory_format=torch.channels_last)
