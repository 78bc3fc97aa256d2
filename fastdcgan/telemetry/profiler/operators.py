"""Arithmetic and memory traffic of operators, by formula, from the input shapes that the profiler recorded.

Counted as in `roofline.py`: a multiplication and an addition are two operations; every input and output crosses memory
once. PyTorch's own estimate knows forward convolutions alone, and not our kernels. The Winograd kernels are counted as
the convolutions that they replace, not by their fewer multiplications.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastdcgan.gan.architecture import conv_out

Shape = tuple[int, ...]

_BYTES = {
    "double": 8,
    "long int": 8,
    "long": 8,
    "float": 4,
    "int": 4,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "short": 2,
    "unsigned char": 1,
    "signed char": 1,
    "bool": 1,
}


@dataclass(frozen=True, kw_only=True)
class OperatorCall:
    """A recorded call of an operator."""

    name: str
    shapes: tuple[Any, ...]
    """Of each argument: the sizes of a tensor or of the tensors in a list; empty for others."""

    types: tuple[str, ...]
    scalars: tuple[str, ...]
    """Each argument as text; empty for tensors."""

    @classmethod
    def of(cls, event: dict[str, Any]) -> "OperatorCall":
        """Make it from an event of a Chrome trace."""
        recorded = event.get("args", {})
        return cls(
            name=event["name"],
            shapes=tuple(recorded.get("Input Dims", ())),
            types=tuple(recorded.get("Input type", ())),
            scalars=tuple(recorded.get("Concrete Inputs", ())),
        )

    @property
    def precision(self) -> str:
        """Of the arithmetic: "fp32", "bf16" or "fp16"."""
        return {"c10::BFloat16": "bf16", "c10::Half": "fp16"}.get(self.types[0] if self.types else "", "fp32")

    def tensors(self) -> list[tuple[Shape, int]]:
        """Sizes and bytes per number of each argument that is a tensor."""
        return [
            (tuple(shape), _BYTES[kind])
            for shape, kind in zip(self.shapes, self.types, strict=False)
            if kind in _BYTES and all(isinstance(side, int) for side in shape)
        ]


def flops(call: OperatorCall) -> float | None:
    """Operations of a call; None where no formula is known, or the recorded shapes don't suffice."""
    formula = _FLOPS.get(call.name)
    try:
        return formula(call) if formula else None
    except (IndexError, ValueError, TypeError):
        return None


def bytes_moved(call: OperatorCall) -> float | None:
    """Memory traffic of a call in bytes; None where no formula is known, or arithmetic is counted instead."""
    if call.name in _FLOPS:
        return None
    if call.name.startswith(_OWN_MEMORY_BOUND):  # all their inputs and outputs are arguments
        return float(sum(_size(tensor) for tensor in call.tensors()))
    formula = _TRAFFIC.get(call.name)
    tensors = call.tensors()
    if formula is None or not (tensors or "TensorList" in call.types):
        return None
    return formula(call)


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def _convolution(call: OperatorCall) -> float:
    x_BCHW, weight_OCKK = call.shapes[:2]
    stride, padding, dilation = (json.loads(call.scalars[n]) for n in (3, 4, 5))
    if call.scalars[6] in ("True", "1"):  # transposed: per pixel of the input
        sides = x_BCHW[2:]
    else:
        sides = [
            conv_out(side, d * (k - 1) + 1, s, p)
            for side, k, s, p, d in zip(x_BCHW[2:], weight_OCKK[2:], stride, padding, dilation, strict=True)
        ]
    return 2.0 * float(x_BCHW[0] * math.prod(weight_OCKK) * math.prod(sides))


def _convolution_backward(call: OperatorCall) -> float:
    grad_BOHW, x_BCHW, weight_OCKK = call.shapes[:3]
    transposed, wanted = call.scalars[7] in ("True", "1"), json.loads(call.scalars[10].lower())
    sides = x_BCHW[2:] if transposed else grad_BOHW[2:]
    return 2.0 * float(x_BCHW[0] * math.prod(weight_OCKK) * math.prod(sides) * sum(wanted[:2]))


def _product(first: int) -> Callable[[OperatorCall], float]:
    """The formula for a product of two matrices, or of two batches of them, from argument `first` on."""

    def count(call: OperatorCall) -> float:
        left, right = call.shapes[first : first + 2]
        return 2.0 * float(math.prod(left) * right[-1])

    return count


def _own_convolution(call: OperatorCall) -> float:
    """Our own convolutions of stride 2, which connect a large feature map with one of half its side."""
    pictures = [shape for shape, _ in call.tensors() if len(shape) == 4]
    ends = pictures[:2] if call.name.endswith("weight_gradient") else (pictures[0], pictures[-1])
    (_, C, height, _), (B, maps, h, w) = sorted(ends, key=lambda shape: -shape[2])
    kernel = 3 if height % 2 else 4
    return 2.0 * B * C * maps * kernel**2 * h * w


_FLOPS: dict[str, Callable[[OperatorCall], float]] = {
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::mm": _product(0),
    "aten::bmm": _product(0),
    "aten::addmm": _product(1),
    "aten::baddbmm": _product(1),
    **{
        f"fastdcgan::{library}_{direction}": _own_convolution
        for library in ("direct", "winograd", "thin")
        for direction in ("gather", "scatter", "weight_gradient")
    },
}

# --- Memory -----------------------------------------------------------------------------------------------------------

_OWN_MEMORY_BOUND = ("fastdcgan::normalise_", "fastdcgan::winograd_pack_")


def _size(tensor: tuple[Shape, int]) -> int:
    shape, each = tensor
    return math.prod(shape) * each


def _read_all_write_largest(call: OperatorCall) -> float:
    sizes = [_size(tensor) for tensor in call.tensors()]
    return float(sum(sizes) + max(sizes))


def _read_all_write_first(call: OperatorCall) -> float:
    sizes = [_size(tensor) for tensor in call.tensors()]
    return float(sum(sizes) + sizes[0])


def _read_all(call: OperatorCall) -> float:
    return float(sum(_size(tensor) for tensor in call.tensors()))


def _write_first(call: OperatorCall) -> float:
    return float(_size(call.tensors()[0]))


def _numbers_in_list(call: OperatorCall, argument: int) -> int:
    return sum(math.prod(shape) for shape in call.shapes[argument])


def _concatenate(call: OperatorCall) -> float:
    """The types of a list's tensors are not recorded: taken for fp32."""
    return 2.0 * 4 * _numbers_in_list(call, 0)


def _adam(call: OperatorCall) -> float:
    """Reads the parameter, its gradient and two moments, and writes all but the gradient: fp32."""
    return 7.0 * 4 * _numbers_in_list(call, 0)


_TRAFFIC: dict[str, Callable[[OperatorCall], float]] = {
    "aten::_fused_adam_": _adam,
    "aten::cat": _concatenate,
    "aten::copy_": _read_all,  # both ends are handed to it
    "aten::sum": _read_all,
    "aten::mean": _read_all,
    "aten::fill_": _write_first,
    "aten::zero_": _write_first,
    **dict.fromkeys(
        (
            *("aten::native_batch_norm", "aten::native_batch_norm_backward"),
            *("aten::cudnn_batch_norm", "aten::cudnn_batch_norm_backward"),
            *("aten::miopen_batch_norm", "aten::miopen_batch_norm_backward"),
            *("aten::threshold_backward", "aten::leaky_relu_backward", "aten::tanh_backward"),
            *("aten::relu", "aten::leaky_relu", "aten::clamp_min", "aten::tanh", "aten::sigmoid"),
            *("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::sqrt", "aten::rsqrt", "aten::square"),
            *("aten::pow", "aten::flip", "aten::index_select", "aten::gather"),
        ),
        _read_all_write_largest,
    ),
    **dict.fromkeys(
        (
            *("aten::relu_", "aten::leaky_relu_", "aten::clamp_min_", "aten::tanh_"),
            *("aten::add_", "aten::sub_", "aten::mul_", "aten::div_", "aten::lerp_", "aten::addcmul_"),
        ),
        _read_all_write_first,
    ),
}
