"""Arrays of pictures, in memory or in files, and their axes."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class PictureArray(Protocol):
    """Pictures [N, H, W, C] of numbers: NumPy's array, or what reads them from a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        ...

    @property
    def nbytes(self) -> int:
        """Of all pictures."""
        ...

    def __len__(self) -> int:
        """How many pictures there are."""
        ...

    def __getitem__(self, number: Any, /) -> NDArray[Any]:
        """A picture [H, W, C]; some know slices. Raises ValueError where it can't be read."""
        ...


def channels_last(array: NDArray[Any], axes: str) -> NDArray[Any]:
    """A view [N, H, W, C] of an array with the axes "N, H, W, C", "N, C, H, W" or "N, H, W"."""
    return {"N, H, W": array[..., None], "N, C, H, W": np.moveaxis(array, 1, -1)}.get(axes, array)


def shape_channels_last(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """The shape of what `channels_last` gives."""
    return channels_last(np.broadcast_to(np.uint8(), shape), axes).shape
