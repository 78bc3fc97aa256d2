"""The reference decoder, by Pillow, one picture at a time: faster ones are tested against it.

Colour profiles are ignored, as they are by torchvision and DALI.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from threading import RLock
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastdcgan.data.decoding.fitting import Frame, fit
from fastdcgan.data.decoding.formats import BRANDS_BYTES, begins_like_picture, formats_of

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded; it is Pillow's own limit.

Decoding a JPEG of this size takes 0.7 GiB by Pillow and 1.1 GiB by DALI, 0.5 GiB more if it is progressive, and 2.7 GiB
for a picture with transparency. Checking takes next to nothing for a JPEG, 0.5 GiB for a progressive one, and 0.7 GiB
for other formats.
"""

LARGE = 2**22
"""Pictures of more pixels, and files of more bytes, are decoded by Pillow one at a time."""

MAX_SCANS = 500
"""Limit for a JPEG. A progressive one has about ten; each is decoded for all pixels, and may take only a few bytes."""

NOT_AN_IMAGE = "not an image (JPEG, PNG, GIF, WebP, TIFF, AVIF, HEIC and others)"
"""The reason given for files without the signature of a format."""

UNKNOWN_RANGE = "values of unknown range: save it with 8 or 16 bits, or as .npy (--value-range)"
"""The reason given for pictures of floating-point numbers, and of 32 bits or a sign."""

_TOO_LARGE = f"more than the limit of {MAX_PIXELS:,} pixels"
_LOSSLESS_JPEG = b"\xff\xc3"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_READABLE_MODES = {
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"),
    *("I;16", "I;16L", "I;16B", "I;16N", "I"),
}
_ORIENTATION_TAG, _PHOTOMETRIC_TAG = 0x0112, 0x0106
_WHITE_IS_ZERO = 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's parsers raise on damaged files.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)

# Pillow warns about files that it reads all the same. Not `warnings.catch_warnings`: it isn't thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_large_pictures_lock = RLock()


class PictureInfo(NamedTuple):
    """What the check knows of a usable picture."""

    width: int
    """Once upright."""

    height: int
    plain: bool
    """8 bits, grey or RGB, opaque, upright as stored, one frame, complete: all decoders give the same pixels."""

    kind: str
    """Pillow's names of format and mode, and which page is taken where there are several: "TIFF RGB, first page"."""

    bytes: int
    """Size of its file."""


def lock_if_large(amount: int) -> AbstractContextManager[object]:
    """A lock to hold while Pillow decodes `amount` pixels, or a file of `amount` bytes; none unless that is `LARGE`.

    Pillow takes 4 bytes a pixel, several times over where it converts, so large pictures are decoded one at a time.
    """
    return _large_pictures_lock if amount > LARGE else nullcontext()


def examine(data: bytes) -> PictureInfo:
    """Check a picture file by decoding it.

    A JPEG is decoded at an eighth of its size: that reads all of its data, so it refuses the same files as a full
    decode, in half the time.

    Raises:
        ValueError: the file can't be used; the message is a short reason without the file's name ("truncated image").
    """
    file = BytesIO(data)
    image = _open(file)
    size = image.size
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"more than the limit of {MAX_SCANS:,} scans")
    if _LOSSLESS_JPEG not in data:  # libjpeg can't scale lossless ones, and Pillow doesn't know
        image.draft(None, (1, 1))
    pages = ", first page" if _has_more_pages(image) else ""
    with _loaded(image, size):
        _check_mode(image)
        size = image.size if image.format == "ICO" else size  # of the largest icon, which the header may have wrong
        orientation = _orientation(image)
        plain = orientation == 1 and image.mode in ("L", "RGB") and not image.has_transparency_data
        plain = plain and _is_stored_plainly(image, data)
        width, height = size if orientation < 5 else reversed(size)
        return PictureInfo(width, height, plain, f"{image.format} {image.mode}{pages}", len(data))


@contextmanager
def opened(data: bytes, channels: int) -> Iterator[Image.Image]:
    """Fully decode a picture file, under `lock_if_large`.

    It is turned upright (EXIF orientation) and converted to 8 bits (16-bit values are divided by 257). Of animations
    the first frame is taken, of several pages the first, of an icon's sizes the largest. Transparency is kept for 4
    channels, and composited over white for 1 and 3.

    Args:
        data: the bytes of the file.
        channels: 1, 3 or 4 give a picture of mode "L", "RGB" or "RGBA".

    Raises:
        ValueError: the file can't be used; the message is the reason without the file's name.
    """
    with _loaded(_open(BytesIO(data))) as image:
        _check_mode(image)
        yield as_channels(_upright(_black_is_zero(image)), channels)


def open_fitted(data: bytes, channels: int, frame: Frame) -> Image.Image:
    """`opened`, then `fit`, under one lock. Raises ValueError as `opened`."""
    with opened(data, channels) as image:
        return fit(image, frame)


def _open(file: BinaryIO) -> Image.Image:
    """Read the header alone. Raises ValueError for damage, OSError of the file system."""
    beginning = file.read(BRANDS_BYTES)
    if not beginning:
        raise ValueError("empty file")
    file.seek(0)
    formats = formats_of(beginning)
    try:
        with _damage_as_value_error():
            image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        if begins_like_picture(beginning):
            raise ValueError("truncated or damaged image") from error
        raise ValueError(NOT_AN_IMAGE) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels is {_TOO_LARGE}")
    return image


@contextmanager
def _loaded(image: Image.Image, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Decode the first frame. `size`: of the picture in the file, where `draft` has changed that of `image`."""
    width, height = size or image.size
    with lock_if_large(width * height):
        with _damage_as_value_error():
            image.load()
        yield image


@contextmanager
def _damage_as_value_error() -> Iterator[None]:
    """Raise what Pillow raises for a damaged file as a ValueError with a short reason."""
    try:
        yield
    except UnidentifiedImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(_TOO_LARGE) from error
    except _DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError("truncated image" if "truncated" in str(error).lower() else "damaged image") from error


def _has_more_pages(image: Image.Image) -> bool:
    """Whether a TIFF has a second page; it stays at the first."""
    if image.format != "TIFF":
        return False
    try:
        image.seek(1)
    except _DECODER_ERRORS:
        return False
    finally:
        image.seek(0)
    return True


def _check_mode(image: Image.Image) -> None:
    """Raises ValueError where the values of a decoded picture can't be brought to 8 bits."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(UNKNOWN_RANGE)
    if image.mode not in _READABLE_MODES:
        raise ValueError(f"colours of a kind that is not read ({image.mode}): save it as RGB")


def _black_is_zero(image: Image.Image) -> Image.Image:
    """A picture whose white is stored as 0, turned round, which Pillow does for 8 bits but not for 16."""
    if not image.mode.startswith("I;16") or image.format != "TIFF":
        return image
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) != _WHITE_IS_ZERO:
        return image
    return Image.fromarray(65535 - np.asarray(image).astype(np.uint16))


def _orientation(image: Image.Image) -> int:
    """1 to 8 by EXIF's numbering; 1 (upright) where there is no valid one."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except _DECODER_ERRORS:
        return 1  # metadata is damaged, the picture is not
    return orientation if orientation in _UPRIGHT else 1


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def as_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert to 8-bit "L", "RGB" or "RGBA" (1, 3 or 4 channels); for 1 and 3 transparency is composited over white."""
    if image.mode.startswith("I"):
        image = _in_8_bits(image)
    if image.has_transparency_data and channels != 4:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, _converted(image, "RGBA"))
    return _converted(image, _MODES[channels])


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # Pillow copies even where nothing changes


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey values as "L"; Pillow's own conversion would clip them."""
    levels = np.asarray(image).clip(0, 65535).astype(np.uint32)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _is_stored_plainly(image: Image.Image, data: bytes) -> bool:
    """Whether a picture is stored in a way that other decoders are known to read as Pillow does."""
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
