"""Pictures that are decoded already: in memory, in a file mapped into it, or in a GPU's."""

import hashlib
import mmap
from collections.abc import Generator, Iterable, Sequence

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastdcgan.data.decoding.ahead import work_ahead
from fastdcgan.data.decoding.picture import as_channels, fit
from fastdcgan.data.source import ImageSource, Skipped

AHEAD = 2
"""Batches gathered before they are asked for."""

_CHUNK = 4096
"""Pictures sent to a device at a time."""


class ArraySource:
    """An `ImageSource` over an array, on the CPU.

    Args:
        pictures_NHWC: uint8 with C of 1, 3 or 4, given out as they are; may be a memory map, and is never written to.
        description: what it is, for the run's first lines.
        origin: see `ImageSource`.
        fingerprint: see `ImageSource`; without it, made from the pixels.
        skipped: see `ImageSource`.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]

    ahead = False
    """Whether a thread gathers batches before they are asked for, in memory that a GPU can fetch while the CPU goes on.

    Worth it where there is something to wait for: a GPU's copies, or a disk. Else handing over costs more than
    gathering.
    """

    def __init__(
        self,
        pictures_NHWC: NDArray[np.uint8],
        *,
        description: str,
        origin: str,
        fingerprint: str | None = None,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        assert pictures_NHWC.dtype == np.uint8, pictures_NHWC.dtype
        assert pictures_NHWC.ndim == 4, pictures_NHWC.shape
        self.description, self.origin, self.skipped = description, origin, skipped
        self.pictures_NHWC = pictures_NHWC
        self._fingerprint = fingerprint
        self._map = _map_of(pictures_NHWC)
        self._size = self._map.size() if self._map else 0

    def check_whole(self) -> None:
        """Raises ValueError where the file behind the array was cut off: touching what is gone kills a process."""
        if self._map is not None and self._map.size() < self._size:
            file = getattr(self.pictures_NHWC, "filename", None) or self.origin
            raise ValueError(f"{file}: the file was cut off while training read it")

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = array_fingerprint(self.pictures_NHWC)
        return self._fingerprint

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures_NHWC)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        if self.ahead:
            return work_ahead(self._gather, batches, threads=1, ahead=AHEAD)
        return (self._gather(numbers) for numbers in batches)

    def _gather(self, numbers: Sequence[int]) -> Tensor:
        self.check_whole()
        shape = (len(numbers), *self.pictures_NHWC.shape[1:])
        batch_BHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=self.ahead and torch.cuda.is_available())
        if len(numbers):
            # "clip" copies whole pictures straight to their place; "raise" would go through a buffer. NumPy works in
            # this thread alone, where PyTorch would start a second set of threads beside the training step's.
            if self.pictures_NHWC.flags.c_contiguous:
                np.take(self.pictures_NHWC, numbers, axis=0, out=batch_BHWC.numpy(), mode="clip")
            else:  # of an array that lies otherwise, take would copy all of it first
                batch_BHWC.numpy()[:] = self.pictures_NHWC[list(numbers)]
        return batch_BHWC


class FittedSource:
    """An `ImageSource` over an array of pictures of another size or kind, fitted whenever they are read.

    Args:
        pictures_NHWC: uint8 with C of 1, 3 or 4.
        resolution: side of the pictures given out.
        channels: 1, 3 or 4: of the pictures given out.
        threads: how many batches are fitted at a time.
        description: what it is, for the run's first lines.
        origin: see `ImageSource`.
        fingerprint: of the array; without it, made from the pixels.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped] = ()

    def __init__(
        self,
        pictures_NHWC: NDArray[np.uint8],
        *,
        resolution: int,
        channels: int,
        threads: int,
        description: str,
        origin: str,
        fingerprint: str | None = None,
    ) -> None:
        self.description, self.origin = description, origin
        self._original = ArraySource(pictures_NHWC, description=description, origin=origin, fingerprint=fingerprint)
        self._resolution, self._channels, self._threads = resolution, channels, threads

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        return f"Pillow {PIL.__version__}: {self._original.fingerprint}"

    @property
    def pictures_NHWC(self) -> NDArray[np.uint8]:
        """The pictures as they are, before they are fitted."""
        return self._original.pictures_NHWC

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._original)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        return work_ahead(self._fit, batches, threads=self._threads, ahead=self._threads + 1)

    def _fit(self, numbers: Sequence[int]) -> Tensor:
        self._original.check_whole()
        batch = np.empty((len(numbers), self._resolution, self._resolution, self._channels), np.uint8)
        for pixels, number in zip(batch, numbers, strict=True):
            original_HWC = self._original.pictures_NHWC[number]
            picture = Image.fromarray(original_HWC[..., 0] if original_HWC.shape[-1] == 1 else original_HWC)
            pixels[:] = np.asarray(fit(as_channels(picture, self._channels), self._resolution)).reshape(pixels.shape)
        return torch.from_numpy(batch)


class ResidentSource:
    """An `ImageSource` whose pictures are all in a device's memory: a batch never crosses to it.

    Args:
        original: whose pictures.
        device: where they are kept.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]

    def __init__(self, original: ArraySource, device: torch.device) -> None:
        self.description = f"{original.description}, kept on {device}"
        self.origin, self.skipped = original.origin, original.skipped
        self._original = original
        self._pictures_NHWC = torch.empty(original.pictures_NHWC.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(original), _CHUNK):
            chunk = np.array(original.pictures_NHWC[start : start + _CHUNK])  # PyTorch warns of a read-only map
            self._pictures_NHWC[start : start + _CHUNK] = torch.from_numpy(chunk).to(device)

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        return self._original.fingerprint

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._original)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        for numbers in batches:
            numbers_B = torch.as_tensor(numbers, dtype=torch.long).to(self._pictures_NHWC.device, non_blocking=True)
            yield self._pictures_NHWC.index_select(0, numbers_B)


def source_of_array(
    pictures_NHWC: NDArray[np.uint8],
    *,
    resolution: int,
    channels: int,
    threads: int,
    description: str,
    origin: str,
    fingerprint: str | None = None,
) -> ImageSource:
    """The pictures as they are, where they have the size and channels asked for; else fitted when they are read."""
    if pictures_NHWC.shape[1:] == (resolution, resolution, channels):
        return ArraySource(pictures_NHWC, description=description, origin=origin, fingerprint=fingerprint)
    return FittedSource(
        pictures_NHWC,
        resolution=resolution,
        channels=channels,
        threads=threads,
        description=description,
        origin=origin,
        fingerprint=fingerprint,
    )


def _map_of(array: object) -> mmap.mmap | None:
    """The file that an array is mapped from, which stays open."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array


def array_fingerprint(pictures_NHWC: NDArray[np.uint8]) -> str:
    """A checksum of shape and pixels, as hexadecimal digits."""
    digest = hashlib.sha256(repr(pictures_NHWC.shape).encode())
    for start in range(0, len(pictures_NHWC), _CHUNK):
        digest.update(np.ascontiguousarray(pictures_NHWC[start : start + _CHUNK]).data)
    return digest.hexdigest()
