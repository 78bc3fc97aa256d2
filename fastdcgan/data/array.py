"""Sources over an array of decoded pictures: in memory, in a file, or in a GPU's memory."""

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastdcgan.data.arrays.npy_pictures import NpyPictures
from fastdcgan.data.arrays.picture_array import PictureArray
from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.decoding.fitting import Frame, fit
from fastdcgan.data.decoding.picture import as_channels
from fastdcgan.data.decoding.prefetch import prefetch_map
from fastdcgan.data.labels import Labels
from fastdcgan.data.source import ImageSource, Skipped
from fastdcgan.device import to_device

PREFETCH_BATCHES = 2
"""Batches gathered before they are asked for, where `ArraySource.prefetch` is set."""

_CHUNK = 4096
"""Pictures hashed, or copied to a device, at a time."""

FindLabels = Callable[[], Labels | None]


def no_labels() -> None:
    """For pictures without classes."""


class ArraySource:
    """An `ImageSource` over an array, on the CPU.

    Args:
        pictures_NHWC: uint8, C of 1, 3 or 4. It is never written to.
        description: see `ImageSource`.
        origin: see `ImageSource`.
        fingerprint: see `ImageSource`; without it, made from the pixels.
        skipped: see `ImageSource`.
        find_labels: gives what `ImageSource.labels` is.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]
    value_range: ValueRange | None = None

    prefetch = False
    """Whether a thread gathers batches ahead, in pinned memory where there is a GPU.

    Worth it where there is a GPU's copy or a disk to wait for. Else handing over between threads costs more than
    gathering.
    """

    def __init__(
        self,
        pictures_NHWC: PictureArray,
        *,
        description: str,
        origin: str,
        fingerprint: str | None = None,
        skipped: Sequence[Skipped] = (),
        find_labels: FindLabels = no_labels,
    ) -> None:
        assert len(pictures_NHWC.shape) == 4, pictures_NHWC.shape
        self.description, self.origin, self.skipped = description, origin, skipped
        self.pictures_NHWC = pictures_NHWC
        self._fingerprint = fingerprint
        self._find_labels = find_labels

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        return self._find_labels()

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = array_checksum(self.pictures_NHWC)
        return self._fingerprint

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures_NHWC)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        assert self.pictures_NHWC.dtype == np.uint8, self.pictures_NHWC.dtype
        if self.prefetch:
            return prefetch_map(self._gather, batches, threads=1, depth=PREFETCH_BATCHES)
        return (self._gather(numbers) for numbers in batches)

    def _gather(self, numbers: Sequence[int]) -> Tensor:
        shape = (len(numbers), *self.pictures_NHWC.shape[1:])
        batch_BHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=self.prefetch and torch.cuda.is_available())
        out_BHWC = batch_BHWC.numpy()
        if isinstance(self.pictures_NHWC, NpyPictures):
            self.pictures_NHWC.take(numbers, out_BHWC)
            return batch_BHWC
        assert isinstance(self.pictures_NHWC, np.ndarray), self.pictures_NHWC
        if len(numbers) and self.pictures_NHWC.flags.c_contiguous:
            # "clip" copies straight into `out`; "raise" would go through a buffer. NumPy copies in this thread alone,
            # where PyTorch would start a second set of threads beside the training step's.
            np.take(self.pictures_NHWC, numbers, axis=0, out=out_BHWC, mode="clip")
        elif len(numbers):  # of an array that isn't contiguous, take would copy all of it first
            out_BHWC[:] = self.pictures_NHWC[list(numbers)]
        return batch_BHWC


class ResizedSource:
    """An `ImageSource` over an array of pictures of another size, number of channels or range, converted when read.

    Args:
        pictures_NHWC: uint8, or other numbers with a `value_range`; C of 1, 3 or 4.
        frame: what the pictures given out are brought to.
        channels: 1, 3 or 4: of the pictures given out.
        threads: how many batches are converted at a time.
        description: see `ImageSource`.
        origin: see `ImageSource`.
        fingerprint: of the array; without it, made from the pixels.
        find_labels: gives what `ImageSource.labels` is.
        value_range: what becomes 0 and 255; None leaves uint8 as it is.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped] = ()

    def __init__(
        self,
        pictures_NHWC: PictureArray,
        *,
        frame: Frame,
        channels: int,
        threads: int,
        description: str,
        origin: str,
        fingerprint: str | None = None,
        find_labels: FindLabels = no_labels,
        value_range: ValueRange | None = None,
    ) -> None:
        assert value_range or pictures_NHWC.dtype == np.uint8, pictures_NHWC.dtype
        self.description, self.origin, self.value_range = description, origin, value_range
        self._source = ArraySource(
            pictures_NHWC, description=description, origin=origin, fingerprint=fingerprint, find_labels=find_labels
        )
        self._frame, self._channels, self._threads = frame, channels, threads

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        return self._source.labels

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        values = f", {self.value_range} as bytes" if self.value_range else ""
        return f"Pillow {PIL.__version__}{values}: {self._source.fingerprint}"

    @property
    def pictures_NHWC(self) -> PictureArray:
        """The array, before conversion."""
        return self._source.pictures_NHWC

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._source)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        return prefetch_map(self._convert, batches, threads=self._threads, depth=self._threads + 1)

    def _convert(self, numbers: Sequence[int]) -> Tensor:
        batch = np.empty(self._frame.shape(len(numbers), self._channels), np.uint8)
        for pixels, original_HWC in zip(batch, _one_by_one(self._source.pictures_NHWC, numbers), strict=True):
            if self.value_range is not None:
                original_HWC = self.value_range.to_bytes(original_HWC)
            picture = Image.fromarray(original_HWC[..., 0] if original_HWC.shape[-1] == 1 else original_HWC)
            pixels[:] = np.asarray(fit(as_channels(picture, self._channels), self._frame)).reshape(pixels.shape)
        return torch.from_numpy(batch)


class DeviceSource:
    """An `ImageSource` with all pictures in a device's memory, so that no batch is copied to it.

    Args:
        source: the pictures.
        device: where they are kept.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]

    def __init__(self, source: ArraySource, device: torch.device) -> None:
        self.description = f"{source.description}, kept on {device}"
        self.origin, self.skipped, self.value_range = source.origin, source.skipped, source.value_range
        self._source = source
        self.pictures_NHWC = torch.empty(source.pictures_NHWC.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(source), _CHUNK):
            chunk = np.array(source.pictures_NHWC[start : start + _CHUNK])  # PyTorch warns of a read-only array
            self.pictures_NHWC[start : start + _CHUNK] = torch.from_numpy(chunk).to(device)

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        return self._source.labels

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        return self._source.fingerprint

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._source)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        for numbers in batches:
            numbers_B = to_device(torch.as_tensor(numbers, dtype=torch.long), self.pictures_NHWC.device)
            yield self.pictures_NHWC.index_select(0, numbers_B)


def _one_by_one(pictures_NHWC: Any, numbers: Sequence[int]) -> Iterable[NDArray[Any]]:
    """Pictures [H, W, C] in this order, by the method `pictures` of what reads several at once from a file."""
    if hasattr(pictures_NHWC, "pictures"):
        several: Iterable[NDArray[Any]] = pictures_NHWC.pictures(numbers)
        return several
    return (pictures_NHWC[number] for number in numbers)


def make_array_source(
    pictures_NHWC: PictureArray,
    *,
    frame: Frame,
    channels: int,
    threads: int,
    description: str,
    origin: str,
    fingerprint: str | None = None,
    find_labels: FindLabels = no_labels,
    value_range: ValueRange | None = None,
) -> ImageSource:
    """An `ArraySource` where the pictures are uint8 of the size and channels asked for, else a `ResizedSource`."""
    if pictures_NHWC.shape[1:] == (*frame.size, channels) and value_range is None:
        return ArraySource(
            pictures_NHWC, description=description, origin=origin, fingerprint=fingerprint, find_labels=find_labels
        )
    return ResizedSource(
        pictures_NHWC,
        frame=frame,
        channels=channels,
        threads=threads,
        description=description,
        origin=origin,
        fingerprint=fingerprint,
        find_labels=find_labels,
        value_range=value_range,
    )


def array_checksum(pictures_NHWC: PictureArray) -> str:
    """SHA-256 of shape and pixels, hexadecimal."""
    digest = hashlib.sha256(repr(pictures_NHWC.shape).encode())
    for start in range(0, len(pictures_NHWC), _CHUNK):
        digest.update(np.ascontiguousarray(pictures_NHWC[start : start + _CHUNK]).data)
    return digest.hexdigest()
