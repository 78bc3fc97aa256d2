"""What quality is measured with where only the measuring is tested: an extractor that takes no time, and pictures."""

from pathlib import Path

import numpy as np
from torch import Tensor

from fastdcgan.evaluation.extractors import Extractor


class ToyNetwork:
    """A picture's first numbers, from 0 to 1; `seen` is what it was given."""

    def __init__(self, features: int = 4) -> None:
        self.features = features
        self.seen: list[Tensor] = []

    def __call__(self, pictures_BHWC: Tensor) -> Tensor:
        self.seen.append(pictures_BHWC.clone())
        return pictures_BHWC.flatten(1)[:, : self.features].float().cpu() / 255


def toy_extractor(network: ToyNetwork, identity: str = "toy") -> Extractor:
    return Extractor(
        name="a toy",
        frechet_label="Fréchet distance, toy",
        kernel_label="kernel distance, toy",
        features=network.features,
        identity=identity,
        features_of=network,
    )


def noise_pictures(folder: Path) -> str:
    """80 pictures of 16x16 in a `.npy`."""
    path = folder / "pictures.npy"
    np.save(path, np.random.default_rng(0).integers(256, size=(80, 16, 16, 3), dtype=np.uint8))
    return str(path)
