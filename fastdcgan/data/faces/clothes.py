"""Neck, shoulders and clothes."""

from collections.abc import Callable

import numpy as np

from fastdcgan.data.faces.canvas import Canvas
from fastdcgan.data.faces.character import Character
from fastdcgan.data.faces.colours import WHITE, mix, shade
from fastdcgan.data.faces.curves import Points, curve_through, ellipse, mirrored, polyline


def draw_body(canvas: Canvas, character: Character) -> None:
    """Draw neck, shoulders and clothes."""
    line = shade(character.skin, 0.55)
    neck = polyline("-.15 .45  .15 .45  .16 .84  .34 .92  .34 1.2  -.34 1.2  -.34 .92  -.16 .84")
    canvas.shape(neck, character.skin, line)
    shadow = curve_through("-.15 .62  -.14 .76  0 .84  .14 .76  .15 .62")
    canvas.fill(shadow, shade(character.skin, 0.25))
    OUTFITS[character.outfit](canvas, character)


def _shoulders(canvas: Canvas, character: Character, neckline: Points) -> None:
    arm = curve_through(".22 .84  .45 .89  .68 .96  .8 1.2")
    outline = np.concatenate([mirrored(arm[::-1]), neckline, arm])
    canvas.shape(outline, character.clothes, shade(character.clothes, 0.6))


def _tee(canvas: Canvas, character: Character) -> None:
    neckline = curve_through("-.22 .84  -.13 .93  0 .96  .13 .93  .22 .84")
    _shoulders(canvas, character, neckline)
    canvas.line(neckline, mix(character.clothes, character.accent, 0.7), 0.035)


def _shirt(canvas: Canvas, character: Character) -> None:
    _shoulders(canvas, character, polyline("0 1.05"))
    for side in (-1, 1):
        collar = polyline(".17 .79  .03 .99  .2 1.06  .3 .88")
        canvas.shape(mirrored(collar, side), WHITE, (120, 120, 140))
    canvas.shape(polyline("-.05 .94  .05 .94  .08 1.2  -.08 1.2"), character.accent, shade(character.accent, 0.6))


def _sailor(canvas: Canvas, character: Character) -> None:
    _shoulders(canvas, character, polyline("0 1.1"))
    for side in (-1, 1):
        collar = polyline(".18 .8  0 1.06  .34 1.2  .5 .9")
        canvas.shape(mirrored(collar, side), WHITE, (120, 120, 140))
        canvas.line(mirrored(polyline(".27 .84  .1 1.08"), side), character.clothes, 0.03)
    canvas.shape(ellipse(0, 1.0, 0.09, 0.07), character.accent, shade(character.accent, 0.6))


def _turtleneck(canvas: Canvas, character: Character) -> None:
    _shoulders(canvas, character, polyline("0 .84"))
    roll = curve_through("-.19 .76  -.21 .9  0 .95  .21 .9  .19 .76  0 .83", closed=True)
    canvas.shape(roll, mix(character.clothes, WHITE, 0.15), shade(character.clothes, 0.6))


def _hoodie(canvas: Canvas, character: Character) -> None:
    _shoulders(canvas, character, polyline("0 1.05"))
    for side in (-1, 1):
        hood = curve_through(".2 .74  .4 .8  .34 .96  .04 1.1  .08 .94", closed=True)
        canvas.shape(mirrored(hood, side), mix(character.clothes, WHITE, 0.15), shade(character.clothes, 0.6))
        canvas.line(mirrored(polyline(".14 .97  .13 1.1"), side), WHITE, 0.025)


OUTFITS: dict[str, Callable[[Canvas, Character], None]] = {
    "tee": _tee,
    "shirt": _shirt,
    "sailor": _sailor,
    "turtleneck": _turtleneck,
    "hoodie": _hoodie,
}
