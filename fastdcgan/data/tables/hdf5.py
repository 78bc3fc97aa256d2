"""HDF5: an array of pictures, as in a `.npy`, or pictures' encoded bytes; `labels` beside them."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.archives.shards import ShardIndex
from fastdcgan.data.array import ResizedSource
from fastdcgan.data.arrays.npy import Header, axes_of_pictures
from fastdcgan.data.arrays.picture_array import channels_last, shape_channels_last
from fastdcgan.data.arrays.value_range import ValueRange, sample, settle_range
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.folder import OnProgress, os_error_reason
from fastdcgan.data.labels import Labels, labels_from_numbers
from fastdcgan.data.numpy_file import LABEL_NAMES, PREFERRED_NAMES
from fastdcgan.data.source import Skipped
from fastdcgan.data.tables.hdf5_process import Dataset, Hdf5Process
from fastdcgan.data.tables.row_process import RowProcess
from fastdcgan.data.tables.rows import Row, Table, needed, open_rows, stamp_of_files
from fastdcgan.storage.printable import printable
from fastdcgan.storage.wording import counted

_REFERENCE_BYTES = 16
"""Where a picture's bytes are, as HDF5 writes it: a length, an address and a number, never compressed."""

NEVER_WRITTEN = "never written to the file, or only in part"

SUFFIXES = (".h5", ".hdf5", ".hdf")


def is_hdf5(path: Path) -> bool:
    """Whether a path is of a file with a suffix of HDF5's."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def open_hdf5(
    path: Path,
    *,
    frame: Frame,
    channels: int,
    threads: int,
    value_range: ValueRange | None,
    on_progress: OnProgress | None,
) -> ResizedSource | ShardIndex:
    """The pictures of a file: numbers with the axes that a `.npy` may have, or encoded bytes, a row each.

    The dataset is the only one that fits, or the one with a name of `PREFERRED_NAMES`.

    Args:
        path: the file.
        frame: what the pictures given out are brought to.
        channels: 1, 3 or 4.
        threads: for converting.
        value_range: as for `open_numpy_file`.
        on_progress: see `open_rows`.

    Raises:
        ValueError: it is damaged, or holds something else; `h5py` is not installed.
    """
    name = printable(path)
    needed("h5py", "hdf5", name)
    try:
        stamp, size = stamp_of_files([path]), path.stat().st_size
    except OSError as error:
        raise ValueError(f"{name}: {os_error_reason(error)}") from error
    process = Hdf5Process(path)
    found = _choose(process.datasets, name)
    count, key = found.shape[0], found.key
    if found.is_bytes:
        labels = _labels(process, np.arange(count), count)
        process.close()
        if count * _REFERENCE_BYTES > size:
            raise ValueError(f"{name}: damaged; it is too short for the {count:,} pictures that it names")
        return open_rows(printable(path.resolve()), stamp, lambda: _encoded_pictures(path, key, labels), on_progress)
    axes = axes_of_pictures(Header(found.shape, False, found.dtype, 0), f"{name}: {printable(key)}")
    numbers, unwritten = _written(process, found, name)
    labels = _labels(process, numbers, count)
    pictures = Hdf5Pictures(process, found, axes, numbers)
    taken, remark = settle_range(sample(pictures), value_range, name)
    count, height, width, _ = pictures.shape
    what = f"{printable(key)!r} of {name}"
    source = ResizedSource(
        pictures,
        frame=frame,
        channels=channels,
        threads=threads,
        description=f"{counted(count, 'picture')} of {width}x{height} from {what}, with axes [{axes}]{remark}",
        origin=printable(path.resolve()),
        fingerprint=hashlib.sha256(stamp.encode()).hexdigest(),
        find_labels=lambda: labels,
        value_range=taken,
    )
    source.skipped = unwritten
    return source


def _encoded_pictures(path: Path, key: str, labels: Labels | None) -> Table:
    """The pictures' bytes. Raises ValueError where the file is damaged."""
    process = RowProcess("hdf5", path, key)
    names = repeat(None) if labels is None else (labels.classes[number] for number in labels.numbers)
    rows = (Row(data, label=name) for (_, data), name in zip(process.rows(), names, strict=False))
    return Table(rows, process.length)


class Hdf5Pictures:
    """A dataset as an array [N, H, W, C] of which single pictures are read: those of its rows that `numbers` gives."""

    def __init__(self, process: Hdf5Process, found: Dataset, axes: str, numbers: NDArray[np.int64]) -> None:
        self._process, self._found, self._axes, self._numbers = process, found, axes, numbers
        self.shape = shape_channels_last((len(numbers), *found.shape[1:]), axes)
        self.dtype = found.dtype
        self.nbytes = math.prod(self.shape) * found.dtype.itemsize

    def __len__(self) -> int:
        """How many pictures there are."""
        return self.shape[0]

    def __getitem__(self, number: int) -> NDArray[Any]:
        """A picture [H, W, C]. Raises ValueError where the file is damaged there."""
        return next(self.pictures([int(number)]))

    def pictures(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Several, one after another, some of them read at once. Raises ValueError as for one."""
        for values in self._process.rows(self._found, self._numbers[list(numbers)].tolist()):
            (picture_HWC,) = channels_last(values[None], self._axes)
            yield np.ascontiguousarray(picture_HWC)


def _written(process: Hdf5Process, found: Dataset, name: str) -> tuple[NDArray[np.int64], list[Skipped]]:
    """The rows that were written, and the others. Raises ValueError where there are none."""
    written = process.written(found)
    numbers, others = np.flatnonzero(written), np.flatnonzero(~written)
    if not len(numbers):
        raise ValueError(f"{name}: {printable(found.key)}: no picture; its {len(written):,} were never written")
    if not len(others):
        return numbers, []
    path = f"{name}: {printable(found.key)}, picture {others[0]:,}"
    return numbers, [Skipped(path=path, reason=NEVER_WRITTEN, count=len(others))]


def _choose(found: Sequence[Dataset], name: str) -> Dataset:
    """The dataset of pictures. Raises ValueError."""
    fitting = [
        item
        for item in found
        if (item.dtype.kind in "uifb" and len(item.shape) in (3, 4)) or (item.is_bytes and len(item.shape) == 1)
    ]
    preferred = [item for item in fitting if item.key.rpartition("/")[2].lower() in PREFERRED_NAMES]
    for some in (fitting, preferred):
        if len(some) == 1:
            return some[0]
    listed = ", ".join(f"{printable(item.key)} ({item.dtype}, {item.shape})" for item in found[:8])
    which = "which dataset holds the pictures? Call it images" if fitting else "no dataset of pictures"
    raise ValueError(f"{name}: {which}; there are {listed or 'none'}")


def _labels(process: Hdf5Process, numbers: NDArray[np.int64], count: int) -> Labels | None:
    """The classes of these of `count` pictures; None where there are none, or where some were never written."""
    for item in process.datasets:
        fits = item.key.lower() in LABEL_NAMES and item.shape in ((count,), (count, 1)) and item.dtype.kind in "iu"
        if fits and process.written(item)[numbers].all():
            return labels_from_numbers(process.whole(item).reshape(-1)[numbers])
    return None
