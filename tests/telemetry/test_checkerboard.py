"""Transparent pictures are shown on a checkerboard: in the terminal, and in the report."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastdcgan.gan.architecture import Size
from fastdcgan.runs.sampling import save_grid
from fastdcgan.telemetry.checkerboard import DARK, LIGHT, on_checkerboard
from fastdcgan.telemetry.report.grids import read_grids
from fastdcgan.telemetry.terminal.half_blocks import thumbnails


def sprites(count: int = 4, side: int = 16) -> torch.Tensor:
    """Red, opaque in the upper half; in the lower half transparent, above colours that nobody sees."""
    pictures_BCHW = torch.full((count, 4, side, side), -1.0)
    pictures_BCHW[:, 0, : side // 2] = 1
    pictures_BCHW[:, 3, : side // 2] = 1
    pictures_BCHW[:, :3, side // 2 :] = torch.rand(count, 3, side // 2, side, generator=torch.manual_seed(0)) * 2 - 1
    return pictures_BCHW


def test_squares_shine_through_and_nothing_else() -> None:
    clear = np.asarray(on_checkerboard(Image.new("RGBA", (16, 12), (9, 99, 9, 0)), 4))
    assert clear[0, 0].tolist() == [LIGHT] * 3 == clear[4, 4].tolist()
    assert clear[0, 4].tolist() == [DARK] * 3 == clear[4, 0].tolist()
    solid = Image.new("RGBA", (16, 12), (9, 99, 9, 255))
    assert on_checkerboard(solid).getpixel((5, 5)) == (9, 99, 9)
    assert on_checkerboard(Image.new("L", (4, 4), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_in_the_terminal() -> None:
    shown = np.asarray(thumbnails(sprites())[0])
    assert (shown[:8] == (255, 0, 0)).all()
    assert set(np.unique(shown[8:])) == {LIGHT, DARK}
    assert (np.asarray(thumbnails(torch.ones(1, 1, 16, 16))[0]) == 255).all()


def test_in_the_report(tmp_path: Path) -> None:
    save_grid(sprites(), tmp_path / "step-00000010.png")
    ((grid,), skipped) = read_grids(tmp_path, Size(16, 16))
    assert not skipped
    shown = np.asarray(grid.picture())
    assert (shown[4, 4] == (255, 0, 0)).all()
    assert set(np.unique(shown[12:16, 4:14])) == {LIGHT, DARK}
    assert grid.diversity == pytest.approx(0), "what lies under transparent pixels makes no difference"
