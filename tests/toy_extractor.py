"""What quality is measured with where only the measuring is tested: an extractor that takes no time, and pictures."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdcgan.evaluation.extractors import Extractor


def _features_of(pictures_BHWC: Tensor) -> Tensor:
    """The mean, and four pixels."""
    numbers_BHWC = pictures_BHWC.float() / 255
    return torch.cat([numbers_BHWC.mean((1, 2, 3))[:, None], numbers_BHWC[:, 5:7, 5:7, 0].flatten(1)], dim=1)


TOY = Extractor(name="a toy", frechet_label="", kernel_label="", features=5, identity="toy", features_of=_features_of)


def noise_pictures(folder: Path) -> str:
    """80 pictures of 16x16 in a `.npy`."""
    path = folder / "pictures.npy"
    np.save(path, np.random.default_rng(0).integers(256, size=(80, 16, 16, 3), dtype=np.uint8))
    return str(path)
