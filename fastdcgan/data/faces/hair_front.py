"""The hair in front of the head: fringe, side locks and shine."""

from collections.abc import Callable

import numpy as np

from fastdcgan.data.faces.canvas import Canvas
from fastdcgan.data.faces.character import BUSHY_STYLES, Character, hair_tones
from fastdcgan.data.faces.colours import WHITE, mix
from fastdcgan.data.faces.curves import (
    Points,
    as_points,
    bend_segments,
    curve_through,
    mirrored,
    polyline,
    smooth_curve,
)


def _fan(nodes: Points, bow: float) -> Points:
    """Locks that curve away from the middle of the forehead."""
    middles = nodes[:-1, 0] + nodes[1:, 0]
    return bend_segments(nodes, np.where(middles < 0, bow, -bow))


def _tousled(character: Character) -> Points:
    nodes = [(-0.44, -0.1)]
    for k, x in enumerate((-0.33, -0.12, 0.1, 0.31)):
        nodes.append((x + 0.03 * character.deviations[k], 0.05 + 0.05 * character.deviations[k + 5]))
        nodes.append((x + 0.11, -0.14 + 0.05 * character.deviations[k + 10]))
    return _fan(as_points(*nodes), 0.1)


def _straight(character: Character) -> Points:
    nodes = []
    for k, x in enumerate((-0.43, -0.26, -0.09, 0.09, 0.26)):
        nodes += [(x, -0.04 + 0.01 * character.deviations[k]), (x + 0.01, 0.02), (x + 0.155, 0.02)]
    return bend_segments(as_points(*nodes, (0.43, -0.04)), -0.02)


def _centre_part(character: Character) -> Points:
    locks = polyline("-.45 -.05  -.42 .07  -.02 -.48  .02 -.48  .42 .07  .45 -.05")
    return bend_segments(locks, 0.1 + 0.04 * character.deviations[0])


def _side_part(character: Character) -> Points:
    j = character.deviations
    long = as_points((-0.45, -0.06), (-0.4 + 0.02 * j[0], 0.08), (-0.24, -0.12), (-0.12 + 0.03 * j[1], 0.03))
    return _fan(np.concatenate([long, polyline(".2 -.45  .43 .05  .45 -.06")]), 0.12)


def _centre_lock(character: Character) -> Points:
    tips = [x + 0.03 * shift for x, shift in zip((-0.33, 0.02, 0.33), character.deviations, strict=False)]
    left, right = polyline("-.45 -.08"), polyline(".45 -.08")
    inner = as_points((tips[0], 0.04), (-0.12, -0.16), (tips[1], 0.19), (0.12, -0.16), (tips[2], 0.04))
    return _fan(np.concatenate([left, inner, right]), 0.08)


def _swept_back(character: Character) -> Points:
    return bend_segments(polyline("-.46 0  -.4 -.22  -.16 -.36  .12 -.38  .4 -.22  .46 0"), 0.1)


def _scalloped(character: Character) -> Points:
    return bend_segments(polyline("-.46 .02  -.42 -.1  -.28 -.17  -.1 -.21  .1 -.21  .28 -.17  .42 -.1  .46 .02"), -0.3)


FRINGES: dict[str, Callable[[Character], Points]] = {
    "tousled": _tousled,
    "straight": _straight,
    "centre_part": _centre_part,
    "side_part": _side_part,
    "centre_lock": _centre_lock,
    "swept_back": _swept_back,
    "scalloped": _scalloped,
}
"""Each gives the fringe's lower edge from left to right."""


def fringe_edge(character: Character) -> Points:
    """The front hair's lower edge from left to right: side lock, fringe, side lock."""
    fringe = FRINGES[character.fringe](character)
    if character.side < 0:
        fringe = mirrored(fringe[::-1])
    drop = character.side_lock
    outer = smooth_curve(as_points((-0.615, -0.1), (-0.625, drop * 0.6), (-0.54, drop)))
    left = smooth_curve(as_points((-0.54, drop), (-0.475, drop * 0.5), (fringe[0, 0], fringe[0, 1])))
    right = smooth_curve(as_points((fringe[-1, 0], fringe[-1, 1]), (0.475, drop * 0.5), (0.54, drop)))
    return np.concatenate([outer, left, fringe, right, mirrored(outer[::-1])])


def draw_hair_front(canvas: Canvas, character: Character, edge: Points) -> None:
    """Draw the hair above `edge` (see `fringe_edge`)."""
    hair, line = hair_tones(character)
    top = curve_through(".615 -.1  .58 -.42  .36 -.71  0 -.79  -.36 -.71  -.58 -.42  -.615 -.1")
    canvas.fill(np.concatenate([edge, top]), hair)
    canvas.line(edge, line)
    if character.style not in BUSHY_STYLES:
        canvas.line(top, line)
        if character.fringe != "swept_back":
            _shine(canvas, character)
    if character.stray_lock:
        lock = bend_segments(mirrored(polyline("-.08 -.75  .17 -.95  .07 -.75"), character.side), 0.16 * character.side)
        canvas.fill(lock, hair)
        canvas.line(lock, line)


def _shine(canvas: Canvas, character: Character) -> None:
    """The band of light on the crown."""
    light = mix(character.hair, WHITE, 0.42)
    for side in (-1, 1):
        band = polyline(
            ".1 -.56  .24 -.545  .38 -.47  .45 -.36  .4 -.36  .36 -.4  .3 -.41  .24 -.47  .17 -.47  .13 -.52"
        )
        canvas.fill(mirrored(band, side), light)
