"""Pictures as training sees them."""

import os
from typing import Literal

from fastdcgan.config import MAX_DATA_THREADS, DataConfig, Fit
from fastdcgan.data.open import open_pictures
from fastdcgan.data.source import ImageSource
from fastdcgan.gan.architecture import architecture


def open_data(
    data: str | os.PathLike[str],
    *,
    resolution: int | str = 64,
    channels: int | None = None,
    fit: Fit = "crop",
    decoder: Literal["auto", "dali", "pillow"] = "auto",
    data_cache: Literal["auto", "on", "off"] = "auto",
    data_threads: int | None = None,
    value_range: str = "auto",
    drop_duplicates: bool = False,
) -> ImageSource:
    """Open pictures as `train` does, to look at them or to use them elsewhere.

    >>> pictures = open_data("photos", resolution=32)
    >>> len(pictures), [skip.reason for skip in pictures.skipped]
    (24, [])
    >>> first_NHWC, = pictures.read([range(8)])
    >>> first_NHWC.shape, first_NHWC.dtype
    (torch.Size([8, 32, 32, 3]), torch.uint8)

    Args:
        data: as `fastdcgan train --data`: a folder, an archive, a NumPy file, or the name of a data set.
        resolution: size of the pictures in pixels: 96, or "128x64" (height x width).
        channels: 1 (greyscale), 3 (RGB) or 4 (RGB and alpha). Default: 3; 1 for 28x28.
        fit: how pictures of another shape are brought to this one: as for `train`.
        decoder: likewise.
        data_cache: likewise.
        data_threads: likewise.
        value_range: likewise.
        drop_duplicates: likewise.

    Returns:
        `len`, `description`, `skipped`, `labels`, and `read(batches)`, which yields uint8 [B, H, W, C] tensors on the
        CPU for batches of picture numbers.

    Raises:
        ValueError: they can't be opened; in one line.
    """
    if data_threads is not None and not 1 <= data_threads <= MAX_DATA_THREADS:
        raise ValueError(f"data_threads {data_threads}: must be at least 1 and at most {MAX_DATA_THREADS:,}")
    asked = DataConfig(
        data=os.fspath(data),
        fit=fit,
        decoder=decoder,
        data_cache=data_cache,
        data_threads=data_threads,
        value_range=value_range,
        drop_duplicates=drop_duplicates,
    )
    return open_pictures(asked, architecture(resolution=resolution, channels=channels))
