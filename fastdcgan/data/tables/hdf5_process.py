"""An HDF5 file, read in a process of its own: what datasets there are, and their rows in any order."""

import json
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.tables.reader import EndedEarlyError, Reader
from fastdcgan.data.tables.row_reader import END
from fastdcgan.storage.printable import printable

READ_TOGETHER = 2**21
"""Bytes of rows that are asked for at once: each question takes two changes between processes."""


class Dataset(NamedTuple):
    """Of an HDF5 file."""

    key: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_bytes: bool
    """Whether its rows are of bytes, as many as each says."""


class Hdf5Process:
    """An open file. It may be used by several threads.

    Raises:
        ValueError: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._name, self._lock, self._asked, self._ended = printable(path), threading.Lock(), 0, ""
        self._reader = Reader("hdf5-answers", path)
        try:
            said = json.loads(self._reader.read(self._reader.read_length("the first"), "the datasets"))
        except EndedEarlyError as error:
            raise ValueError(f"{self._name}: damaged, or not HDF5 ({self._reader.how_it_ended()})") from error
        self.datasets = [Dataset(key, np.dtype(dtype), tuple(shape), bytes_) for key, dtype, shape, bytes_ in said]

    def rows(self, dataset: Dataset, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Rows in this order, of the dataset's dtype. Raises ValueError where one can't be read."""
        row = dataset.shape[1:]
        together = max(1, READ_TOGETHER // max(1, math.prod(row) * dataset.dtype.itemsize))
        for start in range(0, len(numbers), together):
            some = [int(number) for number in numbers[start : start + together]]
            try:
                found = self._array(dataset, some, (len(some), *row))
            except ValueError:
                if len(some) == 1:
                    raise
                # One by one: those before the one that can't be read are there, and that one is named.
                yield from (self._array(dataset, [number], (1, *row))[0] for number in some)
            else:
                yield from found

    def whole(self, dataset: Dataset) -> NDArray[Any]:
        """All rows. Raises ValueError where they can't be read."""
        return self._array(dataset, None, dataset.shape)

    def written(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Which rows were written, as far as HDF5 knows; the others would be read as its fill value.

        Raises:
            ValueError: the file is damaged, or another one that it refers to is missing.
        """
        rows = dataset._replace(dtype=np.dtype(np.bool_))
        return self._array(rows, "written", dataset.shape[:1])

    def close(self) -> None:
        """End the process."""
        self._reader.close()

    def _array(self, dataset: Dataset, numbers: list[int] | str | None, shape: tuple[int, ...]) -> NDArray[Any]:
        what = f"picture {numbers[0]:,}" if isinstance(numbers, list) else printable(dataset.key)
        with self._lock:
            data, reason = self._ask(json.dumps([dataset.key, numbers]).encode() + b"\n")
        if not reason and len(data) != math.prod(shape) * dataset.dtype.itemsize:
            reason = "it is of another size"
        if reason:
            raise ValueError(f"{self._name}: damaged: {what} can't be read ({reason})")
        return np.frombuffer(data, dataset.dtype).reshape(shape)

    def _ask(self, request: bytes) -> tuple[bytes, str]:
        """The answer, or why there is none."""
        if self._ended:
            return b"", self._ended
        self._asked += 1
        try:
            self._reader.input.write(request)
            self._reader.input.flush()
            length = self._reader.read_length(f"length {self._asked}")
            if length != END:
                return self._reader.read(length, f"row {self._asked}"), ""
            reason = self._reader.read(self._reader.read_length(f"reason {self._asked}"), f"words {self._asked}")
            return b"", printable(" ".join(reason.decode("utf-8", "replace").split()))[:120]
        except (EndedEarlyError, OSError):
            self._ended = self._reader.how_it_ended() or "its process has ended"
            return b"", self._ended
