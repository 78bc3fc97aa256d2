"""A folder of `.npy` files, each with a picture, or several: read as they are needed."""

import hashlib
import itertools
import os
from bisect import bisect_right
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastdcgan.data.arrays.npy import Header, axes_of_file, check_length, header_of
from fastdcgan.data.arrays.value_range import SAMPLED_PICTURES, SAMPLED_VALUES, ValueRange, settle_range
from fastdcgan.data.decoding.fitting import Frame, fit
from fastdcgan.data.decoding.formats import has_picture_suffix
from fastdcgan.data.decoding.picture import as_channels
from fastdcgan.data.decoding.prefetch import prefetch_map
from fastdcgan.data.folder import NoUsablePictureError, hidden_files, list_files, os_error_reason
from fastdcgan.data.hidden import is_hidden
from fastdcgan.data.labels import Labels, labels_from_paths
from fastdcgan.data.source import Skipped
from fastdcgan.storage.files import open_regular
from fastdcgan.storage.printable import printable
from fastdcgan.storage.wording import counted


class NumpyFile(NamedTuple):
    """A usable file, as it was when its header was read."""

    name: str
    """Relative to the folder."""

    header: Header
    axes: str
    bytes: int
    mtime_ns: int

    @property
    def pictures(self) -> int:
        """How many are in it."""
        return self.header.shape[0] if self.axes.startswith("N") else 1


def holds_numpy_files(folder: Path) -> bool:
    """Whether there are `.npy` files in a folder or below it, and no files that are called pictures."""
    found = False
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if any(has_picture_suffix(name) for name in files if not is_hidden(name)):
            return False
        found = found or any(name.lower().endswith(".npy") for name in files if not is_hidden(name))
    return found


class NumpyFolderSource:
    """An `ImageSource` over a folder of `.npy` files and its subfolders, ordered by path.

    Args:
        folder: where they are. Files that can't be used are listed with reasons.
        frame: what the pictures given out are brought to.
        channels: 1, 3 or 4.
        threads: how many batches are converted at a time.
        value_range: what becomes 0 and 255; None as for `open_numpy_file`.

    Raises:
        ValueError: there is no usable picture (NoUsablePictureError), or all of them are of one colour.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]
    value_range: ValueRange | None

    def __init__(
        self, folder: Path, *, frame: Frame, channels: int, threads: int, value_range: ValueRange | None
    ) -> None:
        self._folder, self._frame, self._channels, self._threads = folder, frame, channels, threads
        self._files, self.skipped = _list_numpy_files(folder)
        if not self._files:
            first = self.skipped[0]
            raise NoUsablePictureError(
                f"no usable picture in {printable(folder)}; {first.path}: {first.reason}", tuple(self.skipped)
            )
        self._starts = list(itertools.accumulate((file.pictures for file in self._files), initial=0))
        self.origin = printable(folder.resolve())
        self.value_range, remark = settle_range(self._sample(), value_range, printable(folder))
        kinds = ", ".join(sorted({str(file.header.dtype) for file in self._files}))
        files = counted(len(self._files), ".npy file")
        self.description = f"{counted(len(self), 'picture')} in {self.origin}, {files} of {kinds}{remark}"

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        names = ((file.name.replace(os.sep, "/"), file.pictures) for file in self._files)
        return labels_from_paths(name for name, count in names for _ in range(count))

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(b"%s\0%d\0%d\0" % (os.fsencode(file.name), file.bytes, file.mtime_ns))
        values = f", {self.value_range} as bytes" if self.value_range else ""
        return f"Pillow {PIL.__version__}{values}: {digest.hexdigest()}"

    def __len__(self) -> int:
        """How many pictures there are."""
        return self._starts[-1]

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        return prefetch_map(self._convert, batches, threads=self._threads, depth=self._threads + 1)

    def name(self, number: int) -> str:
        """The file of a picture, for the user, and which one in it where there are several."""
        place = bisect_right(self._starts, number) - 1
        file = self._files[place]
        which = f", picture {number - self._starts[place]:,}" if file.pictures > 1 else ""
        return f"{printable(self._folder / file.name)}{which}"

    def read_bytes(self, number: int) -> bytes:
        """What tells a picture from others: its numbers and their shape. Raises ValueError as `read`."""
        values_HWC = self._read(number)
        return f"{values_HWC.dtype} {values_HWC.shape} ".encode() + values_HWC.tobytes()

    def _convert(self, numbers: Sequence[int]) -> Tensor:
        batch = np.empty(self._frame.shape(len(numbers), self._channels), np.uint8)
        for pixels, number in zip(batch, numbers, strict=True):
            values_HWC = self._read(number)
            bytes_HWC = self.value_range.to_bytes(values_HWC) if self.value_range else values_HWC
            picture = Image.fromarray(bytes_HWC[..., 0] if bytes_HWC.shape[-1] == 1 else bytes_HWC)
            pixels[:] = np.asarray(fit(as_channels(picture, self._channels), self._frame)).reshape(pixels.shape)
        return torch.from_numpy(batch)

    def _read(self, number: int) -> NDArray[Any]:
        """A picture's numbers [H, W, C]. Raises ValueError naming a file that vanished or changed."""
        place = bisect_right(self._starts, number) - 1
        file = self._files[place]
        shape = file.header.shape[1:] if file.axes.startswith("N") else file.header.shape
        size = int(np.prod(shape)) * file.header.dtype.itemsize
        name = printable(self._folder / file.name)
        try:
            with open_regular(self._folder / file.name) as opened:
                info = os.fstat(opened.fileno())
                opened.seek(file.header.offset + (number - self._starts[place]) * size)
                data = opened.read(size)
        except OSError as error:
            raise ValueError(f"{name}: {os_error_reason(error)}") from error
        if (info.st_size, info.st_mtime_ns) != (file.bytes, file.mtime_ns) or len(data) != size:
            raise ValueError(f"{name}: the file was changed since its header was read; start again")
        values = np.frombuffer(data, file.header.dtype).reshape(shape)
        if file.axes.endswith("C, H, W"):
            return np.ascontiguousarray(values.transpose(1, 2, 0))
        return values if file.axes.endswith("C") else values[..., None]

    def _sample(self) -> NDArray[Any]:
        """Some of the values, from pictures evenly spread over the set."""
        first = self._read(0)
        count = min(len(self), SAMPLED_PICTURES, max(1, SAMPLED_VALUES // first.size))
        places = np.linspace(0, len(self) - 1, count).round().astype(int)
        return np.concatenate([self._read(int(place)).reshape(-1)[: SAMPLED_VALUES // count + 1] for place in places])


def _list_numpy_files(folder: Path) -> tuple[list[NumpyFile], list[Skipped]]:
    """The usable files by path, and the others with reasons."""
    stamps, reasons, hidden = list_files(folder)
    files = []
    skipped = [Skipped(path=printable(folder / name), reason=reason) for name, reason in reasons.items()]
    others = []
    for name in sorted(stamps):
        path = printable(folder / name)
        if not name.lower().endswith(".npy"):
            others.append(Skipped(path=path, reason="not a .npy file", not_a_picture=True))
            continue
        try:
            with open_regular(folder / name) as opened:
                header = header_of(opened, path)
            axes = axes_of_file(header, path)
            check_length(header, stamps[name][0], path)
            files.append(NumpyFile(name, header, axes, *stamps[name]))
        except ValueError as error:
            skipped.append(Skipped(path=path, reason=str(error).removeprefix(f"{path}: ")))
        except OSError as error:
            skipped.append(Skipped(path=path, reason=os_error_reason(error)))
    left_out = [hidden_files(printable(folder / name), name, reason, count) for name, reason, count in hidden]
    return files, [*skipped, *others, *left_out]
