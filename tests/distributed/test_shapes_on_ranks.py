"""Rectangles on two processes: the first steps are those of one."""

import sys
from pathlib import Path

import numpy as np
import pytest
from launched import TWO_RANKS, assert_same_weights, launch, learned
from PIL import Image

pytestmark = pytest.mark.slow

STEPS = 2
SHAPES = ("64x128", pytest.param("192x96", marks=pytest.mark.exhaustive))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another shape than either."""
    folder, levels = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(8):
        small = Image.fromarray(levels.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        small.resize((120, 150), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def train(photos: Path, out: Path, shape: str, *more: object, launcher: tuple[str, ...] = (sys.executable,)) -> Path:
    network = ("--resolution", shape, "--width", 4, "--latent-dim", 6, "--batch-size", 4, "--images", 4 * STEPS)
    how = ("--device", "cpu", "--precision", "fp32", "--threads", 1, "--decoder", "pillow", "--track", "none")
    code, said = launch("--data", photos, "--out", out, *network, *how, *more, launcher=launcher).ended(within=120)
    assert code == 0, said
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_two_processes_learn_what_one_does(shape: str, photos: Path, tmp_path: Path) -> None:
    exact = ("--plan", "default", "--exact-ranks", 2)
    one = train(photos, tmp_path / "one", shape, *exact)
    two = train(photos, tmp_path / "two", shape, *exact, launcher=TWO_RANKS)
    assert_same_weights(learned(two, STEPS), learned(one, STEPS))
