"""The hair behind the head, a function per style."""

import math
from collections.abc import Callable

import numpy as np

from fastdcgan.data.faces.canvas import Canvas
from fastdcgan.data.faces.character import Character, hair_tones
from fastdcgan.data.faces.colours import shade
from fastdcgan.data.faces.curves import (
    bend_segments,
    curve_through,
    ellipse,
    join_mirrored,
    mirrored,
    polyline,
    smooth_curve,
)


def _short_back(canvas: Canvas, character: Character) -> None:
    outline = join_mirrored(polyline("0 -.8  .36 -.73  .58 -.45  .64 -.05  .6 .25  .44 .5"))
    canvas.shape(smooth_curve(outline, closed=True), *hair_tones(character))


def _bob_back(canvas: Canvas, character: Character) -> None:
    outline = smooth_curve(join_mirrored(polyline("0 -.8  .38 -.73  .62 -.42  .7 .05  .72 .42  .6 .64")))
    canvas.shape(np.concatenate([outline, polyline(".3 .6  -.3 .6")]), *hair_tones(character))
    canvas.disc(0, 0.36, 0.53, 0.28, shade(character.hair, 0.35))


def _long_back(canvas: Canvas, character: Character) -> None:
    outline = smooth_curve(join_mirrored(polyline("0 -.8  .38 -.73  .61 -.42  .68 .1  .72 .6  .8 1.2")))
    canvas.shape(outline * (1 + 0.05 * character.deviations[20], 1), *hair_tones(character))
    canvas.disc(0, 0.66, 0.54, 0.62, shade(character.hair, 0.35))


def _wavy_back(canvas: Canvas, character: Character) -> None:
    right = polyline("0 -.81  .4 -.74  .64 -.42  .66 -.12  .76 .12  .7 .34  .82 .58  .74 .8")
    outline = np.concatenate([smooth_curve(join_mirrored(right)), polyline(".86 1.2  -.86 1.2")])
    canvas.shape(outline * (1 + 0.05 * character.deviations[20], 1), *hair_tones(character))
    canvas.disc(0, 0.66, 0.54, 0.62, shade(character.hair, 0.35))


def _twin_tails_back(canvas: Canvas, character: Character) -> None:
    outer = curve_through(".5 -.5  .74 -.62  .92 -.3  .97 .2  .8 .84")
    inner = curve_through(".8 .84  .78 .5  .7 .2  .66 -.1  .5 -.3")
    strand = curve_through(".68 -.42  .8 -.1  .84 .2  .82 .55")
    hair, line = hair_tones(character)
    for side in (-1, 1):
        swing = side * (1 + 0.04 * character.deviations[20])
        canvas.shape(mirrored(np.concatenate([outer, inner]), swing), hair, line)
        canvas.line(mirrored(strand, swing), line, 0.012)
    _short_back(canvas, character)
    for side in (-1, 1):
        canvas.shape(ellipse(0.59 * side, -0.46, 0.07, 0.1), character.accent, shade(character.accent, 0.6))


def _spiky_back(canvas: Canvas, character: Character) -> None:
    spikes = 9
    angles = np.linspace(math.radians(155), math.radians(385), 2 * spikes + 1)
    radii = np.full(len(angles), 0.66)
    radii[1::2] = 0.87 + 0.08 * np.array(character.deviations[:spikes])
    nodes = np.stack([np.cos(angles) * radii, np.sin(angles) * radii - 0.06], axis=1)
    outline = np.concatenate([bend_segments(nodes, 0.10), polyline(".4 .52  -.4 .52")])
    canvas.shape(outline, *hair_tones(character))


def _bun_back(canvas: Canvas, character: Character) -> None:
    canvas.shape(ellipse(0, -0.81, 0.25, 0.19), *hair_tones(character))
    canvas.line(curve_through("-.14 -.86  0 -.94  .14 -.86"), hair_tones(character)[1], 0.012)
    _short_back(canvas, character)
    canvas.line(curve_through("-.15 -.775  0 -.795  .15 -.775"), character.accent, 0.05)


def _buns_back(canvas: Canvas, character: Character) -> None:
    for side in (-1, 1):
        canvas.shape(ellipse(0.50 * side, -0.68, 0.20, 0.19), *hair_tones(character))
        curl = curve_through(".42 -.68  .5 -.78  .59 -.7  .53 -.62")
        canvas.line(mirrored(curl, side), hair_tones(character)[1], 0.012)
    _short_back(canvas, character)


def _ponytail_back(canvas: Canvas, character: Character) -> None:
    outer = curve_through(".24 -.7  .5 -.93  .84 -.7  .95 -.15  .8 .62")
    inner = curve_through(".8 .62  .74 .25  .72 -.1  .6 -.4  .4 -.55")
    strand = curve_through(".52 -.7  .72 -.52  .83 -.12  .81 .25")
    hair, line = hair_tones(character)
    swing = character.side * (1 + 0.05 * character.deviations[20])
    canvas.shape(mirrored(np.concatenate([outer, inner]), swing), hair, line)
    canvas.line(mirrored(strand, swing), line, 0.012)
    _short_back(canvas, character)
    canvas.shape(ellipse(0.4 * character.side, -0.7, 0.09, 0.07), character.accent, shade(character.accent, 0.6))


def _curls_back(canvas: Canvas, character: Character) -> None:
    bumps = 15
    angles = np.linspace(math.radians(140), math.radians(400), bumps + 1)
    radii = 0.76 + 0.02 * np.array(character.deviations[: bumps + 1])
    nodes = np.stack([np.cos(angles) * radii * 0.98, np.sin(angles) * radii - 0.09], axis=1)
    canvas.shape(bend_segments(nodes, 0.32), *hair_tones(character))


HAIR_BACKS: dict[str, Callable[[Canvas, Character], None]] = {
    "short": _short_back,
    "bob": _bob_back,
    "long": _long_back,
    "wavy": _wavy_back,
    "twin_tails": _twin_tails_back,
    "spiky": _spiky_back,
    "bun": _bun_back,
    "buns": _buns_back,
    "ponytail": _ponytail_back,
    "curls": _curls_back,
}
