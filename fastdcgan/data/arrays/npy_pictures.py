"""Pictures in a `.npy`, read from the file when they are asked for.

They aren't mapped into memory: where a page of a mapped file can't be read, as it was cut off or its disk went away,
the system ends the process (SIGBUS) without a word. A read gives an error instead.
"""

import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.arrays.npy import Header, axes_of_pictures, check_length, header_of
from fastdcgan.data.arrays.picture_array import channels_last, shape_channels_last
from fastdcgan.data.folder import os_error_reason
from fastdcgan.storage.files import open_regular


def open_npy(path: Path, name: str) -> "NpyPictures":
    """Open a `.npy` of pictures, numbers of any kind with the axes that `axes_of_pictures` knows.

    Raises:
        ValueError: it is damaged or holds something else; the message begins with `name`.
        OSError: it can't be read.
    """
    with open_regular(path) as file:
        header = header_of(file, name)
        axes = axes_of_pictures(header, name)
        check_length(header, os.fstat(file.fileno()).st_size, name)
        return NpyPictures(os.dup(file.fileno()), header, axes, name)


class NpyPictures:
    """An array [N, H, W, C] in an open file. It may be used by several threads.

    Args:
        descriptor: of the file; it is closed with this object.
        header: of the array.
        axes: of the array in the file, as "N, C, H, W".
        name: of the file, for the user.
    """

    def __init__(self, descriptor: int, header: Header, axes: str, name: str) -> None:
        self._descriptor, self._header, self._name = descriptor, header, name
        weakref.finalize(self, os.close, descriptor).atexit = False  # a thread may still read
        self.axes, self.dtype, self.nbytes = axes, header.dtype, header.bytes
        self.shape = shape_channels_last(header.shape, axes)
        self._bytes_each = header.bytes // header.shape[0]

    def __len__(self) -> int:
        """How many pictures there are."""
        return self.shape[0]

    def __getitem__(self, which: int | slice) -> NDArray[Any]:
        """A picture [H, W, C], or several that follow each other. Raises ValueError as `take`."""
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            assert step == 1, which
            return self._read(start, max(0, stop - start))
        picture_HWC: NDArray[Any] = self._read(which, 1)[0]
        return picture_HWC

    def take(self, numbers: Sequence[int], out_BHWC: NDArray[Any]) -> None:
        """Read pictures by number into an array of their dtype.

        Raises:
            ValueError: one can't be read any more; the message names the file and the reason.
        """
        if self.axes == "N, C, H, W":
            for number, out_HWC in zip(numbers, out_BHWC, strict=True):
                out_HWC[:] = self[number]
            return
        size, at, pixels = self._bytes_each, self._header.offset, _bytes_of(out_BHWC)
        assert len(pixels) == len(numbers) * size, (out_BHWC.shape, len(numbers))
        for place, number in enumerate(numbers):
            self._fill(pixels[place * size : (place + 1) * size], at + number * size)

    def _read(self, first: int, count: int) -> NDArray[Any]:
        stored = np.empty((count, *self._header.shape[1:]), self.dtype)
        self._fill(_bytes_of(stored), self._header.offset + first * self._bytes_each)
        return channels_last(stored, self.axes)

    def _fill(self, part: memoryview, at: int) -> None:
        """Read bytes from a place in the file."""
        while part:
            try:
                done = read_at(self._descriptor, part, at)
            except OSError as error:
                raise ValueError(f"{self._name}: {os_error_reason(error)}") from error
            if not done:
                raise ValueError(f"{self._name}: the file was cut off while training read it")
            part, at = part[done:], at + done


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Of a contiguous array, which they share the memory of."""
    assert array.flags.c_contiguous, array.strides
    return array.reshape(-1).view(np.uint8).data


def _read_in_place(descriptor: int, part: memoryview, at: int) -> int:
    """Fill `part` from a place in a file, as far as one read does, and say how far. Raises OSError."""
    return os.preadv(descriptor, (part,), at)


def _seek_and_read(descriptor: int, part: memoryview, at: int) -> int:
    """`_read_in_place` where threads share a file's position, as on Windows."""
    with _POSITION:
        os.lseek(descriptor, at, os.SEEK_SET)
        data = os.read(descriptor, len(part))
    part[: len(data)] = data
    return len(data)


_POSITION = threading.Lock()

read_at = _read_in_place if hasattr(os, "preadv") else _seek_and_read
