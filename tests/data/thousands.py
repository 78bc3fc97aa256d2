"""Three thousand good files of every kind and three hundred bad ones, the same ones every time."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from corpus import PHOTOS, encode, exif, good_files, png, png_16_bits, with_alpha, write_corpus
from PIL import Image

from fastdcgan.data.decoding.formats import may_be_picture

GOOD, BAD = 3_000, 300

MEBIBYTE = 2**20


def ycck(photo: Image.Image) -> bytes:
    """Pillow writes CMYK with Adobe's mark; the last byte of the mark says how the colours are to be taken."""
    data = bytearray(encode(photo.convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def grey_16_bits(photo: Image.Image) -> bytes:
    return png_16_bits(np.asarray(photo.convert("L")).astype(np.uint16) * 257)


def lossless_jpeg(width: int, height: int) -> bytes:
    """A grey picture of one level, of the kind of JPEG that can't be decoded to a smaller size."""
    frame = b"\xff\xc3" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    code = b"\xff\xc4" + struct.pack(">H", 20) + b"\0\1" + bytes(15) + b"\0"
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\1\0\0" + bytes((width * height + 7) // 8)
    return b"\xff\xd8" + frame + code + scan + b"\xff\xd9"


KINDS: dict[str, Callable[[Image.Image, int], bytes]] = {
    "baseline": lambda photo, quality: encode(photo, "JPEG", quality=quality),
    "progressive": lambda photo, quality: encode(photo, "JPEG", quality=quality, progressive=True),
    "444": lambda photo, quality: encode(photo, "JPEG", quality=quality, subsampling=0),
    "420": lambda photo, quality: encode(photo, "JPEG", quality=quality, subsampling=2),
    "grey": lambda photo, quality: encode(photo.convert("L"), "JPEG", quality=quality),
    "cmyk": lambda photo, quality: encode(photo.convert("CMYK"), "JPEG", quality=quality),
    "ycck": lambda photo, _: ycck(photo),
    "adobe": lambda photo, quality: encode(photo, "JPEG", quality=quality, keep_rgb=True),
    "turned": lambda photo, quality: encode(photo, "JPEG", quality=quality, exif=exif(1 + quality % 8)),
    "png": lambda photo, _: encode(photo, "PNG"),
    "palette": lambda photo, _: encode(photo.quantize(32), "PNG"),
    "rgba": lambda photo, _: encode(with_alpha(photo), "PNG"),
    "16 bits": lambda photo, _: grey_16_bits(photo),
    "gif": lambda photo, _: encode(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
    "webp": lambda photo, quality: encode(photo, "WEBP", quality=quality, method=0),
    "moving webp": lambda photo, _: encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(180)], method=0),
    "bmp": lambda photo, _: encode(photo, "BMP"),
    "tiff": lambda photo, _: encode(photo, "TIFF", compression="tiff_lzw"),
    "16-bit tiff": lambda photo, _: encode(Image.fromarray(np.asarray(photo.convert("L")).astype("u2") * 257), "TIFF"),
    "pages": lambda photo, _: encode(photo, "TIFF", save_all=True, append_images=[photo.rotate(180)]),
    "pnm": lambda photo, _: encode(photo, "PPM"),
    "jpeg 2000": lambda photo, _: encode(photo, "JPEG2000"),
    "avif": lambda photo, quality: encode(photo, "AVIF", quality=quality, speed=10),
}

NAMES = (
    "%s.jpg",
    "%s.JPG",
    "%s.jfif",
    "%s.gif",
    "%s.Png",
    "%s",
    "%s.dat",
    "%s.jpg.bak",
    "a  b %s.jpeg",
    "🙂 %s.webp",
    "new\nline %s.jpg",
    os.fsdecode(b"\xff\xfe ") + "%s.png",
    os.fsdecode(b"\xe9") + "%s",
    "in/side/%s.bmp",
    "in/ner %s.jpg/p",
)


def photographs(random: np.random.Generator) -> Iterator[tuple[Image.Image, int]]:
    """Details of photographs and a quality for each, endlessly."""
    while True:
        width, height = (int(side) for side in random.integers(36, 110, 2))
        left, top = int(random.integers(0, 640 - 2 * width)), int(random.integers(0, 427 - 2 * height))
        box = (left, top, left + 2 * width, top + 2 * height)
        yield PHOTOS[random.integers(2)].resize((width, height), box=box), int(random.integers(60, 97))


def refused(data: bytes) -> bool:
    """Pillow's word, in its plainest form."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True
    return False


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in random.integers(0, len(changed), 6):
        changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def many_good(random: np.random.Generator) -> Iterator[bytes]:
    """Usable files, endlessly."""
    for form in ("JPEG", "PNG", "BMP", "WEBP", "GIF"):
        yield encode(Image.new("RGB", (1, 1), (10, 200, 30)), form)
        yield encode(PHOTOS[0].resize((8000, 20)), form)
    yield lossless_jpeg(50, 40)
    for number, (photo, quality) in enumerate(photographs(random)):
        data = list(KINDS.values())[number % len(KINDS)](photo, quality)
        if number % 20 == 0 and may_be_picture(data):  # damage that Pillow doesn't mind
            damaged = flipped(data, random)
            data = data if refused(damaged) else damaged
        yield data


def vast(side: int) -> list[bytes]:
    """Small files that claim to be square pictures of so many pixels."""
    photo = PHOTOS[0].resize((50, 40))
    jpeg, bmp, gif = (bytearray(encode(photo, form)) for form in ("JPEG", "BMP", "GIF"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    bmp[18:26] = struct.pack("<ii", side, side)
    gif[6:10] = struct.pack("<HH", side, side)
    canvas = b"VP8X" + struct.pack("<II", 10, 2) + (side - 1).to_bytes(3, "little") * 2
    moving = canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + encode(photo, "WEBP")[12:]
    webp = b"RIFF" + struct.pack("<I", 4 + len(moving)) + b"WEBP" + moving
    return [png(side, side, 8, 2, b"\0"), bytes(jpeg), bytes(bmp), bytes(gif), webp]


def bombs() -> list[bytes]:
    """Small files that unpack to hundreds of mebibytes."""
    zeros = zlib.compress(bytes(200 * MEBIBYTE), 1)
    header = struct.pack(">IIBBBBB", 15_000, 14_000, 8, 0, 0, 0, 0)
    body = [(b"IHDR", header), (b"IDAT", zeros), (b"IEND", b"")]
    rows = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in body)
    text = png(9, 9, 8, 0, bytes(90), (b"zTXt", b"Comment\0\0" + zeros))
    profile = png(9, 9, 8, 0, bytes(90), (b"iTXt", b"Comment\0\1\0\0\0" + zeros))
    return [b"\x89PNG\r\n\x1a\n" + rows, text, profile]


def many_bad(random: np.random.Generator) -> Iterator[tuple[bytes, str]]:
    """Unusable files and a name for each, endlessly."""
    yield from ((data, "%s.jpg") for data in vast(60_000) + bombs())
    for data in (b"", b"text", b"BMW, RIFF and GIF are words", b"<html>404</html>", b"PK\3\4" + bytes(90), b'{"a": 1}'):
        yield from ((data, name) for name in ("%s.jpg", "%s.png", "%s.gif", "%s.txt", "%s.json", "%s.zip", "%s"))
    for number, (photo, quality) in enumerate(photographs(random)):
        data = list(KINDS.values())[number % len(KINDS)](photo, quality)
        data = flipped(data, random) if number % 3 == 0 else data[: int(random.integers(4, len(data) - 20))]
        if refused(data):
            yield data, ("%s.jpg", "%s.webp", "%s.jpeg")[number % 3]


def write_thousands(folder: Path) -> tuple[set[str], set[str]]:
    """Fill a folder, with folders that are linked, one outside and some in a loop. Returns the good and bad names."""
    random = np.random.default_rng(2_000)
    good, reasons = write_corpus(folder)
    bad = set(reasons)
    outside = folder.with_name(folder.name + " outside")
    outside.mkdir()
    (folder / "linked").symlink_to(outside)
    (outside / "loop").symlink_to(folder)
    for number, data in enumerate(many_good(random), start=len(good)):
        if number == GOOD:
            break
        name = f"linked/{number}" if number % 50 == 0 else NAMES[number % len(NAMES)] % number
        if not may_be_picture(data):  # TIFF and PNM are pictures only where they are called so
            name = f"{number} by name.tif"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        good.add(name)
    if os.geteuid():
        (folder / "secret.jpg").write_bytes(good_files()["large.jpg"])
        (folder / "secret.jpg").chmod(0)
        bad.add("secret.jpg")
    (folder / "nowhere").symlink_to("gone")
    os.mkfifo(folder / "pipe")
    bad |= {"nowhere", "pipe"}
    for number, (data, name) in enumerate(many_bad(random), start=len(bad)):
        if number == BAD:
            break
        (folder / ("bad " + name % number)).write_bytes(data)
        bad.add("bad " + name % number)
    return good, bad
