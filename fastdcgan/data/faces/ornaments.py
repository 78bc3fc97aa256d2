"""Ornaments in the hair, a function each."""

import math
from collections.abc import Callable

import numpy as np

from fastdcgan.data.faces.canvas import Canvas
from fastdcgan.data.faces.character import Character
from fastdcgan.data.faces.colours import shade
from fastdcgan.data.faces.curves import as_points, curve_through, ellipse, mirrored, shifted


def _hair_band(canvas: Canvas, character: Character) -> None:
    band = curve_through("-.61 -.16  -.5 -.48  -.28 -.66  0 -.71  .28 -.66  .5 -.48  .61 -.16")
    canvas.line(band, shade(character.accent, 0.6), 0.095)
    canvas.line(band, character.accent, 0.068)


def _clips(canvas: Canvas, character: Character) -> None:
    for y in (-0.2, -0.13):
        canvas.line(mirrored(as_points((0.34, y), (0.5, y + 0.02)), character.side), shade(character.accent, 0.6), 0.05)
        canvas.line(mirrored(as_points((0.35, y), (0.49, y + 0.02)), character.side), character.accent, 0.03)


def _bow(canvas: Canvas, character: Character) -> None:
    x, y, line = character.side * 0.4, -0.58, shade(character.accent, 0.6)
    loop = curve_through("0 0  .14 -.12  .2 -.02  .16 .09", closed=True)
    for wing in (-1, 1):
        canvas.shape(shifted(mirrored(loop, wing), x, y), character.accent, line)
    canvas.shape(ellipse(x, y, 0.05, 0.05), character.accent, line)


def _flower(canvas: Canvas, character: Character) -> None:
    x, y = character.side * 0.45, -0.4
    for angle in np.linspace(0, 2 * math.pi, 5, endpoint=False) - math.pi / 2:
        petal = ellipse(x + 0.075 * math.cos(angle), y + 0.075 * math.sin(angle), 0.06, 0.06)
        canvas.shape(petal, character.accent, shade(character.accent, 0.6), 0.012)
    canvas.disc(x, y, 0.05, 0.05, (252, 214, 84))


ORNAMENTS: dict[str, Callable[[Canvas, Character], None]] = {
    "none": lambda canvas, character: None,
    "band": _hair_band,
    "clips": _clips,
    "bow": _bow,
    "flower": _flower,
}
