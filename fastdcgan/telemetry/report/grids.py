"""The sample grids of a run, read back: as pictures to show, and how much the samples in them differ."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastdcgan.runs.animation import evenly_spaced

SIDE = 640
"""Pixels: larger grids are shown at this size."""

MOST_GRIDS = 48
"""Read of a run."""

MOST_PIXELS = 40_000_000
"""Read of a run, so that large grids don't take longer: but always the first and the last."""

_PADDING = 2  # between the pictures of a grid, as torchvision draws it

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow raises for damaged PNGs.


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of samples."""

    step: int
    picture: Image.Image
    """RGB, no side longer than SIDE."""

    diversity: float | None
    """See `diversity`; None where the pictures of the grid can't be told apart."""


def read_grids(folder: Path, resolution: int | None) -> tuple[list[Grid], list[str]]:
    """Grids `step-00000010.png` in a folder, by step, evenly chosen where there are many; and what was left out, why.

    Args:
        folder: needn't be there.
        resolution: pixels a side of each sample; None if unknown.
    """
    named = {path: path.stem.removeprefix("step-") for path in folder.glob("step-*.png") if path.is_file()}
    steps = sorted((int(digits), path) for path, digits in named.items() if digits.isdecimal() and len(digits) < 16)
    if not steps:
        return [], []
    last = read_picture(steps[-1][1])
    pixels = last.width * last.height if isinstance(last, Image.Image) else 0
    most = min(MOST_GRIDS, max(2, MOST_PIXELS // max(1, pixels)))
    grids, left_out = [], []
    for step, path in evenly_spaced(steps, most):
        picture = read_picture(path)
        if isinstance(picture, str):
            left_out.append(f"{path.name}: {picture}")
            continue
        differ = None if resolution is None else diversity(np.asarray(picture), resolution)
        grids.append(Grid(step=step, picture=shown(picture), diversity=differ))
    return _of_one_size(grids, left_out), left_out


def read_picture(path: Path) -> Image.Image | str:
    """A PNG as RGB, or why it can't be read."""
    if not path.is_file():
        return "no such file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                return image.convert("RGB")
    except _UNREADABLE:
        return "not a whole PNG" if path.stat().st_size else "an empty file"


def shown(picture: Image.Image) -> Image.Image:
    """The picture, smaller if it is large."""
    if max(picture.size) <= SIDE:
        return picture
    smaller = picture.copy()
    smaller.thumbnail((SIDE, SIDE))
    return smaller


def diversity(grid_HWC: NDArray[np.uint8], resolution: int) -> float | None:
    """How much the pictures of a grid differ from each other: 0 if they are all the same.

    The standard deviation over the pictures, in the mean over pixels, as a share of the range from black to white.
    None where this is no grid of at least two pictures of that size.
    """
    pitch = resolution + _PADDING
    rows, columns = ((side - _PADDING) // pitch for side in grid_HWC.shape[:2])
    if resolution < 1 or grid_HWC.shape[:2] != (rows * pitch + _PADDING, columns * pitch + _PADDING):
        return None
    tiles = grid_HWC[_PADDING:, _PADDING:].reshape(rows, pitch, columns, pitch, -1)
    every = max(1, resolution // 64)  # pixels next to each other differ alike
    tiles = tiles[:, :resolution:every, :, :resolution:every].swapaxes(1, 2).reshape(rows * columns, -1)
    used = len(tiles)
    while used and not tiles[used - 1].any():  # the last row of a grid may not be full
        used -= 1
    return float(tiles[:used].astype(np.float32).std(0).mean() / 255) if used > 1 else None


def _of_one_size(grids: Sequence[Grid], left_out: list[str]) -> list[Grid]:
    """Those of the size of the last one. The others are named in `left_out`."""
    left_out += [
        f"step-{grid.step:08d}.png: not of the size of the others"
        for grid in grids
        if grid.picture.size != grids[-1].picture.size
    ]
    return [grid for grid in grids if grid.picture.size == grids[-1].picture.size]
