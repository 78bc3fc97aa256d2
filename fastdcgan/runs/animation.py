"""Animated pictures: WebP, or GIF for programs that can't show WebP."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from fastdcgan.storage.files import replacing

T = TypeVar("T")

FORMATS = {".webp": "WEBP", ".gif": "GIF"}

WEBP_QUALITY = 82
"""0 to 100. Artefacts can't be seen in enlarged samples, and a frame takes a tenth of its PNG."""

WEBP_METHOD = 2
"""Encoding effort, 0 to 6: more takes twice as long and saves a few per cent of the size."""


def save_animation(frames: Sequence[Image.Image], path: Path, frame_ms: int, last_extra_ms: int = 0) -> None:
    """Write frames of one size as an endless animation, whole or not at all.

    Args:
        frames: at least one. They are taken one at a time, so a sequence that makes them when they are asked for takes
            the memory of one.
        path: ends in a key of FORMATS.
        frame_ms: how long each frame is shown.
        last_extra_ms: how much longer the last one is shown.

    Raises:
        OSError: it can't be written.
    """
    with replacing(path) as file:
        _MultiFrameImage(frames).save(
            file,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            duration=[frame_ms] * (len(frames) - 1) + [frame_ms + last_extra_ms],
            loop=0,
            quality=WEBP_QUALITY,
            method=WEBP_METHOD,
        )


class _MultiFrameImage(Image.Image):
    """Presents a sequence of pictures to Pillow's encoders as an image of several frames."""

    def __init__(self, frames: Sequence[Image.Image]) -> None:
        super().__init__()
        self._frames, self.n_frames = frames, len(frames)
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError
        picture = self._frames[frame]
        self.im, self._mode, self._size, self._position = picture.im, picture.mode, picture.size, frame

    def tell(self) -> int:
        return self._position


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items (2 or more), evenly spaced, with the first and the last; all where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]
