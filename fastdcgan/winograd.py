"""Convolutions of kernel 4, stride 2, padding 1 on the CPU, with 9 multiplications where the definition has 16.

All but the outermost layers of a DCGAN are such convolutions, or such convolutions transposed, and they are nearly all
of its arithmetic. `native/winograd.cpp` explains the algorithm (Winograd's F(2, 2) on the four phases of the picture);
this file makes modules of it. Their twin is PyTorch's own convolution.

fp32 sums are no less exact than the direct ones: fewer terms are added. In bf16 the differences of pixels and the sums
of taps are rounded before they are multiplied, which costs about a bit: see `tests/parity`.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastdcgan import native

_SUFFIX = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def available(precision: torch.dtype = torch.float32) -> bool:
    """Whether this machine can build and run the kernels for a precision."""
    library = native.load("winograd")
    return library is not None and precision in _SUFFIX and hasattr(library, f"gather_{_SUFFIX[precision]}")


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
    """Whether the kernels can do a layer's work. The big side must also be a multiple of 4: checked at each call."""
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return False
    small, big = module.weight.shape[:2]  # so for both kinds: a transposed convolution's input is the small side
    return (
        (module.kernel_size, module.stride, module.padding, module.dilation) == ((4, 4), (2, 2), (1, 1), (1, 1))
        and module.groups == 1
        and module.bias is None
        and big % 16 == 0
        and small % 32 == 0
    )


class WinogradConv2d(nn.Conv2d):
    """A convolution from the big side to the small one."""

    def forward(self, big_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, O, H/2, W/2]."""
        if big_BCHW.shape[2] % 4 or big_BCHW.shape[3] % 4 or big_BCHW.dtype not in _SUFFIX:
            return super().forward(big_BCHW)
        small_BOHW: Tensor = _Gather.apply(_precise(big_BCHW), self.weight, _packed(self))
        return small_BOHW


class WinogradConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution from the small side to the big one."""

    def forward(self, small_BOHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, O, H, W] to [B, C, 2H, 2W]."""
        if small_BOHW.shape[2] % 2 or small_BOHW.shape[3] % 2 or small_BOHW.dtype not in _SUFFIX:
            return super().forward(small_BOHW, output_size)
        big_BCHW: Tensor = _Scatter.apply(_precise(small_BOHW), self.weight, _packed(self))
        return big_BCHW


class _Packed:
    """A layer's weights as the kernels want them, made anew when the weights have changed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Tensor]] = {}

    def get(self, direction: str, weight: Tensor, precision: torch.dtype) -> Tensor:
        state = (weight.data_ptr(), weight._version, precision)
        kept = self._kept.get(direction)
        if kept is None or kept[0] != state:
            O, C = weight.shape[:2]
            packed = kept[1] if kept and kept[1].dtype == precision else weight.new_empty(36 * O * C, dtype=precision)
            plain = weight.detach().contiguous(memory_format=torch.channels_last)
            _kernel(f"pack_{direction}", precision)(_at(plain), _long(C), _long(O), _at(packed))
            self._kept[direction] = kept = (state, packed)
        return kept[1]


def _packed(module: nn.Module) -> _Packed:
    packed = module.__dict__.get("_winograd_packed")
    if packed is None:
        packed = module.__dict__["_winograd_packed"] = _Packed()
    assert isinstance(packed, _Packed)
    return packed


class _Gather(torch.autograd.Function):
    """From the big side to the small one."""

    @staticmethod
    def forward(ctx: Any, big_BCHW: Tensor, weight_OCKK: Tensor, packed: _Packed) -> Tensor:
        big_BCHW = big_BCHW.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(big_BCHW, weight_OCKK)
        ctx.packed = packed
        return _gather(big_BCHW, weight_OCKK, packed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        big_BCHW, weight_OCKK = ctx.saved_tensors
        grad_BOHW = grad_BOHW.to(big_BCHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_big = _scatter(grad_BOHW, weight_OCKK, ctx.packed) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(big_BCHW, grad_BOHW, weight_OCKK) if ctx.needs_input_grad[1] else None
        return grad_big, grad_weight, None


class _Scatter(torch.autograd.Function):
    """From the small side to the big one."""

    @staticmethod
    def forward(ctx: Any, small_BOHW: Tensor, weight_OCKK: Tensor, packed: _Packed) -> Tensor:
        small_BOHW = small_BOHW.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(small_BOHW, weight_OCKK)
        ctx.packed = packed
        return _scatter(small_BOHW, weight_OCKK, packed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        small_BOHW, weight_OCKK = ctx.saved_tensors
        grad_BCHW = grad_BCHW.to(small_BOHW.dtype).contiguous(memory_format=torch.channels_last)
        grad_small = _gather(grad_BCHW, weight_OCKK, ctx.packed) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(grad_BCHW, small_BOHW, weight_OCKK) if ctx.needs_input_grad[1] else None
        return grad_small, grad_weight, None


def _gather(big_BCHW: Tensor, weight_OCKK: Tensor, packed: _Packed) -> Tensor:
    B, C, H, W = big_BCHW.shape
    O = weight_OCKK.shape[0]
    small_BOHW = _empty(big_BCHW, B, O, H // 2, W // 2)
    weights = packed.get("gather", weight_OCKK, big_BCHW.dtype)
    _kernel("gather", big_BCHW.dtype)(_at(big_BCHW), _at(weights), _at(small_BOHW), _Shape(B, C, O, H, W))
    return small_BOHW


def _scatter(small_BOHW: Tensor, weight_OCKK: Tensor, packed: _Packed) -> Tensor:
    B, O, H, W = small_BOHW.shape
    C = weight_OCKK.shape[1]
    big_BCHW = _empty(small_BOHW, B, C, 2 * H, 2 * W)
    weights = packed.get("scatter", weight_OCKK, small_BOHW.dtype)
    _kernel("scatter", small_BOHW.dtype)(_at(small_BOHW), _at(weights), _at(big_BCHW), _Shape(B, C, O, 2 * H, 2 * W))
    return big_BCHW


def _weight_gradient(big_BCHW: Tensor, small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    """In fp32: the sums are, and are not rounded on their way to the optimizer."""
    B, C, H, W = big_BCHW.shape
    O = small_BOHW.shape[1]
    gradient_OCKK = torch.empty_like(weight_OCKK, memory_format=torch.channels_last)
    kernel = _kernel("weight_gradient", big_BCHW.dtype)
    kernel(_at(big_BCHW), _at(small_BOHW), _at(gradient_OCKK), _Shape(B, C, O, H, W))
    return gradient_OCKK


class _Shape(ctypes.Structure):
    """Of the big side, as the kernels expect it."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "C", "O", "height", "width"))


def _kernel(name: str, precision: torch.dtype) -> Callable[..., None]:
    library = native.load("winograd")
    assert library is not None, "available() was not asked"
    function: Callable[..., None] = getattr(library, f"{name}_{_SUFFIX[precision]}")
    return lambda *arguments: function(*(ctypes.byref(a) if isinstance(a, _Shape) else a for a in arguments))


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _precise(x: Tensor) -> Tensor:
    """As autocast would have it."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


_long = ctypes.c_int64
