"""MNIST's idx format, and Fashion-MNIST, which is published in it."""

import contextlib
import gzip
import io
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.array import make_array_source
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.labels import Labels, labels_from_numbers
from fastdcgan.data.source import ImageSource
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.files import open_regular
from fastdcgan.storage.printable import printable
from fastdcgan.storage.wording import counted

FILE_NAME = "train-images-idx3-ubyte"
"""With or without .gz."""

MAX_BYTES = 2**31
"""Limit of the pixels: a damaged header would ask for any amount of memory."""

LABELS_FILE_NAME = "train-labels-idx1-ubyte"

FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

_UBYTE_3D, _UBYTE_1D = 0x0803, 0x0801
_HEADER, _LABELS_HEADER = 16, 8
_CHUNK = 2**20


def holds_idx(folder: Path) -> bool:
    """Whether a folder holds idx pictures, directly or in torchvision's subfolder."""
    return _find(folder) is not None


def read_idx_images(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of pictures, compressed or not.

    Returns:
        uint8 [N, H, W, 1].

    Raises:
        ValueError: it can't be read, is no idx file of pictures, or is damaged.
    """
    name = printable(path)
    try:
        with open_regular(path) as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if compressed else raw as file:
                header = file.read(_HEADER)
                magic, count, height, width = np.frombuffer(header.ljust(_HEADER, b"\0"), ">u4").tolist()
                if len(header) < _HEADER or magic != _UBYTE_3D:
                    raise ValueError(f"{name}: not an idx file of pictures")
                size = count * height * width
                if not 0 < size <= MAX_BYTES:
                    raise ValueError(f"{name}: damaged; its header speaks of {count} pictures of {width}x{height}")
                pixels = _read_all(file, size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name}: damaged or cut off") from error
    except OSError as error:
        raise ValueError(f"{name}: {(error.strerror or str(error)).lower()}") from error
    if pixels is None:
        raise ValueError(f"{name}: damaged or cut off; {count} pictures of {width}x{height} were announced")
    return np.frombuffer(pixels, np.uint8).reshape(count, height, width, 1)


def _read_all(file: gzip.GzipFile | BinaryIO, size: int) -> bytearray | None:
    """The rest of a file; None where it isn't `size` bytes. Memory grows with the bytes read: headers may be wrong."""
    pixels = bytearray()
    while len(pixels) <= size and (part := file.read(min(_CHUNK, size + 1 - len(pixels)))):
        pixels += part
    return pixels if len(pixels) == size else None


def open_fashion_mnist(folder: Path | None, *, frame: Frame, channels: int, threads: int) -> ImageSource:
    """Fashion-MNIST's 60,000 training pictures, or others in an idx file of that name, in memory.

    Args:
        folder: where the files are, directly or in FashionMNIST/raw; None for the cache folder, into which they are
            downloaded if missing.
        frame: what the pictures given out are brought to.
        channels: 1, 3 or 4.
        threads: for resizing, where the pictures have another size.

    Raises:
        ValueError: the files are missing or damaged, or can't be downloaded.
    """
    found = _find(folder or cache_folder())
    if found is None and folder is not None:
        raise ValueError(f"no {FILE_NAME}.gz in {printable(folder)}")
    path = found or _download(cache_folder())
    pictures = read_idx_images(path)
    count, height, width, _ = pictures.shape
    fashion = folder is None or "FashionMNIST" in path.parts
    return make_array_source(
        pictures,
        frame=frame,
        channels=channels,
        threads=threads,
        description=f"{counted(count, 'picture')} of {width}x{height} from {printable(path)}, in memory",
        origin=printable(path.resolve()),
        find_labels=lambda: _find_labels(path, count, FASHION_MNIST_CLASSES if fashion else ()),
    )


def _find_labels(pictures: Path, count: int, names: Sequence[str]) -> Labels | None:
    """Labels in the idx file beside that of the pictures; None where it is missing or doesn't fit."""
    for ending in (".gz", ""):
        try:
            with (
                open_regular(pictures.with_name(LABELS_FILE_NAME + ending)) as raw,
                gzip.open(raw) if ending else raw as file,
            ):
                header = file.read(_LABELS_HEADER)
                numbers = _read_all(file, count)
        except (EOFError, zlib.error, OSError):
            continue
        if header == struct.pack(">II", _UBYTE_1D, count) and numbers is not None:
            return labels_from_numbers(np.frombuffer(numbers, np.uint8), names)
    return None


def _find(folder: Path) -> Path | None:
    places = (folder, folder / "FashionMNIST" / "raw", folder / "raw")
    paths = (place / (FILE_NAME + ending) for place in places for ending in (".gz", ""))
    return next((path for path in paths if path.is_file()), None)


def _download(folder: Path) -> Path:
    """Download Fashion-MNIST into a folder, in one step. Raises ValueError."""
    from torchvision.datasets import FashionMNIST

    target = folder / "FashionMNIST" / "raw" / f"{FILE_NAME}.gz"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished, contextlib.redirect_stdout(io.StringIO()):
            FashionMNIST(unfinished, download=True)
            raw = Path(unfinished) / "FashionMNIST" / "raw"
            for name in (f"{LABELS_FILE_NAME}.gz", target.name):
                (raw / name).replace(target.with_name(name))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"Fashion-MNIST could not be downloaded; put {target.name} into {printable(target.parent)}, "
            f"or name the folder that holds it"
        ) from error
    return target
