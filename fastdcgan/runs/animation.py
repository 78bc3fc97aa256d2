"""Animated pictures: WebP, or GIF for what shows nothing newer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from fastdcgan.storage.files import replacing

T = TypeVar("T")

FORMATS = {".webp": "WEBP", ".gif": "GIF"}

QUALITY = 82
"""Of WebP: noise around edges can't be seen in what was enlarged, and a frame takes a tenth of its PNG."""

EFFORT = 2
"""Of WebP, 0 to 6: more takes twice as long for a few per cent of the size."""


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int, hold: int = 0) -> None:
    """Write frames of one size as an animation that begins anew at its end, whole or not at all.

    Args:
        frames: at least one.
        path: ends in a key of FORMATS.
        milliseconds: that each frame is shown.
        hold: milliseconds more for the last one.

    Raises:
        OSError: it can't be written.
    """
    first, *others = frames
    with replacing(path) as file:
        first.save(
            file,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            append_images=others,
            duration=[milliseconds] * len(others) + [milliseconds + hold],
            loop=0,
            quality=QUALITY,
            method=EFFORT,
        )


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items (two or more), evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]
