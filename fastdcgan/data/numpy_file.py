"""Pictures in NumPy files: a `.npy` is mapped into memory, an array of a `.npz` is read into it."""

import hashlib
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.array import make_array_source, no_labels
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.labels import Labels, labels_from_numbers
from fastdcgan.data.source import ImageSource
from fastdcgan.storage.files import open_regular
from fastdcgan.storage.printable import printable

SUFFIXES = (".npy", ".npz")

MAX_BYTES = 2**33
"""Limit of an array in a `.npz`, which is read into memory."""

PREFERRED_NAMES = ("images", "x", "train_images", "x_train", "arr_0")
"""Names, in lower case, that decide which array is meant where a `.npz` holds several of pictures."""

LABEL_NAMES = ("labels", "label", "y", "train_labels", "y_train")
"""Names, in lower case, of a `.npz`'s array of classes."""

_CHANNELS = (1, 3, 4)
_CHUNK = 2**24
_MAX_HEADER_BYTES = 2**14
_MAX_LENGTH = 10**100  # Python refuses to print longer numbers
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What NumPy's and zipfile's parsers raise on damaged files.
_PARSER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class _Header(NamedTuple):
    """The header of a `.npy`. `offset` is where its pixels begin, in bytes."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[np.generic]
    offset: int

    @property
    def size(self) -> str:
        return "x".join(map(str, self.shape)) or "a single number"


def is_numpy_file(path: Path) -> bool:
    """Whether a path has the suffix of a NumPy file; it need not exist."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_numpy_file(path: Path, *, frame: Frame, channels: int, threads: int) -> ImageSource:
    """The pictures of a `.npy` or `.npz`: uint8 [N, H, W, C] with C of 1, 3 or 4, [N, H, W] or [N, C, H, W].

    An array is [N, C, H, W] where its second axis has 1, 3 or 4 entries and its last has not. Of a `.npz` the only
    array of pictures is taken, or the one with a name of `PREFERRED_NAMES`.

    Args:
        path: the file. It must not change while the source is in use.
        frame: what the pictures given out are brought to.
        channels: 1, 3 or 4.
        threads: for resizing, where the pictures have another size.

    Raises:
        ValueError: it is missing, damaged, or holds something else.
    """
    name = printable(path)
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise ValueError(f"{name}: not a regular file")
        if path.suffix.lower() == ".npy":
            array, axes = map_npy(path, name)
            what = f"{name}, mapped"
        else:
            array, axes, key = _read_npz(path, name)
            what = f"{key!r} of {name}, in memory"
    except FileNotFoundError as error:
        raise ValueError(f"no such file: {name}") from error
    except OSError as error:
        raise ValueError(f"{name}: {(error.strerror or str(error)).lower()}") from error
    pictures_NHWC = {"N, H, W": array[..., None], "N, C, H, W": np.moveaxis(array, 1, -1)}.get(axes, array)
    count, height, width, _ = pictures_NHWC.shape
    stamp = b"%s\0%d\0%d" % (os.fsencode(path.resolve()), info.st_size, info.st_mtime_ns)
    return make_array_source(
        pictures_NHWC,
        frame=frame,
        channels=channels,
        threads=threads,
        description=f"{count:,} pictures of {width}x{height} from {what}, with axes [{axes}]",
        origin=printable(path.resolve()),
        fingerprint=hashlib.sha256(stamp).hexdigest(),
        find_labels=(lambda: _read_npz_labels(path, count)) if path.suffix.lower() == ".npz" else no_labels,
    )


def map_npy(path: Path, name: str) -> tuple[NDArray[np.uint8], str]:
    """Map a `.npy`: uint8 in its own shape, and its axes, as "N, H, W, C".

    Raises:
        ValueError: it is damaged or holds something else; the message begins with `name`.
        OSError: it can't be read.
    """
    with open_regular(path) as file:
        with _raising_value_error(f"{name}: damaged, or not a .npy file"):
            header = _read_header(file)
        axes = _check_axes(header, name)
        _check_length(header, os.fstat(file.fileno()).st_size, name)
        return np.memmap(file, np.uint8, "r", header.offset, header.shape), axes


def _read_npz(path: Path, name: str) -> tuple[NDArray[np.uint8], str, str]:
    """Read the array of pictures in a `.npz`: uint8 in its own shape, its axes, and its name."""
    headers: dict[str, _Header] = {}
    members: dict[str, zipfile.ZipInfo] = {}
    damaged = f"{name}: damaged, or not a .npz file"
    with path.open("rb") as raw:
        with _raising_value_error(damaged):
            archive = zipfile.ZipFile(raw)
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    key = printable(member.filename.removesuffix(".npy"))
                    # NumPy doesn't use zipfile's other methods, by which a small file can take gigabytes of memory.
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError("compressed as NumPy never does")
                    with archive.open(member) as file:
                        headers[key], members[key] = _read_header(file), member
        key = _choose_array(headers, name)
        header, member = headers[key], members[key]
        axes = _check_axes(header, f"{name}: {key}")
        _check_length(header, member.file_size, f"{name}: {key}")
        too_large = (
            f"{name}: {math.prod(header.shape) / 2**30:.1f} GiB are too much for memory; a .npy is mapped instead"
        )
        if math.prod(header.shape) > MAX_BYTES:
            raise ValueError(too_large)
        try:
            pixels = np.empty(math.prod(header.shape), np.uint8)
        except MemoryError as error:
            raise ValueError(too_large) from error
        with _raising_value_error(damaged), archive.open(member) as file:
            file.read(header.offset)
            for start in range(0, len(pixels), _CHUNK):
                part = pixels[start : start + _CHUNK]
                data = file.read(len(part))
                if len(data) != len(part):
                    raise EOFError
                part[:] = np.frombuffer(data, np.uint8)
    return pixels.reshape(header.shape), axes, key


def _read_npz_labels(path: Path, count: int) -> Labels | None:
    """The array of `LABEL_NAMES` in a `.npz`; None where there is none that gives each picture a whole number."""
    try:
        with path.open("rb") as raw, _raising_value_error("damaged"), zipfile.ZipFile(raw) as archive:
            names = [name for name in archive.namelist() if name.lower().removesuffix(".npy") in LABEL_NAMES]
            for name in names:
                with archive.open(name) as file:
                    header = _read_header(file)
                if header.dtype.kind in "iu" and header.shape in ((count,), (count, 1)):
                    with archive.open(name) as file:
                        file.read(header.offset)
                        data = file.read(count * header.dtype.itemsize)
                    return labels_from_numbers(np.frombuffer(data, header.dtype, count))
    except (OSError, ValueError):
        pass
    return None


def _read_header(file: IO[bytes]) -> _Header:
    """Raises any of `_PARSER_ERRORS`."""
    # Bounded: the length that a damaged header gives can be anything.
    start = BytesIO(file.read(_MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    shape, fortran_order, dtype = _HEADERS[version](start)
    if any(abs(length) > _MAX_LENGTH for length in shape):
        raise OverflowError
    return _Header(shape, fortran_order, dtype, start.tell())


def _choose_array(headers: Mapping[str, _Header], name: str) -> str:
    """The name of the `.npz`'s array of pictures. Raises ValueError where there is none, or which one is unclear."""
    if len(headers) == 1:
        return next(iter(headers))
    fitting = [key for key, header in headers.items() if header.dtype == np.uint8 and len(header.shape) in (3, 4)]
    for keys in (fitting, [key for key in fitting if key.lower() in PREFERRED_NAMES]):
        if len(keys) == 1:
            return keys[0]
    listed = ", ".join(f"{key} ({header.dtype}, {header.size})" for key, header in list(headers.items())[:8])
    listed = f"{listed} and {len(headers) - 8:,} more" if len(headers) > 8 else listed or "no arrays"
    if fitting:
        raise ValueError(f"{name}: which array holds the pictures? Call it images; there are {listed}")
    raise ValueError(f"{name}: no pictures, which are uint8 with 3 or 4 axes; it holds {listed}")


def _check_axes(header: _Header, what: str) -> str:
    """The axes of an array of pictures, as "N, H, W, C". Raises ValueError where it isn't one."""
    shape = header.shape
    if header.dtype != np.uint8:
        if header.dtype.hasobject:
            kind, advice = "Python objects", "bring the pictures to one size and numpy.stack them"
        elif header.dtype.kind == "f":
            kind, advice = str(header.dtype), "bring them to 0..255 and save them .astype(numpy.uint8)"
        else:
            kind = "records" if header.dtype.names else str(header.dtype)
            advice = "if they are 0..255, save them .astype(numpy.uint8)"
        raise ValueError(f"{what}: pictures must be uint8 from 0 to 255, these are {kind}; {advice}")
    if not all(length > 0 for length in shape):
        raise ValueError(f"{what}: no pictures; the array is empty ({header.size})")
    if header.fortran_order:
        raise ValueError(
            f"{what}: in Fortran's order each picture lies all over the file; save numpy.ascontiguousarray"
        )
    if len(shape) == 4 and shape[3] in _CHANNELS:
        return "N, H, W, C"
    if len(shape) == 4 and shape[1] in _CHANNELS:
        return "N, C, H, W"
    if len(shape) == 3 and shape[2] not in _CHANNELS:
        return "N, H, W"
    one = "; is it a single picture?" if len(shape) == 3 else ""
    raise ValueError(
        f"{what}: pictures must be [N, H, W, C] or [N, C, H, W] with C of 1, 3 or 4, or [N, H, W]; "
        f"this is {header.size}{one}"
    )


def _check_length(header: _Header, file_bytes: int, what: str) -> None:
    """Raises ValueError where the file is shorter or longer than its header says."""
    missing = header.offset + math.prod(header.shape) - file_bytes
    if missing:
        wrong = f"{missing:,} bytes are missing" if missing > 0 else f"{-missing:,} bytes too many"
        raise ValueError(f"{what}: damaged or cut off; of {header.size} pixels, {wrong}")


@contextmanager
def _raising_value_error(message: str) -> Generator[None]:
    """Raise a ValueError with this message instead of `_PARSER_ERRORS`."""
    try:
        yield
    except _PARSER_ERRORS as error:
        raise ValueError(message) from error
