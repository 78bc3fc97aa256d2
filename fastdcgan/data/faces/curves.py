"""Outlines in face coordinates: polylines, smooth curves, arcs and ellipses."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""Face coordinates (see `portrait.py`), [N, 2]."""

STEPS_PER_CURVE = 7
"""Line segments between two points of a curve."""


def as_points(*pairs: tuple[float, float]) -> Points:
    """Points as an array."""
    return np.array(pairs, dtype=np.float64)


_T = np.arange(STEPS_PER_CURVE) / STEPS_PER_CURVE
_CATMULL_ROM = 0.5 * np.stack(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, -(_T**2) + _T**3], axis=1
)
_BOW = (4 * _T * (1 - _T))[None, :, None]
_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def smooth_curve(points: Points, *, closed: bool = False) -> Points:
    """A smooth (Catmull-Rom) curve through the points."""
    curve: Points = (_CATMULL_ROM @ points[_knots(len(points), closed)]).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


@lru_cache(256)
def polyline(corners: str) -> Points:
    """Points written as "x y  x y  ..."."""
    path = np.array(corners.split(), dtype=np.float64).reshape(-1, 2)
    path.setflags(write=False)
    return path


@lru_cache(256)
def curve_through(corners: str, *, closed: bool = False) -> Points:
    """A smooth curve through points written as for `polyline`."""
    curve = smooth_curve(polyline(corners), closed=closed)
    curve.setflags(write=False)
    return curve


@lru_cache(64)
def _knots(count: int, closed: bool) -> npt.NDArray[np.intp]:
    """The indices of the four points that shape each segment of a curve, [segments, 4]."""
    first = np.arange(-1, count - 1 if closed else count - 2)[:, None] + np.arange(4)
    return first % count if closed else np.clip(first, 0, count - 1)


def bend_segments(points: Points, bows: float | npt.NDArray[np.float64]) -> Points:
    """Bend every segment of a polyline into an arc that keeps its ends: locks of hair, spikes, scallops.

    A bow is the arc's height as a share of the segment's length, positive to the left of its direction.
    """
    starts, along = points[:-1], np.diff(points, axis=0)
    left = np.stack([along[:, 1], -along[:, 0]], axis=1) * np.reshape(bows, (-1, 1))
    arcs = starts[:, None] + along[:, None] * _T[None, :, None] + left[:, None] * _BOW
    return np.concatenate([arcs.reshape(-1, 2), points[-1:]])


def ellipse(x: float, y: float, width: float, height: float) -> Points:
    """An ellipse around (x, y), given by half its width and height."""
    return shifted(_CIRCLE * (width, height), x, y)


def shifted(points: Points, x: float, y: float) -> Points:
    """The points moved by (x, y)."""
    moved: Points = np.add(points, (x, y))
    return moved


def mirrored(points: Points, side: float = -1) -> Points:
    """The points mirrored left to right if `side` is -1, unchanged if it is 1; other values stretch them too."""
    return points * (side, 1.0)


def join_mirrored(right: Points) -> Points:
    """Join the right half of an outline, from the crown down, to its mirror image: from bottom left to bottom right."""
    return np.concatenate([mirrored(right[:0:-1]), right])
