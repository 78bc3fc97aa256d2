"""HDF5: an array of pictures, as in a `.npy`, or pictures' encoded bytes; `labels` beside them."""

import hashlib
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.archives.shards import ShardIndex
from fastdcgan.data.array import ResizedSource
from fastdcgan.data.arrays.npy import Header, axes_of_pictures
from fastdcgan.data.arrays.value_range import ValueRange, sample, settle_range
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.folder import OnProgress, os_error_reason
from fastdcgan.data.labels import Labels, labels_from_numbers
from fastdcgan.data.numpy_file import LABEL_NAMES, PREFERRED_NAMES
from fastdcgan.data.tables.row_process import RowProcess
from fastdcgan.data.tables.rows import Row, Table, needed, open_rows, stamp_of_files
from fastdcgan.storage.printable import printable

_REFERENCE_BYTES = 16
"""Where a picture's bytes are, as HDF5 writes it: a length, an address and a number, never compressed."""

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
    h5py: Any = needed("h5py", "hdf5", name)
    try:
        file = h5py.File(path, "r")
        key, found = _choose(h5py, file, name)
        stamp = stamp_of_files([path])
    except (OSError, RuntimeError, LookupError) as error:
        raise ValueError(f"{name}: damaged, or not HDF5 ({_reason(error)})") from error
    labels = _labels(file, len(found))
    if found.dtype.hasobject:
        if len(found) * _REFERENCE_BYTES > path.stat().st_size:
            raise ValueError(f"{name}: damaged; it is too short for the {len(found):,} pictures that it names")
        file.close()
        return open_rows(printable(path.resolve()), stamp, lambda: _encoded_pictures(path, key, labels), on_progress)
    axes = axes_of_pictures(Header(found.shape, False, found.dtype, 0), f"{name}: {key}")
    pictures = Hdf5Pictures(found, axes, name)
    taken, remark = settle_range(sample(pictures), value_range, name)  # type: ignore[arg-type]
    count, height, width, _ = pictures.shape
    return ResizedSource(
        pictures,  # type: ignore[arg-type]
        frame=frame,
        channels=channels,
        threads=threads,
        description=f"{count:,} pictures of {width}x{height} from {key!r} of {name}, with axes [{axes}]{remark}",
        origin=printable(path.resolve()),
        fingerprint=hashlib.sha256(stamp.encode()).hexdigest(),
        find_labels=lambda: labels,
        value_range=taken,
    )


def _encoded_pictures(path: Path, key: str, labels: Labels | None) -> Table:
    """The pictures' bytes. Raises ValueError where the file is damaged."""
    process = RowProcess("hdf5", path, key)
    names = repeat(None) if labels is None else (labels.classes[number] for number in labels.numbers)
    rows = (Row(data, label=name) for (_, data), name in zip(process.rows(), names, strict=False))
    return Table(rows, process.length)


class Hdf5Pictures:
    """A dataset as an array [N, H, W, C] of which single pictures are read."""

    def __init__(self, found: Any, axes: str, name: str) -> None:
        self._found, self._axes, self._name = found, axes, name
        count, *rest = found.shape
        if axes == "N, C, H, W":
            rest = [*rest[1:], rest[0]]
        self.shape = (count, *rest, 1) if axes == "N, H, W" else (count, *rest)
        self.dtype, self.ndim = found.dtype, 4
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * found.dtype.itemsize

    def __len__(self) -> int:
        """How many pictures there are."""
        return int(self.shape[0])

    def __getitem__(self, number: int) -> NDArray[Any]:
        """A picture [H, W, C]. Raises ValueError where the file is damaged there."""
        try:
            values = np.asarray(self._found[int(number)])
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{self._name}: picture {number:,} can't be read ({_reason(error)})") from error
        if self._axes == "N, C, H, W":
            return np.ascontiguousarray(values.transpose(1, 2, 0))
        return values[..., None] if self._axes == "N, H, W" else values


def _choose(h5py: Any, file: Any, name: str) -> tuple[str, Any]:
    """The dataset of pictures and its name. Raises ValueError."""
    found: dict[str, Any] = {}
    file.visititems(lambda key, item: found.update({key: item}) if isinstance(item, h5py.Dataset) else None)
    fitting = {
        key: item
        for key, item in found.items()
        if (item.dtype.kind in "uifb" and item.ndim in (3, 4))
        or (item.dtype.hasobject and item.ndim == 1 and h5py.check_vlen_dtype(item.dtype) == np.uint8)
    }
    for keys in (list(fitting), [key for key in fitting if key.rpartition("/")[2].lower() in PREFERRED_NAMES]):
        if len(keys) == 1:
            return keys[0], fitting[keys[0]]
    listed = ", ".join(f"{printable(key)} ({item.dtype}, {item.shape})" for key, item in list(found.items())[:8])
    which = "which dataset holds the pictures? Call it images" if fitting else "no dataset of pictures"
    raise ValueError(f"{name}: {which}; there are {listed or 'none'}")


def _labels(file: Any, count: int) -> Labels | None:
    for key, item in file.items():
        fits = key.lower() in LABEL_NAMES and getattr(item, "shape", None) in ((count,), (count, 1))
        if fits and item.dtype.kind in "iu":
            return labels_from_numbers(np.asarray(item).reshape(-1))
    return None


def _reason(error: Exception) -> str:
    reason = os_error_reason(error) if isinstance(error, OSError) else str(error)
    return printable(" ".join(reason.split()))[:120]
