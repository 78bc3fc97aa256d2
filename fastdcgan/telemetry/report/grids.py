"""The sample grids of a run, read back one at a time: encoded for the page, and how much the samples in them differ."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastdcgan.gan.architecture import Size
from fastdcgan.runs.animation import WEBP_METHOD, WEBP_QUALITY, evenly_spaced
from fastdcgan.telemetry.checkerboard import on_checkerboard

MAX_SIDE = 640
"""Pixels: larger grids are downscaled."""

MAX_GRIDS = 48
"""Read of a run."""

MAX_TOTAL_PIXELS = 40_000_000
"""Read of a run, which bounds the time that large grids take. The first and the last are always read."""

_PADDING = 2  # pixels between the pictures of a grid, as torchvision draws it

_PNG_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises for damaged PNGs."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sample grid. The picture itself is not kept in memory: see `picture`."""

    step: int
    path: Path
    size: tuple[int, int]
    """Width and height, downscaled to `MAX_SIDE`."""

    webp: bytes
    """The downscaled picture as WebP."""

    diversity: float | None
    """See `diversity`; None where the pictures of the grid can't be told apart."""

    def picture(self) -> Image.Image:
        """Read the grid again: RGB, downscaled to `MAX_SIDE`. Raises ValueError if it was changed meanwhile."""
        picture = read_picture(self.path)
        if isinstance(picture, str) or downscaled(picture).size != self.size:
            raise ValueError(f"{self.path.name} was changed while the report was made")
        return downscaled(picture)


class GridPictures(Sequence[Image.Image]):
    """The pictures of grids, each read when it is asked for."""

    def __init__(self, grids: Sequence[Grid]) -> None:
        self._grids = grids

    def __len__(self) -> int:
        return len(self._grids)

    def __getitem__(self, number: Any) -> Any:
        return self._grids[number].picture()


def read_grids(folder: Path, resolution: Size | None, *, row_a_class: bool = False) -> tuple[list[Grid], list[str]]:
    """Read the grids `step-00000010.png` of a folder, evenly spaced where there are many.

    Args:
        folder: need not exist.
        resolution: of each sample; None if unknown.
        row_a_class: as in `diversity`.

    Returns:
        the grids by step, all of the last one's size; and why others were skipped, a line each.
    """
    digits = {path: path.stem.removeprefix("step-") for path in folder.glob("step-*.png") if path.is_file()}
    steps = sorted((int(text), path) for path, text in digits.items() if text.isdecimal() and len(text) < 16)
    if not steps:
        return [], []
    last = read_picture(steps[-1][1])
    pixels = 0 if isinstance(last, str) else last.width * last.height
    del last
    count = min(MAX_GRIDS, max(2, MAX_TOTAL_PIXELS // max(1, pixels)))
    grids, skipped = [], []
    for step, path in evenly_spaced(steps, count):
        grid = _read_grid(step, path, resolution, row_a_class)
        if isinstance(grid, str):
            skipped.append(f"{path.name}: {grid}")
        else:
            grids.append(grid)
    return _of_one_size(grids, skipped), skipped


def _read_grid(step: int, path: Path, resolution: Size | None, row_a_class: bool) -> Grid | str:
    """A grid, or why it can't be read."""
    picture = read_picture(path)
    if isinstance(picture, str):
        return picture
    differ = None if resolution is None else diversity(_pixels(picture), resolution, row_a_class=row_a_class)
    picture = downscaled(picture)
    return Grid(step=step, path=path, size=picture.size, webp=encode_webp(picture), diversity=differ)


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """With colours weighted by alpha: what lies under transparent pixels is not seen."""
    return np.asarray(picture.convert("RGBa") if picture.mode == "RGBA" else picture)


def read_picture(path: Path) -> Image.Image | str:
    """A PNG as RGB, or RGBA where it is that, or why it can't be read."""
    if not path.is_file():
        return "no such file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                return image.convert("RGBA" if image.has_transparency_data else "RGB")
    except _PNG_ERRORS:
        return "not a whole PNG" if path.stat().st_size else "an empty file"


def downscaled(picture: Image.Image) -> Image.Image:
    """The picture as RGB with no side longer than `MAX_SIDE`; on a checkerboard where it is transparent."""
    picture = on_checkerboard(picture)
    if max(picture.size) <= MAX_SIDE:
        return picture
    smaller = picture.copy()
    smaller.thumbnail((MAX_SIDE, MAX_SIDE))
    return smaller


def encode_webp(picture: Image.Image) -> bytes:
    """The picture as a WebP file."""
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return out.getvalue()


def diversity(grid_HWC: NDArray[np.uint8], resolution: Size, *, row_a_class: bool = False) -> float | None:
    """How much the pictures of a grid differ from each other: 0 if they are all the same.

    The standard deviation over the pictures, averaged over pixels, as a share of the range from black to white. None
    where this is no grid of at least two pictures of that size.

    Args:
        grid_HWC: the grid.
        resolution: of a picture in it.
        row_a_class: each row is of another class: pictures are compared within a row, and that is averaged.
    """
    (height, width), (down, across) = resolution, (side + _PADDING for side in resolution)
    rows, columns = (grid_HWC.shape[0] - _PADDING) // down, (grid_HWC.shape[1] - _PADDING) // across
    if grid_HWC.shape[:2] != (rows * down + _PADDING, columns * across + _PADDING):
        return None
    tiles = grid_HWC[_PADDING:, _PADDING:].reshape(rows, down, columns, across, -1)
    stride = max(1, min(resolution) // 64)  # neighbouring pixels differ alike
    tiles = tiles[:, :height:stride, :, :width:stride].swapaxes(1, 2).reshape(rows * columns, -1)
    if row_a_class:
        return float(tiles.reshape(rows, columns, -1).astype(np.float32).std(1).mean() / 255) if columns > 1 else None
    used = len(tiles)
    while used and not tiles[used - 1].any():  # the last row of a grid may not be full
        used -= 1
    return float(tiles[:used].astype(np.float32).std(0).mean() / 255) if used > 1 else None


def _of_one_size(grids: Sequence[Grid], skipped: list[str]) -> list[Grid]:
    """The grids of the last one's size. The others are added to `skipped`."""
    skipped += [
        f"step-{grid.step:08d}.png: not of the size of the others" for grid in grids if grid.size != grids[-1].size
    ]
    return [grid for grid in grids if grid.size == grids[-1].size]
