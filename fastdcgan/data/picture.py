"""What a picture file looks like, one picture at a time: the slow truth that every faster decoder is tested against.

Only Pillow is used here. Colour profiles are ignored, as they are by torchvision and DALI.
"""

import struct
import warnings
import zlib
from io import BytesIO
from os import PathLike
from typing import BinaryIO, NamedTuple

import numpy as np

# Pillow preloads the other formats' plug-ins, and not WebP's.
from PIL import Image, UnidentifiedImageError, WebPImagePlugin

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded; it is Pillow's own bound."""

FORMATS = ("JPEG", "PNG", "BMP", WebPImagePlugin.WebPImageFile.format, "GIF")

CROP_FIRST_ASPECT = 4
"""Pictures with sides further apart than this are cropped and resized in one go (see `fit`)."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"GIF8")
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


def examine(data: bytes) -> Examined:
    """Decode a picture file in full and say what is in it.

    Raises:
        ValueError: the file can't be used; the message is the reason, short enough for a list ("truncated image").
    """
    image = _decode(BytesIO(data))
    orientation = _orientation(image)
    plain = orientation == 1 and image.mode in ("L", "RGB") and not image.has_transparency_data
    plain = plain and _stored_plainly(image, data)
    width, height = image.size if orientation < 5 else reversed(image.size)
    return Examined(width, height, plain, f"{image.format} {image.mode}")


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
        return as_channels(_upright(_decode(BytesIO(source))), channels)
    try:
        with open(source, "rb") as file:  # noqa: PTH123 (a path may be a plain str)
            return as_channels(_upright(_decode(file)), channels)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


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


def _decode(file: BinaryIO) -> Image.Image:
    """Decode the first frame as it is stored. Raises ValueError; OSError of the file system passes through."""
    header = file.read(4)
    if not header:
        raise ValueError("empty file")
    file.seek(0)
    too_large = f"more than the limit of {MAX_PIXELS:,} pixels"
    try:
        image = Image.open(file, formats=FORMATS)
        width, height = image.size
        if width * height <= MAX_PIXELS:
            image.load()
            return image
    except UnidentifiedImageError as error:
        if header.startswith(_SIGNATURES):
            raise ValueError("truncated or damaged image") from error
        raise ValueError("not an image (JPEG, PNG, BMP, WebP or GIF)") from error
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError("truncated image" if "truncated" in str(error).lower() else "damaged image") from error
    raise ValueError(f"{width}x{height} pixels is {too_large}")


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
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert(_MODES[channels])


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
            return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
        case "PNG":
            # libpng complains on the terminal of many a colour profile.
            return data[24] == 8 and "icc_profile" not in image.info and not getattr(image, "is_animated", False)
        case "BMP":
            return data[28] == 24
        case "WEBP":
            return data[12:16] in (b"VP8 ", b"VP8L")
        case _:
            return False
