"""Pictures as coloured text: a character shows two pixels, as an upper half block in one colour on another.

Not rich-pixels: it makes a styled segment of each character, which rich renders at every refresh. That takes a hundred
times as long as writing a prepared line.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.color import Color, ColorSystem
from rich.color_triplet import ColorTriplet
from torch import Tensor

from fastdcgan.gan.architecture import Size
from fastdcgan.telemetry.checkerboard import on_checkerboard

MIN_SIDE, MAX_SIDE = 14, 32
"""Pixels a side of a square picture, and others have as many pixels: with fewer a face can't be recognised, with more
few would fit."""

_SQUARE = 4
"""Pixels a side of the checkerboard's squares."""

MIN_PICTURES = 8
"""Pictures to show; fewer if so many would fit only below `MIN_SIDE`."""


class GridLayout(NamedTuple):
    """How many pictures are shown, and their size."""

    columns: int
    rows: int
    size: Size
    """A character is one pixel wide and two high; pictures are a pixel apart."""


def grid_layout(count: int, size: Size, width: int, height: int) -> GridLayout | None:
    """The layout with the largest pictures of which `MIN_PICTURES` fit into a space; None if not one fits.

    Args:
        count: of pictures.
        size: of a picture; they are never enlarged.
        width: of the space, in characters.
        height: of the space, in lines.
    """
    for side in range(_largest_side(size), MIN_SIDE - 1, -1):
        shown = _of_side(size, side)
        columns, rows = (width + 1) // (shown.width + 1), (2 * height + 1) // (shown.height + 1)
        if columns < 1 or rows < 1:
            continue
        if columns * rows >= min(MIN_PICTURES, count) or side == MIN_SIDE:
            columns = min(columns, count)
            return GridLayout(columns, min(rows, -(-count // columns)), shown)
    return None


def _largest_side(size: Size) -> int:
    return min(MAX_SIDE, math.isqrt(size.area))


def _of_side(size: Size, side: int) -> Size:
    """The shape of `size`, with about as many pixels as a square of this side."""
    scale = side / math.sqrt(size.area)
    return Size(max(1, round(size.height * scale)), max(1, round(size.width * scale)))


def thumbnails(pictures_BCHW: Tensor) -> list[Image.Image]:
    """Pictures in [-1, 1] on the CPU, of 1, 3 or 4 channels, as RGB images of no more pixels than are shown.

    Transparent ones lie on a checkerboard.
    """
    pixels_BCHW = pictures_BCHW.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    channels = max(3, pixels_BCHW.shape[1])
    pixels_BHWC = pixels_BCHW.expand(-1, channels, -1, -1).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(np.ascontiguousarray(pixels_HWC)) for pixels_HWC in pixels_BHWC]
    size = Size(images[0].height, images[0].width)
    height, width = _of_side(size, _largest_side(size))
    return [on_checkerboard(image.resize((width, height), Image.Resampling.BOX), _SQUARE) for image in images]


def tiled(images: list[Image.Image], layout: GridLayout) -> NDArray[np.uint8]:
    """The first pictures in a grid on black, a pixel apart: uint8 [H, W, 3]; H is even."""
    columns, rows, (height, width) = layout
    lines = rows * (height + 1) - 1
    canvas = Image.new("RGB", (columns * (width + 1) - 1, lines + lines % 2))
    for number, image in enumerate(images[: columns * rows]):
        row, column = divmod(number, columns)
        shown = image.resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(shown, (column * (width + 1), row * (height + 1)))
    return np.asarray(canvas)


def half_blocks(pixels_HWC: NDArray[np.uint8], colours: ColorSystem) -> list[str]:
    """Lines of text with escape codes, each of W characters, for two rows of the uint8 pixels [H, W, 3]."""
    lines = []
    for upper_WC, lower_WC in zip(pixels_HWC[::2].tolist(), pixels_HWC[1::2].tolist(), strict=True):
        line, last = [], None
        for upper, lower in zip(upper_WC, lower_WC, strict=True):
            code = f"\x1b[{_code(*upper, colours, True)};{_code(*lower, colours, False)}m"
            line.append("▀" if code == last else f"{code}▀")
            last = code
        lines.append("".join(line) + "\x1b[0m")
    return lines


@lru_cache(maxsize=2**12)  # the colours of a picture or two: of more, a run fills 20 MiB
def _code(red: int, green: int, blue: int, colours: ColorSystem, foreground: bool) -> str:
    colour = Color.from_triplet(ColorTriplet(red, green, blue)).downgrade(colours)
    return ";".join(colour.get_ansi_codes(foreground))
