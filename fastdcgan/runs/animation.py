"""Animated pictures: WebP, GIF for programs that can't show WebP, or MP4 where ffmpeg is installed."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from PIL import Image

from fastdcgan.storage.files import replacing

T = TypeVar("T")

FORMATS = {".webp": "WEBP", ".gif": "GIF"}

VIDEO = ".mp4"

CRF = 18
"""x264's quality: 0 is without loss, 18 looks like it, and more is smaller."""

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


def check_video_can_be_written() -> None:
    """Raises ValueError where no ffmpeg is installed."""
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "a .mp4 takes ffmpeg: pip install 'fastdcgan[video]', or let --out end in .webp or .gif"
        ) from error


def save_video(frames: Sequence[Image.Image], path: Path, frame_ms: int, times: int = 1) -> None:
    """Write frames of one size as an MP4 (H.264) that every browser and telephone plays, whole or not at all.

    Args:
        frames: at least one, taken one at a time. What is transparent becomes white, as a video has no alpha.
        path: ends in VIDEO.
        frame_ms: how long each frame is shown.
        times: how often they are shown, as a video is no loop by itself.

    Raises:
        OSError: it can't be written.
    """
    import imageio_ffmpeg

    width, height = (side + side % 2 for side in frames[0].size)  # H.264 halves the colours' resolution
    with TemporaryDirectory() as folder, replacing(path) as file:
        made = Path(folder) / path.name
        writer = imageio_ffmpeg.write_frames(
            str(made),
            (width, height),
            fps=1000 / frame_ms,
            macro_block_size=2,
            quality=None,
            output_params=["-crf", str(CRF), "-movflags", "+faststart"],
        )
        writer.send(None)
        for _ in range(times):
            for frame in frames:
                page = Image.new("RGBA", (width, height), "white")
                page.alpha_composite(frame.convert("RGBA"))
                writer.send(page.convert("RGB").tobytes())
        writer.close()
        file.write(made.read_bytes())


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
