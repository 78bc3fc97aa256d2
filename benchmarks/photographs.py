"""Pictures that cost as much to decode as photographs of faces do: 178x218 JPEGs at quality 90, about 10 kB each."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 178, 218


def write_photographs(folder: Path, count: int, seed: int = 0) -> None:
    """Write `00000.jpg`, `00001.jpg` ... into a new folder: soft light, features, texture and a little grain."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(_photograph(rng)).save(folder / f"{number:05d}.jpg", quality=90)


def link_photographs(photographs: Path, folder: Path, count: int) -> None:
    """Make a new folder of `count` files by linking to those of another again and again, a thousand a subfolder."""
    originals = sorted(photographs.rglob("*.jpg"))
    for number in range(count):
        subfolder = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            subfolder.mkdir(parents=True)
        (subfolder / f"{number:08d}.jpg").hardlink_to(originals[number % len(originals)])


def _photograph(rng: np.random.Generator) -> np.ndarray:
    layers = [
        _smooth(rng, 3, 4) * 60.0,  # light and background
        _smooth(rng, 8, 10) * 30.0,  # features
        _smooth(rng, 30, 36) * 12.0,  # hair and cloth
        rng.standard_normal((HEIGHT, WIDTH, 1)) * 2.5,  # grain
    ]
    return np.clip(128.0 + sum(layers), 0, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, columns: int, rows: int) -> np.ndarray:
    """Coarse noise [H, W, 3] drawn out to the size of a picture."""
    coarse = rng.standard_normal((3, rows, columns)).astype(np.float32)
    size = (WIDTH, HEIGHT)
    return np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in coarse], axis=-1)
