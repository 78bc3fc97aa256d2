"""Formats of picture files: what they are called, how they begin, and what else is needed to read them."""

import importlib
import importlib.util
import re
from importlib.metadata import version
from threading import Lock

import PIL

# Pillow preloads the other formats' plug-ins, and not these.
from PIL import AvifImagePlugin, IcoImagePlugin, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin

FORMATS = (
    *("JPEG", "PNG", "BMP", "GIF", "PPM"),
    *(
        plugin.format
        for plugin in (
            *(WebPImagePlugin.WebPImageFile, TiffImagePlugin.TiffImageFile, AvifImagePlugin.AvifImageFile),
            *(Jpeg2KImagePlugin.Jpeg2KImageFile, IcoImagePlugin.IcoImageFile),
        )
    ),
)
"""Pillow's names. Others aren't tried: what reads Encapsulated PostScript, for one, starts programs."""

FORMAT_NAMES = "JPEG, PNG, BMP, WebP, GIF, TIFF, PNM, AVIF, JPEG 2000, ICO or HEIC"
"""As the user reads them."""

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".ico", ".heic", ".heif"),
)
"""Of picture files, in upper or lower case. A file with another suffix is a picture if `may_be_picture`."""

SIGNATURE_BYTES = 18
"""How much of a file's beginning `may_be_picture` needs."""

BRANDS_BYTES = 64
"""How much `formats_of` looks at."""

INSTALL_HEIF = "HEIC needs a plug-in: pip install 'fastdcgan[heic]'"

_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
_STRONG = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", *_JPEG_2000)
_WEAK = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\1\0", *_JPEG_2000)
_PNM = re.compile(rb"P[1-6]\s")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")  # the last two are HEIC's too
_register_lock = Lock()


def has_picture_suffix(name: str) -> bool:
    """Whether a file is named like a picture."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def may_be_picture(beginning: bytes) -> bool:
    """Whether a file with these first `SIGNATURE_BYTES` bytes is a picture, perhaps damaged, whatever it is called.

    Not by how TIFF begins: so do many cameras' raw files, in which Pillow would find no more than a thumbnail. Nor as
    PNM and ICO do, which is in few bytes.
    """
    if beginning.startswith(b"BM"):  # two letters that any text may begin with
        return int.from_bytes(beginning[14:18], "little") in _BMP_HEADERS
    if beginning.startswith(b"RIFF"):
        return beginning[8:12] == b"WEBP"
    if beginning[4:8] == b"ftyp":  # MP4 too
        return beginning[8:12] in (*_AVIF_BRANDS, *_HEIF_BRANDS)
    return beginning.startswith(_STRONG)


def begins_like_picture(beginning: bytes) -> bool:
    """Whether a file that is called a picture is one that is damaged, rather than none, by its beginning."""
    return beginning.startswith(_WEAK) or bool(_PNM.match(beginning)) or may_be_picture(beginning)


def formats_of(beginning: bytes) -> tuple[str, ...]:
    """Pillow's formats to try on a file with these first `BRANDS_BYTES` bytes, with the plug-in that HEIC needs.

    Raises:
        ValueError: it isn't installed; the message says how to.
    """
    end = int.from_bytes(beginning[:4], "big") if beginning[4:8] == b"ftyp" else 0
    brands = {beginning[at : at + 4] for at in range(8, min(end, len(beginning)), 4)}
    if brands.isdisjoint(_HEIF_BRANDS):
        return FORMATS
    if importlib.util.find_spec("pillow_heif") is None:
        raise ValueError(INSTALL_HEIF)
    with _register_lock:
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


def decoder_versions() -> str:
    """Of Pillow, and of its plug-in for HEIC if there is one: what a check of pictures depends on."""
    heif = version("pillow_heif") if importlib.util.find_spec("pillow_heif") is not None else "not installed"
    return f"Pillow {PIL.__version__}, pillow-heif {heif}"
