"""A folder with every kind of picture file that people have, good and bad, built from two photographs."""

import importlib
import importlib.util
import os
import socket
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

PHOTOS = [Image.fromarray(photo) for photo in load_sample_images().images]
"""Two RGB photographs of 640x427."""


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def heif_available() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def heif(picture: Image.Image) -> bytes:
    importlib.import_module("pillow_heif").register_heif_opener()
    return encode(picture, "HEIF", quality=90)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow doesn't write. `rows` begin with their filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + body


def png_16_bits(levels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Levels [H, W] (grey) or [H, W, 3] from 0 to 65535."""
    rows = levels.astype(">u2").reshape(len(levels), -1).view(np.uint8)
    filtered = np.pad(rows, ((0, 0), (1, 0))).tobytes()
    return png(levels.shape[1], levels.shape[0], 16, 0 if levels.ndim == 2 else 2, filtered, *chunks)


def with_alpha(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
    picture = picture.copy()
    picture.putalpha(Image.fromarray(ramp))
    return picture


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description tiff:Orientation="6" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></rdf:RDF></x:xmpmeta>'
)


def good_files() -> dict[str, bytes]:
    """Usable pictures by name: each of another kind, size and shape."""
    wide, other = PHOTOS
    photo = wide.resize((97, 66), Image.Resampling.LANCZOS)
    tall = other.resize((89, 109), Image.Resampling.LANCZOS)
    ramp = np.tile(np.linspace(0, 65535, 80).astype(np.uint16), (70, 1))
    rgb = np.stack([ramp, ramp[:, ::-1], ramp // 2], axis=-1)
    jpeg = encode(photo, "JPEG", quality=90)
    files = {
        "large.jpg": encode(wide, "JPEG", quality=92),
        "progressive.jpg": encode(tall, "JPEG", progressive=True, quality=90),
        "444.jpeg": encode(photo, "JPEG", subsampling=0, quality=90),
        "420.jpeg": encode(photo, "JPEG", subsampling=2, quality=90),
        "411.jpg": encode(photo, "JPEG", subsampling="4:1:1"),
        "rgb inside.jpg": encode(photo, "JPEG", keep_rgb=True),
        "restarts.jpg": encode(photo, "JPEG", restart_marker_rows=1),
        "grey.jpg": encode(photo.convert("L"), "JPEG"),
        "cmyk.jpg": encode(photo.convert("CMYK"), "JPEG", quality=95),
        "thumbnail and maker.jpg": encode(photo, "JPEG", exif=exif(1), icc_profile=b"x" * 70000),
        "xmp orientation.jpg": encode(photo, "JPEG", xmp=XMP),
        "several.jpg": encode(photo, "MPO", save_all=True, append_images=[tall]),
        "trailer.jpg": jpeg + b"\0" * 50,
        "no end marker.jpg": jpeg[:-2] + b"\0" * 50,
        "bad orientation.jpg": encode(photo, "JPEG", exif=exif(9)),
        # An orientation of an unknown type: some decoders turn the picture all the same, Pillow doesn't.
        "doubtful tag.jpg": encode(photo, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\1\3\0\0\0\1\0\6" + bytes(6)),
        "rgb.png": encode(tall, "PNG"),
        "grey.png": encode(tall.convert("L"), "PNG"),
        "palette.png": encode(photo.quantize(64), "PNG"),
        "palette transparent.png": encode(photo.quantize(64), "PNG", transparency=bytes(range(0, 256, 4))),
        "palette one transparent.png": encode(photo.quantize(64), "PNG", transparency=3),
        "rgba.png": encode(with_alpha(photo), "PNG"),
        "la.png": encode(with_alpha(tall.convert("L")), "PNG"),
        "grey16.png": png_16_bits(ramp),
        "grey16 transparent.png": png_16_bits(ramp, (b"tRNS", b"\0\0")),
        "rgb16.png": png_16_bits(rgb),
        "rgb16 transparent.png": png_16_bits(rgb, (b"tRNS", struct.pack(">HHH", 0, 65535, 0))),
        "grey2.png": png(8, 8, 2, 0, b"\0\x1b\xe4" * 8),
        "two.png": encode(photo.convert("1"), "PNG"),
        "turned.png": encode(photo, "PNG", exif=exif(6)),
        "gamma.png": encode(photo, "PNG", icc_profile=b"y" * 300),
        "moving.png": encode(photo, "PNG", save_all=True, append_images=[tall.resize(photo.size)]),
        "rgb.bmp": encode(tall, "BMP"),
        "grey.bmp": encode(tall.convert("L"), "BMP"),
        "two.bmp": encode(tall.convert("1"), "BMP"),
        "rgba.bmp": encode(with_alpha(photo), "BMP"),
        "lossy.webp": encode(photo, "WEBP", quality=85),
        "lossless.webp": encode(tall, "WEBP", lossless=True),
        "alpha.webp": encode(with_alpha(photo), "WEBP", lossless=True),
        "profile.webp": encode(photo, "WEBP", icc_profile=b"x" * 200),
        "moving.webp": encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)]),
        "gif in truth.png": encode(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        "png in truth.jpg": encode(photo, "PNG"),
        "UPPER.JPG": jpeg,
        "without ending": jpeg,
        "photo.dat": encode(photo, "PNG"),
        "labels.json": encode(photo, "BMP"),
        "moving.gif": encode(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        "old.jfif": jpeg,
        "old.jpe": jpeg,
        "webp": encode(photo, "WEBP"),
        "Mixed.Png": encode(photo, "PNG"),
        "one pixel.png": encode(Image.new("RGB", (1, 1), (10, 200, 30)), "PNG"),
        "long.png": encode(wide.resize((900, 12)), "PNG"),
        "high.jpg": encode(wide.resize((11, 700)), "JPEG"),
        "exact.png": encode(wide.resize((64, 64)), "PNG"),
        "with spaces  and 'quotes'.jpg": jpeg,
        "new\nline\t\x1b[31m.jpg": jpeg,
        "émoji 🙂.jpg": jpeg,
        os.fsdecode(b"latin\xe9\xff.jpg"): jpeg,
        "a/b/c/nested.jpg": jpeg,
        "a/b.jpg/in a folder like a file.jpg": jpeg,
    }
    files |= {
        "rgb.tif": encode(photo, "TIFF"),
        "lzw.tiff": encode(tall, "TIFF", compression="tiff_lzw"),
        "jpeg inside.TIF": encode(photo, "TIFF", compression="jpeg"),
        "cmyk.tif": encode(photo.convert("CMYK"), "TIFF", compression="tiff_deflate"),
        "palette.tif": encode(photo.quantize(32), "TIFF"),
        "rgba.tif": encode(with_alpha(photo), "TIFF"),
        "two.tif": encode(photo.convert("1"), "TIFF", compression="group4"),
        "turned.tif": encode(photo, "TIFF", exif=exif(8)),
        "grey16.tif": encode(Image.fromarray(ramp), "TIFF"),
        "grey16 turned round.tif": encode(Image.fromarray(65535 - ramp), "TIFF", tiffinfo={0x0106: 0}),
        "pages.tif": encode(photo, "TIFF", save_all=True, append_images=[tall, photo.rotate(90)]),
        "rgb.ppm": encode(photo, "PPM"),
        "grey.pgm": encode(tall.convert("L"), "PPM"),
        "grey16.pgm": encode(Image.fromarray(ramp), "PPM"),
        "ten bits.pgm": b"P5\n4 4\n1023\n" + np.linspace(0, 1023, 16).astype(">u2").tobytes(),
        "two.pbm": encode(photo.convert("1"), "PPM"),
        "written out.pnm": b"P3 # colours\n2 2 255\n1 2 3  4 5 6\n7 8 9  250 251 252\n",
        "photo.avif": encode(photo, "AVIF", quality=80),
        "alpha.avif": encode(with_alpha(photo), "AVIF"),
        "avif without ending": encode(photo, "AVIF"),
        "photo.jp2": encode(photo, "JPEG2000"),
        "photo.j2k": encode(photo, "JPEG2000", no_jp2=True),
        "grey16.jp2": encode(Image.fromarray(ramp), "JPEG2000"),
        "icon.ico": encode(with_alpha(photo), "ICO", sizes=[(16, 16), (64, 44)]),
    }
    if heif_available():
        files |= {"photo.heic": heif(photo), "heif in truth.jpg": heif(tall)}
    files |= {f"orientation{o}.jpg": encode(photo, "JPEG", exif=exif(o)) for o in range(1, 9)}
    return files


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Unusable files by name, and a part of the reason that must be given."""
    photo = PHOTOS[1].resize((97, 66))
    jpeg, whole_png = encode(photo, "JPEG"), encode(photo, "PNG")
    bomb = png(60000, 60000, 8, 2, b"\0")
    return {
        "empty.jpg": (b"", "empty file"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut early.jpg": (jpeg[:100], "truncated"),
        "cut.png": (whole_png[: len(whole_png) // 2], "truncated"),
        "cut early.png": (whole_png[:20], "truncated"),
        "cut.bmp": (encode(photo, "BMP")[:5000], "truncated"),
        "cut.webp": (encode(photo, "WEBP")[:500], "damaged"),
        "text.jpg": (b"I am no picture.\n", "not an image"),
        "page.png": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
        "zeros.bmp": (bytes(1000), "not an image"),
        "labels.txt": (b"good.jpg 1\n", "not an image"),
        "archive": (b"PK\3\4" + bytes(50), "not an image"),
        "cut.dat": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.gif": (encode(photo, "GIF")[:2000], "truncated"),
        "empty.jfif": (b"", "empty file"),
        "cut.tif": (encode(photo, "TIFF", compression="tiff_lzw")[:2000], "damaged"),
        "cut.pgm": (encode(photo.convert("L"), "PPM")[:2000], "truncated"),
        "cut.avif": (encode(photo, "AVIF")[:500], "damaged"),
        "cut.jp2": (encode(photo, "JPEG2000")[:900], "damaged"),
        "cut.ico": (encode(photo, "ICO")[:300], "damaged"),
        "floats.tif": (encode(Image.new("F", (9, 9)), "TIFF"), "values of unknown range"),
        "signed.tif": (encode(Image.new("I", (9, 9)), "TIFF"), "values of unknown range"),
        "lab.tif": (encode(Image.new("LAB", (9, 9)), "TIFF"), "kind that is not read"),
        "film.mp4": (b"\0\0\0\x18ftypisom" + bytes(50), "not an image"),
        "flipped.png": (whole_png[:60] + b"\0\0\0\0" + whole_png[64:], "damaged"),
        "bomb.png": (bomb, "limit of 178,956,970 pixels"),
        "half a bomb.png": (png(13000, 13001, 8, 2, b"\0"), "truncated"),
    }


def write_corpus(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Fill a folder. Returns the names of the good files, and of the bad ones with a part of the reason."""
    reasons = {name: reason for name, (_, reason) in bad_files().items()}
    for name, data in (good_files() | {name: data for name, (data, _) in bad_files().items()}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "BMW.csv").write_text("BM is how this begins, and RIFF is a word")
    (folder / "sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    (folder / ".hidden").touch()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "0 again").symlink_to(folder / "a")
    (folder / "dangling").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe without ending")
    with socket.socket(socket.AF_UNIX) as plug:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path may not be long
        plug.bind("socket.png")
        os.chdir(here)
    reasons |= {
        "BMW.csv": "not an image",
        "sound.wav": "not an image",
        ".hidden": "hidden or tool file",
        "dangling.jpg": "does not exist",
        "itself.jpg": "symbolic links",
        "dangling": "does not exist",
        "pipe.jpg": "not a regular file",
        "pipe without ending": "not a regular file",
        "socket.png": "not a regular file",
    }
    return set(good_files()), reasons
