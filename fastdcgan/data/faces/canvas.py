"""The canvas on which a portrait is drawn."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from fastdcgan.data.faces.colours import BACKGROUNDS, Colour
from fastdcgan.data.faces.curves import Points

SUPERSAMPLING = 3
LINE_WIDTH = 0.016
"""In face coordinates."""


class Canvas:
    """A picture that is drawn in face coordinates at SUPERSAMPLING times its size, and reduced at the end."""

    def __init__(self, size: int, background: tuple[Colour, Colour]):
        self.pixels = size * SUPERSAMPLING
        self._use(_gradient(*background, self.pixels).copy())
        self.pose()

    def _use(self, image: Image.Image) -> None:
        # Blending takes about twice as long as plain drawing, so it is used for translucent colours alone.
        self.image, self._solid, self._blended = image, ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")

    def pose(self, x: float = 0, y: float = 0, scale: float = 1, tilt: float = 0) -> None:
        """Set the transform of what is drawn next: moved by (x, y), scaled, and rotated by `tilt` radians."""
        half = self.pixels / 2
        c, s = math.cos(tilt) * scale * half, math.sin(tilt) * scale * half
        self._axes = ((c, s), (-s, c))
        self._origin = (half * (1 + x), half * (1 + y))
        self._matrix, self._offset = np.array(self._axes), np.array(self._origin)

    def _place(self, points: Points) -> list[float]:
        placed: list[float] = (points @ self._matrix + self._offset).ravel().tolist()
        return placed

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill the polygon."""
        draw = self._blended if len(colour) == 4 else self._solid
        draw.polygon(self._place(points), fill=colour)

    def disc(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """Fill an upright ellipse around (x, y), given by half its width and height."""
        (xx, xy), (yx, yy) = self._axes
        x, y = x * xx + y * yx + self._origin[0], x * xy + y * yy + self._origin[1]
        width, height = width * xx, height * xx
        draw = self._blended if len(colour) == 4 else self._solid
        draw.ellipse((x - width, y - height, x + width, y + height), fill=colour)

    def line(self, points: Points, colour: Colour, width: float = LINE_WIDTH) -> None:
        """Draw an open line."""
        self._solid.line(self._place(points), fill=colour, width=max(1, round(width * self.pixels / 2)))

    def shape(self, points: Points, colour: Colour, outline: Colour, width: float = LINE_WIDTH) -> None:
        """Fill the polygon and draw its outline."""
        placed = self._place(points)
        self._solid.polygon(placed, fill=colour)
        self._solid.line(placed + placed[:4], fill=outline, width=max(1, round(width * self.pixels / 2)))

    @contextmanager
    def clipped(self, *outlines: Points) -> Iterator[None]:
        """Clip what is drawn in this block to the outlines."""
        mask = Image.new("L", self.image.size)
        for outline in outlines:
            ImageDraw.Draw(mask).polygon(self._place(outline), fill=255)
        below = self.image
        self._use(below.copy())
        yield
        box = mask.getbbox()
        if box:
            below.paste(self.image.crop(box), box, mask.crop(box))
        self._use(below)

    def finished(self) -> Image.Image:
        """The picture at its own size."""
        return self.image.reduce(SUPERSAMPLING)


@lru_cache(len(BACKGROUNDS))
def _gradient(top: Colour, bottom: Colour, pixels: int) -> Image.Image:
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), top)
    column.putpixel((0, 1), bottom)
    return column.resize((pixels, pixels), Image.Resampling.BILINEAR)
