"""Pictures in NumPy files: those of a `.npy` are read when asked for, an array of a `.npz` is read into memory."""

import hashlib
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.array import make_array_source, no_labels
from fastdcgan.data.arrays.npy import Header, axes_of_pictures, check_length, raising_value_error, read_header
from fastdcgan.data.arrays.npy_pictures import open_npy
from fastdcgan.data.arrays.picture_array import PictureArray, channels_last
from fastdcgan.data.arrays.value_range import ValueRange, sample, settle_range
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.labels import Labels, labels_from_numbers
from fastdcgan.data.source import ImageSource
from fastdcgan.storage.printable import printable
from fastdcgan.storage.settled import settled_stat
from fastdcgan.storage.wording import counted

SUFFIXES = (".npy", ".npz")

MAX_BYTES = 2**33
"""Limit of an array in a `.npz`, which is read into memory."""

PREFERRED_NAMES = ("images", "x", "train_images", "x_train", "arr_0")
"""Names, in lower case, that decide which array is meant where a `.npz` holds several of pictures."""

LABEL_NAMES = ("labels", "label", "y", "train_labels", "y_train")
"""Names, in lower case, of a `.npz`'s array of classes."""

_CHUNK = 2**24


def is_numpy_file(path: Path) -> bool:
    """Whether a path has the suffix of a NumPy file; it need not exist."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_numpy_file(
    path: Path, *, frame: Frame, channels: int, threads: int, value_range: ValueRange | None = None
) -> ImageSource:
    """The pictures of a `.npy` or `.npz`: numbers [N, H, W, C] with C of 1, 3 or 4, [N, H, W] or [N, C, H, W].

    An array is [N, C, H, W] where its second axis has 1, 3 or 4 entries and its last has not. Of a `.npz` the only
    array of pictures is taken, or the one with a name of `PREFERRED_NAMES`.

    Args:
        path: the file. It must not change while the source is in use.
        frame: what the pictures given out are brought to.
        channels: 1, 3 or 4.
        threads: for resizing, where the pictures have another size.
        value_range: what becomes 0 and 255. None: bytes stay as they are, other numbers have their own range (see
            `range_of`).

    Raises:
        ValueError: it is missing, damaged, or holds something else.
    """
    name = printable(path)
    try:
        info = settled_stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError(f"{name}: not a regular file")
        if path.suffix.lower() == ".npy":
            opened = open_npy(path, name)
            pictures_NHWC: PictureArray = opened
            axes, what = opened.axes, name
        else:
            array, axes, key = _read_npz(path, name)
            pictures_NHWC = channels_last(array, axes)
            what = f"{key!r} of {name}, in memory"
    except FileNotFoundError as error:
        raise ValueError(f"no such file: {name}") from error
    except OSError as error:
        raise ValueError(f"{name}: {(error.strerror or str(error)).lower()}") from error
    count, height, width, _ = pictures_NHWC.shape
    taken, remark = settle_range(sample(pictures_NHWC), value_range, name)
    stamp = b"%s\0%d\0%d" % (os.fsencode(path.resolve()), info.st_size, info.st_mtime_ns)
    return make_array_source(
        pictures_NHWC,
        frame=frame,
        channels=channels,
        threads=threads,
        description=f"{counted(count, 'picture')} of {width}x{height} from {what}, with axes [{axes}]{remark}",
        origin=printable(path.resolve()),
        fingerprint=hashlib.sha256(stamp).hexdigest(),
        value_range=taken,
        find_labels=(lambda: _read_npz_labels(path, count)) if path.suffix.lower() == ".npz" else no_labels,
    )


def _read_npz(path: Path, name: str) -> tuple[NDArray[Any], str, str]:
    """Read the array of pictures in a `.npz`: numbers in its own shape, its axes, and its name."""
    headers: dict[str, Header] = {}
    members: dict[str, zipfile.ZipInfo] = {}
    damaged = f"{name}: damaged, or not a .npz file"
    with path.open("rb") as raw:
        with raising_value_error(damaged):
            archive = zipfile.ZipFile(raw)
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    key = printable(member.filename.removesuffix(".npy"))
                    # NumPy doesn't use zipfile's other methods, by which a small file can take gigabytes of memory.
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError("compressed as NumPy never does")
                    with archive.open(member) as file:
                        headers[key], members[key] = read_header(file), member
        key = _choose_array(headers, name)
        header, member = headers[key], members[key]
        axes = axes_of_pictures(header, f"{name}: {key}")
        check_length(header, member.file_size, f"{name}: {key}")
        too_large = f"{name}: {header.bytes / 2**30:.1f} GiB are too much for memory; a .npy is read in pieces"
        if header.bytes > MAX_BYTES:
            raise ValueError(too_large)
        try:
            pixels = np.empty(header.bytes, np.uint8)
        except MemoryError as error:
            raise ValueError(too_large) from error
        with raising_value_error(damaged), archive.open(member) as file:
            file.read(header.offset)
            for start in range(0, len(pixels), _CHUNK):
                part = pixels[start : start + _CHUNK]
                data = file.read(len(part))
                if len(data) != len(part):
                    raise EOFError
                part[:] = np.frombuffer(data, np.uint8)
    return pixels.view(header.dtype).reshape(header.shape), axes, key


def _read_npz_labels(path: Path, count: int) -> Labels | None:
    """The array of `LABEL_NAMES` in a `.npz`; None where there is none that gives each picture a whole number."""
    try:
        with path.open("rb") as raw, raising_value_error("damaged"), zipfile.ZipFile(raw) as archive:
            names = [name for name in archive.namelist() if name.lower().removesuffix(".npy") in LABEL_NAMES]
            for name in names:
                with archive.open(name) as file:
                    header = read_header(file)
                if header.dtype.kind in "iu" and header.shape in ((count,), (count, 1)):
                    with archive.open(name) as file:
                        file.read(header.offset)
                        data = file.read(count * header.dtype.itemsize)
                    return labels_from_numbers(np.frombuffer(data, header.dtype, count))
    except (OSError, ValueError):
        pass
    return None


def _choose_array(headers: Mapping[str, Header], name: str) -> str:
    """The name of the `.npz`'s array of pictures. Raises ValueError where there is none, or which one is unclear."""
    if len(headers) == 1:
        return next(iter(headers))
    fitting = [key for key, header in headers.items() if header.is_numeric and len(header.shape) in (3, 4)]
    for keys in ([key for key in fitting if headers[key].dtype == np.uint8], fitting):
        for some in (keys, [key for key in keys if key.lower() in PREFERRED_NAMES]):
            if len(some) == 1:
                return some[0]
    listed = ", ".join(f"{key} ({header.dtype}, {header.size})" for key, header in list(headers.items())[:8])
    listed = f"{listed} and {len(headers) - 8:,} more" if len(headers) > 8 else listed or "no arrays"
    if fitting:
        raise ValueError(f"{name}: which array holds the pictures? Call it images; there are {listed}")
    raise ValueError(f"{name}: no pictures, which are numbers with 3 or 4 axes; it holds {listed}")
