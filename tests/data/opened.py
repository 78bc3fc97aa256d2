"""Archives as tests open them."""

import pytest
import torch

from fastdcgan.data.archives.shards import open_shards
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource


def source(spec: object, decoder: str = "pillow", *, resolution: int = 8, cache: str = "off") -> ImageSource:
    return open_source(
        str(spec), resolution=resolution, channels=3, device="cpu", threads=2, decoder=decoder, cache=cache
    )


def pixels(source: ImageSource) -> torch.Tensor:
    """Of all pictures, read one by one."""
    return torch.cat(list(source.read([[n] for n in range(len(source))])))


def complaint(spec: object) -> str:
    """What is said of archives that are refused, in one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
        open_shards(str(spec))
    return str(raised.value)
