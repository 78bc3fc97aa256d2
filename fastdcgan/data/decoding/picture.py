"""What a picture file looks like, one picture at a time: the slow truth that every faster decoder is tested against.

Only Pillow is used here. Colour profiles are ignored, as they are by torchvision and DALI.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from os import PathLike
from threading import RLock
from typing import BinaryIO, NamedTuple

import numpy as np

# Pillow preloads the other formats' plug-ins, and not WebP's.
from PIL import Image, UnidentifiedImageError, WebPImagePlugin

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded; it is Pillow's own bound.

One of just this size takes, as a JPEG, 0.7 GiB to read by Pillow and 1.1 by DALI, and 0.5 GiB more if it is
progressive; with transparency, 2.7 GiB. To check it takes next to nothing for a JPEG, 0.5 GiB for a progressive one,
and 0.7 GiB for others.
"""

LARGE = 2**22
"""Pictures of more pixels, and files of more bytes, are in Pillow's hands one at a time."""

MAX_SCANS = 500
"""Of a JPEG: a progressive one has about ten, each of which is worked out for all pixels, in a few bytes if need be."""

FORMATS = ("JPEG", "PNG", "BMP", WebPImagePlugin.WebPImageFile.format, "GIF")

CROP_FIRST_ASPECT = 4
"""Pictures with sides further apart than this are cropped and resized in one go (see `fit`)."""

FORMAT_NAMES = "JPEG, PNG, BMP, WebP or GIF"
"""Of the formats, for people."""

NOT_AN_IMAGE = f"not an image ({FORMAT_NAMES})"
"""The reason given for files that don't even begin like one."""

SIGNATURE_BYTES = 18
"""So much of a file's beginning tells whether it may be a picture."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"GIF8")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_TOO_LARGE = f"more than the limit of {MAX_PIXELS:,} pixels"
_LOSSLESS_JPEG = b"\xff\xc3"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's parsers raise on files that are damaged in one way or another.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)

# Pillow warns about files it can read all the same. `warnings.catch_warnings` would not do: it is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_large_ones_turn = RLock()


class Geometry(NamedTuple):
    """A picture is resized to `width` x `height`, then a square is cut out of that at (`left`, `top`)."""

    width: int
    height: int
    left: int
    top: int


class Examined(NamedTuple):
    """What is known of a usable picture: its size once upright, how it is stored, and whether decoders agree on it."""

    width: int
    height: int
    plain: bool
    """8 bits, grey or RGB, opaque, upright as stored, one frame, whole: nothing that decoders disagree about."""

    kind: str
    """Format and mode by Pillow's names, for people: "JPEG RGB"."""

    bytes: int
    """Size of its file."""


def alone_if_large(amount: int) -> AbstractContextManager[object]:
    """Hold this while Pillow works on so many pixels, or on a file of so many bytes: large ones take turns.

    Pillow takes 4 bytes a pixel, several times over where a picture is converted.
    """
    return _large_ones_turn if amount > LARGE else nullcontext()


def may_be_picture(beginning: bytes) -> bool:
    """Whether a file that begins so (`SIGNATURE_BYTES`) is one of the formats, or a damaged one, whatever its name."""
    if beginning.startswith(b"BM"):  # two letters that any text may begin with
        return int.from_bytes(beginning[14:18], "little") in _BMP_HEADERS
    if beginning.startswith(b"RIFF"):
        return beginning[8:12] == b"WEBP"
    return beginning.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))


def examine(data: bytes) -> Examined:
    """Read a picture file to its end and say what is in it.

    A JPEG's data are decoded in full, but its pixels are worked out for an eighth of its size: this refuses the very
    files that a full decode refuses, in half the time.

    Raises:
        ValueError: the file can't be used; the message is the reason, short enough for a list ("truncated image").
    """
    file = BytesIO(data)
    image = _open(file)
    size = image.size
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"more than the limit of {MAX_SCANS:,} scans")
    if _LOSSLESS_JPEG not in data:  # libjpeg doesn't scale that kind, and Pillow doesn't know
        image.draft(None, (1, 1))
    with _loaded(image, size):
        orientation = _orientation(image)
        plain = orientation == 1 and image.mode in ("L", "RGB") and not image.has_transparency_data
        plain = plain and _stored_plainly(image, data)
        width, height = size if orientation < 5 else reversed(size)
        return Examined(width, height, plain, f"{image.format} {image.mode}", len(data))


def open_picture(source: str | PathLike[str] | bytes, channels: int) -> Image.Image:
    """Open and fully decode a picture file.

    It comes upright (EXIF orientation), in 8 bits (16-bit levels are divided by 257), the first frame of animated
    ones. Transparency is kept for 4 channels, and laid over white for 1 and 3.

    Args:
        source: a path, or the bytes of the file.
        channels: 1, 3 or 4.

    Returns:
        A picture of mode "L", "RGB" or "RGBA".

    Raises:
        ValueError: the file can't be used; the message is the reason alone, without the file's name.
    """
    if isinstance(source, bytes):
        with _loaded(_open(BytesIO(source))) as image:
            return as_channels(_upright(image), channels)
    try:
        with open(source, "rb") as file, _loaded(_open(file)) as image:  # noqa: PTH123 (a path may be a plain str)
            return as_channels(_upright(image), channels)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def open_fitted(data: bytes, channels: int, resolution: int) -> Image.Image:
    """`open_picture` and `fit` in one, so that large pictures can take turns."""
    with _loaded(_open(BytesIO(data))) as image:
        return fit(as_channels(_upright(image), channels), resolution)


def fit_geometry(width: int, height: int, resolution: int) -> Geometry:
    """How torchvision's `Resize(resolution)` and `CenterCrop(resolution)` treat a picture of this size."""
    if width <= height:
        resized_width, resized_height = resolution, int(resolution * height / width)
    else:
        resized_width, resized_height = int(resolution * width / height), resolution
    left = round((resized_width - resolution) / 2.0)
    top = round((resized_height - resolution) / 2.0)
    return Geometry(resized_width, resized_height, left, top)


def fit_box(width: int, height: int, resolution: int) -> tuple[float, float, float, float]:
    """The part (left, top, right, bottom) of a picture, in its own pixels, that `fit` keeps."""
    resized_width, resized_height, left, top = fit_geometry(width, height, resolution)
    scale_x, scale_y = width / resized_width, height / resized_height
    return (
        left * scale_x,
        top * scale_y,
        min((left + resolution) * scale_x, width),
        min((top + resolution) * scale_y, height),
    )


def fit(image: Image.Image, resolution: int) -> Image.Image:
    """Resize the shorter side to `resolution` (bilinear, antialiased) and cut out the middle square.

    The pixels are exactly those of torchvision's `Resize` and `CenterCrop`. Only where the sides are further apart
    than 1 : 4 the square is resampled straight from the part of the picture it shows, because the resized whole
    could be gigantic (8000x20 pixels at resolution 512: 204800x512); that changes levels by rounding alone.
    """
    width, height = image.size
    if max(width, height) > CROP_FIRST_ASPECT * min(width, height):
        box = fit_box(width, height, resolution)
        return image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box)
    resized_width, resized_height, left, top = fit_geometry(width, height, resolution)
    image = image.resize((resized_width, resized_height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + resolution, top + resolution))


def _open(file: BinaryIO) -> Image.Image:
    """Read no more than the header. Raises ValueError; OSError of the file system passes through."""
    header = file.read(4)
    if not header:
        raise ValueError("empty file")
    file.seek(0)
    try:
        with _damage_in_words():
            image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        if header.startswith(_SIGNATURES):
            raise ValueError("truncated or damaged image") from error
        raise ValueError(NOT_AN_IMAGE) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels is {_TOO_LARGE}")
    return image


@contextmanager
def _loaded(image: Image.Image, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """An opened picture with the first frame decoded as it is stored; `size` of what is in the file if not its own."""
    width, height = size or image.size
    with alone_if_large(width * height):
        with _damage_in_words():
            image.load()
        yield image


@contextmanager
def _damage_in_words() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(_TOO_LARGE) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError("truncated image" if "truncated" in str(error).lower() else "damaged image") from error


def _orientation(image: Image.Image) -> int:
    """1 to 8 by EXIF's numbering; 1 (upright) where nothing sensible is said."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except _DAMAGE:
        return 1  # metadata is damaged, the picture is not
    return orientation if orientation in _UPRIGHT else 1


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def as_channels(image: Image.Image, channels: int) -> Image.Image:
    """The picture as "L", "RGB" or "RGBA" (1, 3 or 4 channels), in 8 bits, transparency laid over white for 1 and 3."""
    if image.mode.startswith("I"):
        image = _in_8_bits(image)
    if image.has_transparency_data and channels != 4:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, _converted(image, "RGBA"))
    return _converted(image, _MODES[channels])


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # Pillow's own makes a copy of what is as wanted


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey levels as "L"; Pillow's own conversion would clip them."""
    levels = np.asarray(image).clip(0, 65535).astype(np.uint32)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _stored_plainly(image: Image.Image, data: bytes) -> bool:
    """Whether a picture is stored in a way that other decoders are known to read alike."""
    match image.format:
        case "JPEG" | "MPO":
            # No end marker after the last scan: libjpeg fills in, and complains on the terminal.
            return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") and _LOSSLESS_JPEG not in data
        case "PNG":
            # libpng complains on the terminal of many a colour profile.
            return data[24] == 8 and "icc_profile" not in image.info and not getattr(image, "is_animated", False)
        case "BMP":
            return data[28] == 24
        case "WEBP":
            return data[12:16] in (b"VP8 ", b"VP8L")
        case _:
            return False
