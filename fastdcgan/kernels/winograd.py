"""Winograd convolutions of kernel 4, stride 2, padding 1 on the CPU: fewer than 9 multiplications for 16.

All but the first and the last layers of a DCGAN are such convolutions, or transposed ones, and nearly all of its
arithmetic. `native/winograd.cpp` explains the algorithm (Winograd's F(2, 2) and F(4, 2) on the four phases of the
picture, with 9, 7.5 or 6.25 multiplications for 16); this file makes modules of it. They compute what PyTorch's own
convolutions compute.

Where the processor has a matrix unit for bf16 (AMX), large batches in bf16 go to `direct.py` instead.

In fp32 the results are about as accurate as direct sums: fewer terms are added. In bf16 the transformed pixels and
weights are rounded before they are multiplied, which costs a bit or more: see `tests/parity`.

The big side is the picture [H, W], the small side the picture [H/2, W/2]: input and output of a convolution, output and
input of a transposed one.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastdcgan.kernels import direct, native
from fastdcgan.kernels.convolution import (
    Kernels,
    convolution,
    empty_big_side,
    empty_gradient,
    empty_small_side,
    shape_of,
)

_WEIGHTS_IN_TILES = 64
"""To transform a layer's weights, write and read them takes about as long as the products of so many tiles."""

TILES = {torch.float32: ((2, 2), (4, 2), (4, 4)), torch.bfloat16: ((2, 2), (4, 2))}
"""Heights and widths of the tiles that there are kernels for."""

_choice = threading.local()


def available(precision: torch.dtype = torch.float32) -> bool:
    """Whether this machine can build and run the kernels for a precision."""
    return native.has_kernel("winograd_gather2x2", precision)


def install(network: nn.Module) -> int:
    """Replace the classes of a network's layers that fit, in place; names, parameters and buffers stay as they are.

    Returns:
        how many layers were replaced.
    """
    fitting = [module for module in network.modules() if fits(module)]
    for module in fitting:
        module.__class__ = WinogradConv2d if isinstance(module, nn.Conv2d) else WinogradConvTranspose2d
    return len(fitting)


@contextmanager
def tiles_of_large_batches() -> Iterator[None]:
    """In it this thread's layers take the tiles that they take for many pictures, which err most."""
    with _weights_taken_for(0):
        yield


@contextmanager
def smallest_tiles() -> Iterator[None]:
    """In it this thread's layers take tiles of 2 x 2, with the fewest weights: to measure what larger ones gain."""
    with _weights_taken_for(sys.maxsize):
        yield


@contextmanager
def _weights_taken_for(tiles: int) -> Iterator[None]:
    _choice.weights_in_tiles = tiles
    try:
        yield
    finally:
        _choice.weights_in_tiles = _WEIGHTS_IN_TILES


def fits(module: nn.Module) -> bool:
    """Whether the kernels can compute a layer. The picture's size is checked at each call."""
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return False
    small_channels, big_channels = module.weight.shape[:2]  # also of a transposed convolution
    return (
        module.kernel_size in ((4, 4), (3, 3))
        and (module.stride, module.padding, module.dilation) == ((2, 2), (1, 1), (1, 1))
        and module.groups == 1
        and module.bias is None
        and big_channels % 16 == 0
        and small_channels % 32 == 0
    )


class WinogradConv2d(nn.Conv2d):
    """A convolution from the big side to the small one."""

    def forward(self, big_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, O, H/2, W/2], rounded up."""
        # A kernel of 4 is for even sides, one of 3 for odd ones: then the small side is half the big one, rounded up.
        odd = self.kernel_size[0] % 2
        if any(side % 2 != odd for side in big_BCHW.shape[2:]) or not native.supports(big_BCHW):
            return super().forward(big_BCHW)
        return _convolution(big_BCHW, self.weight, transposed=False)


class WinogradConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution from the small side to the big one."""

    def forward(self, small_BOHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, O, H, W] to [B, C, 2H, 2W], or one less for a kernel of 3."""
        if not native.supports(small_BOHW):
            return super().forward(small_BOHW, output_size)
        return _convolution(small_BOHW, self.weight, transposed=True)


def _convolution(x: Tensor, weight_OCKK: Tensor, *, transposed: bool) -> Tensor:
    x = native.to_autocast_dtype(x)
    return convolution(direct.KERNELS if direct.is_faster(x) else KERNELS, x, weight_OCKK, transposed=transposed)


def _gather(big_BCHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    small_BOHW = empty_small_side(big_BCHW, weight_OCKK)
    tile = _tile_of(big_BCHW, weight_OCKK)
    weights = _pack("gather", weight_OCKK, big_BCHW.dtype, tile)
    kernel = native.kernel("winograd_gather", big_BCHW.dtype, tile)
    kernel(big_BCHW, weights, small_BOHW, shape_of(big_BCHW, small_BOHW))
    return small_BOHW


def _scatter(small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    big_BCHW = empty_big_side(small_BOHW, weight_OCKK)
    tile = _tile_of(big_BCHW, weight_OCKK)
    weights = _pack("scatter", weight_OCKK, small_BOHW.dtype, tile)
    kernel = native.kernel("winograd_scatter", small_BOHW.dtype, tile)
    kernel(small_BOHW, weights, big_BCHW, shape_of(big_BCHW, small_BOHW))
    return big_BCHW


def _weight_gradient(big_BCHW: Tensor, small_BOHW: Tensor, weight_OCKK: Tensor) -> Tensor:
    gradient_OCKK = empty_gradient(weight_OCKK)
    kernel = native.kernel("winograd_weight_gradient", big_BCHW.dtype, _tile_of(big_BCHW, weight_OCKK))
    kernel(big_BCHW, small_BOHW, gradient_OCKK, shape_of(big_BCHW, small_BOHW))
    return gradient_OCKK


def _tile_of(big_BCHW: Tensor, weight_OCKK: Tensor) -> native.Tile:
    B, _, H, W = big_BCHW.shape
    return _tile(B, H, W, weight_OCKK.shape[2], big_BCHW.dtype)


def _tile(batch: int, height: int, width: int, kernel_size: int, precision: torch.dtype) -> native.Tile:
    """The height and width of a tile with which a layer takes the shortest time.

    A larger one takes fewer products and errs more. Errors are kept below three times those of direct sums: so there
    are none of 4 x 4 in bf16, where transformed numbers are rounded. Kernels of 3 keep the smallest: larger ones did
    not make them faster.

    Args:
        batch: pictures.
        height: of the big side.
        width: of the big side.
        kernel_size: 3 or 4.
        precision: of the pictures.
    """
    weights_in_tiles = getattr(_choice, "weights_in_tiles", _WEIGHTS_IN_TILES)

    def products(tile: int, side: int) -> int:
        tiles, beyond = -(-side // tile), -side % tile
        return tiles * (tile + 1) - (beyond > 0)  # a tile over the edge needs one less

    def cost(tile: native.Tile) -> int:
        down, across = tile
        in_picture = products(down, (height + 1) // 2) * products(across, (width + 1) // 2)
        return batch * in_picture + weights_in_tiles * (down + 1) * (across + 1)

    if kernel_size == 3:
        return (2, 2)
    return min(TILES[precision], key=cost)


def _pack(direction: str, weight_OCKK: Tensor, precision: torch.dtype, tile: native.Tile) -> Tensor:
    """The transformed weights in a kernel's layout. Not cached: computing them is quick, keeping them takes memory."""
    maps, channels, kernel_size, _ = weight_OCKK.shape
    packed = torch.empty(4 * (tile[0] + 1) * (tile[1] + 1) * maps * channels, dtype=precision)
    kernel = native.kernel(f"winograd_pack_{direction}", precision, tile)
    kernel(weight_OCKK.detach().contiguous(memory_format=torch.channels_last), channels, maps, kernel_size, packed)
    return packed


KERNELS = Kernels(_gather, _scatter, _weight_gradient)
