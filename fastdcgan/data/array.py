"""Pictures that are in memory already."""

from collections.abc import Generator, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastdcgan.data.picture import fit
from fastdcgan.data.source import Skipped

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ArraySource:
    """An `ImageSource` over an array, on the CPU.

    Args:
        pictures: uint8 [N, H, W, C] with C of 1, 3 or 4; kept without a copy where it has the size asked for.
        resolution: side of the pictures given out; others are fitted once, here.
        channels: of the pictures given out, converted once where they differ.
        description: what it is, for the run's first lines.
    """

    description: str
    skipped: Sequence[Skipped] = ()

    def __init__(self, pictures: NDArray[np.uint8], *, resolution: int, channels: int, description: str) -> None:
        assert pictures.dtype == np.uint8, pictures.dtype
        assert pictures.ndim == 4, pictures.shape
        if pictures.shape[1:] != (resolution, resolution, channels):
            pictures = _fitted(pictures, resolution, channels)
        self.description = description
        self._pictures = torch.from_numpy(pictures)

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._pictures)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        for numbers in batches:
            yield self._pictures[torch.as_tensor(numbers, dtype=torch.long)]


def _fitted(pictures: NDArray[np.uint8], resolution: int, channels: int) -> NDArray[np.uint8]:
    fitted = np.empty((len(pictures), resolution, resolution, channels), np.uint8)
    for old, new in zip(pictures, fitted, strict=True):
        picture = Image.fromarray(old[..., 0] if old.shape[-1] == 1 else old)
        new[:] = np.asarray(fit(picture.convert(_MODES[channels]), resolution)).reshape(new.shape)
    return fitted
