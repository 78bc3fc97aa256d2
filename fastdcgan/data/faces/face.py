"""The face: outline, ears, eyes, brows, nose, mouth, cheeks and glasses."""

import numpy as np

from fastdcgan.data.faces.canvas import Canvas
from fastdcgan.data.faces.character import Character
from fastdcgan.data.faces.colours import INK, WHITE, mix, shade
from fastdcgan.data.faces.curves import (
    Points,
    as_points,
    curve_through,
    ellipse,
    join_mirrored,
    mirrored,
    polyline,
    shifted,
    smooth_curve,
)


def draw_ears(canvas: Canvas, character: Character) -> None:
    """Draw both ears."""
    for side in (-1, 1):
        ear = curve_through(".46 .1  .56 .08  .58 .22  .52 .36  .44 .36", closed=True)
        canvas.shape(mirrored(ear, side), character.skin, shade(character.skin, 0.55))
        inner = curve_through(".5 .16  .54 .18  .51 .28")
        canvas.line(mirrored(inner, side), shade(character.skin, 0.35), 0.014)


def face_outline(character: Character) -> Points:
    """The outline of the head, closed."""
    cheek = polyline("0 -.6  .36 -.46  .49 -.1  .495 .16  .46 .36")
    jaw = as_points((character.jaw, character.chin - 0.15))
    right = np.concatenate([cheek, jaw, as_points((0.12, character.chin - 0.012))])
    return smooth_curve(join_mirrored(right), closed=True)


def draw_cheeks(canvas: Canvas, character: Character) -> None:
    """Draw blush and freckles, if any."""
    rose = mix(character.skin, (240, 70, 90), 0.45)
    for side in (-1, 1):
        x, y = 0.33 * side, 0.43
        if character.blush:
            for size, share in ((1.0, 0.4), (0.75, 0.5), (0.5, 0.6)):
                canvas.disc(x, y, 0.105 * size, 0.058 * size, (*rose, round(255 * share * character.blush)))
        if character.freckles:
            for dx, dy in ((-0.06, 0.0), (0.0, -0.025), (0.05, 0.01), (-0.01, 0.035)):
                canvas.disc(x + dx, y - 0.02 + dy, 0.012, 0.012, shade(character.skin, 0.3))


def draw_features(canvas: Canvas, character: Character) -> None:
    """Draw nose, mouth, eyes and glasses."""
    _draw_nose(canvas, character)
    _draw_mouth(canvas, character)
    _draw_eyes(canvas, character)
    _draw_glasses(canvas, character)


def _draw_nose(canvas: Canvas, character: Character) -> None:
    canvas.fill(polyline("0 .36  .035 .415  -.02 .42"), shade(character.skin, 0.32))


def _draw_mouth(canvas: Canvas, character: Character) -> None:
    ink = shade(mix(character.skin, (150, 30, 40), 0.35), 0.6)
    inside, tongue = (134, 32, 44), (236, 112, 116)
    if character.mouth == "smile":
        canvas.line(curve_through("-.11 .51  -.05 .545  .05 .545  .11 .51"), ink, 0.022)
    elif character.mouth == "open":
        canvas.shape(curve_through("-.1 .5  -.07 .58  0 .61  .07 .58  .1 .5"), inside, ink, 0.018)
        canvas.fill(curve_through("-.055 .578  0 .555  .055 .578  0 .6", closed=True), tongue)
    elif character.mouth == "grin":
        canvas.shape(curve_through("-.11 .505  -.07 .565  .07 .565  .11 .505"), WHITE, ink, 0.018)
    elif character.mouth == "cat":
        canvas.line(curve_through("-.09 .51  -.05 .55  0 .515  .05 .55  .09 .51"), ink, 0.02)
    elif character.mouth == "small":
        canvas.shape(ellipse(0, 0.535, 0.035, 0.04), inside, ink, 0.014)
    else:
        canvas.line(polyline("-.06 .53  .06 .53"), ink, 0.022)


def _draw_eyes(canvas: Canvas, character: Character) -> None:
    a, b, slant = character.eye_width, character.eye_height, character.slant
    lid = as_points((-a, 0.05 * b), (-0.68 * a, -0.68 * b), (0, -b), (0.68 * a, -0.78 * b + slant / 2), (a, slant))
    lower = as_points((0.8 * a, 0.7 * b + slant / 2), (0.1 * a, b), (-0.62 * a, 0.84 * b))
    outline = smooth_curve(np.concatenate([lid, lower]), closed=True)
    outlines = [shifted(mirrored(outline, side), side * character.eye_x, character.eye_y) for side in (-1, 1)]
    with canvas.clipped(*outlines):
        for side, white in zip((-1, 1), outlines, strict=True):
            canvas.fill(white, (252, 252, 255))
            _iris(canvas, character, side * (character.eye_x - 0.012) + character.gaze, character.eye_y + 0.04 * b)
    upper = smooth_curve(lid)
    lash = np.concatenate([upper, as_points((1.22 * a, slant - 0.22 * b)), (upper * (1.04, 1) - (0, 0.17 * b))[::-1]])
    under = smooth_curve(as_points((0.8 * a, 0.7 * b + slant / 2), (0.45 * a, 0.92 * b), (0, b)))
    crease = upper[6:-6] * (0.95, 1) - (0, 0.4 * b)
    for side in (-1, 1):
        x = side * character.eye_x
        canvas.fill(shifted(mirrored(lash, side), x, character.eye_y), INK)
        canvas.line(shifted(mirrored(under, side), x, character.eye_y), shade(character.skin, 0.75))
        canvas.line(shifted(mirrored(crease, side), x, character.eye_y), shade(character.skin, 0.42), 0.012)


def _iris(canvas: Canvas, character: Character, x: float, y: float) -> None:
    a, b = character.eye_width, character.eye_height
    canvas.disc(x, y, 0.78 * a, 0.98 * b, shade(character.iris, 0.72))
    canvas.disc(x, y + 0.03 * b, 0.68 * a, 0.86 * b, character.iris)
    canvas.disc(x, y + 0.42 * b, 0.5 * a, 0.4 * b, mix(character.iris, (255, 250, 220), 0.5))
    canvas.disc(x, y - 0.02 * b, 0.34 * a, 0.46 * b, shade(character.iris, 0.85))
    canvas.disc(x, y - 0.95 * b, 1.1 * a, 0.42 * b, (*shade(character.iris, 0.9), 120))
    canvas.disc(x - 0.28 * a, y - 0.4 * b, 0.26 * a, 0.24 * b, WHITE)
    canvas.disc(x + 0.3 * a, y + 0.42 * b, 0.14 * a, 0.13 * b, WHITE)


def draw_brows(canvas: Canvas, character: Character) -> None:
    """Draw both brows, which show through the fringe."""
    inner, outer = BROWS[character.brow]
    y = character.eye_y - character.eye_height - 0.115
    brow = as_points((0.11, y + inner + 0.01), (0.24, y - 0.03 + (inner + outer) / 2), (0.38, y + outer + 0.02))
    for side in (-1, 1):
        canvas.line(mirrored(smooth_curve(brow), side), shade(character.hair, 0.5), 0.03)


BROWS = {"soft": (0.0, 0.0), "raised": (-0.03, -0.03), "stern": (0.035, -0.02), "worried": (-0.035, 0.02)}
"""How far a brow's inner and outer ends are lowered."""


def _draw_glasses(canvas: Canvas, character: Character) -> None:
    if character.glasses == "none":
        return
    frame, width = mix(INK, character.accent, 0.45), 0.024
    if character.glasses == "round":
        rim = ellipse(0.25, 0.02, 0.215, 0.215)
    else:
        rim = curve_through(".05 -.13  .45 -.13  .44 .19  .06 .19", closed=True)
    for side in (-1, 1):
        placed = shifted(mirrored(rim, side), 0, character.eye_y)
        canvas.fill(placed, (*WHITE, 36))
        canvas.line(np.concatenate([placed, placed[:2]]), frame, width)
        canvas.line(shifted(mirrored(polyline(".455 -.01  .52 -.04"), side), 0, character.eye_y), frame, width)
    canvas.line(shifted(curve_through("-.045 0  0 -.02  .045 0"), 0, character.eye_y), frame, width)
