"""Pictures decoded by Pillow: for platforms without DALI, and as the readable reference of `dali.py`."""

from collections.abc import Generator, Iterable, Sequence

import numpy as np
import PIL
import torch
from torch import Tensor

from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.decoding.encoded import EncodedPictures
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.decoding.picture import lock_if_large, open_fitted
from fastdcgan.data.decoding.prefetch import prefetch_map
from fastdcgan.data.labels import Labels
from fastdcgan.data.source import Skipped
from fastdcgan.storage.wording import counted


class PillowSource:
    """An `ImageSource` that decodes in threads into the CPU's memory.

    Args:
        encoded: the picture files.
        frame: what the pictures given out are brought to.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        threads: how many batches are decoded at a time.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]
    value_range: ValueRange | None = None

    def __init__(self, encoded: EncodedPictures, *, frame: Frame, channels: int, threads: int) -> None:
        self.description = f"{counted(len(encoded), 'picture')} in {encoded.origin}, decoded by Pillow"
        self.origin, self.skipped = encoded.origin, encoded.skipped
        self.encoded = encoded
        self._frame = frame
        self._channels = channels
        self._threads = threads

    def __len__(self) -> int:
        """How many usable pictures there are."""
        return len(self.encoded)

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        return self.encoded.labels

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        return f"Pillow {PIL.__version__}: {self.encoded.fingerprint}"

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`. Raises ValueError naming a file that vanished or changed since it was checked."""
        return prefetch_map(self._decode, batches, threads=self._threads, depth=self._threads + 1)

    def _decode(self, numbers: Sequence[int]) -> Tensor:
        batch = np.empty(self._frame.shape(len(numbers), self._channels), np.uint8)
        for pixels, number in zip(batch, numbers, strict=True):
            with lock_if_large(self.encoded.info(number).bytes):
                picture = open_fitted(self.encoded.read_bytes(number), self._channels, self._frame)
            pixels[:] = np.asarray(picture).reshape(pixels.shape)
        return torch.from_numpy(batch)
