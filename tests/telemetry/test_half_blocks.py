import math
import re

import numpy as np
import pytest
import torch
from rich.color import ColorSystem
from rich.console import Console
from rich.text import Text

from fastdcgan.gan.architecture import Resolution, Size
from fastdcgan.telemetry.terminal.half_blocks import (
    MAX_SIDE,
    MIN_PICTURES,
    MIN_SIDE,
    grid_layout,
    half_blocks,
    thumbnails,
    tiled,
)


def pixels_of(lines: list[str]) -> list[list[tuple[int, int, int]]]:
    """What a terminal shows, read back from its escape codes: two rows of pixels a line."""
    rows = []
    for line in lines:
        text = Text.from_ansi(line)
        upper, lower = [], []
        for place in range(len(text.plain)):
            assert text.plain[place] == "▀"
            style = text.get_style_at_offset(Console(), place)
            assert style.color is not None and style.bgcolor is not None
            upper.append(tuple(style.color.get_truecolor()))
            lower.append(tuple(style.bgcolor.get_truecolor()))
        rows += [upper, lower]
    return rows


def test_a_terminal_shows_the_pixels_that_went_in() -> None:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    pixels_HWC[0, :3] = pixels_HWC[0, 0]  # colours that repeat are written once
    pixels_HWC[1, :3] = pixels_HWC[1, 0]
    lines = half_blocks(pixels_HWC, ColorSystem.TRUECOLOR)
    assert len(lines) == 3
    assert pixels_of(lines) == [[tuple(pixel) for pixel in row] for row in pixels_HWC.tolist()]
    assert all(line.endswith("\x1b[0m") for line in lines), "what comes after keeps its own colours"


def test_colours_are_those_that_the_terminal_has() -> None:
    lines = half_blocks(np.full((2, 2, 3), 200, np.uint8), ColorSystem.EIGHT_BIT)
    assert re.fullmatch(r"\x1b\[38;5;\d+;48;5;\d+m▀▀\x1b\[0m", lines[0])


@pytest.mark.parametrize("resolution", [16, 28, 32, 64, "128x64", "64x256"])
@pytest.mark.parametrize("height", [1, 4, 7, 8, 17, 24, 60])
@pytest.mark.parametrize("width", [1, 13, 40, 80, 120, 250])
def test_a_layout_fits_its_space(width: int, height: int, resolution: Resolution) -> None:
    size = Size.of(resolution)
    layout = grid_layout(64, size, width, height)
    aspect = math.sqrt(size.width / size.height)
    if layout is None:
        assert width < MIN_SIDE * aspect or 2 * height < MIN_SIDE / aspect
        return
    pixels_HWC = tiled(thumbnails(torch.zeros(64, 3, *size)), layout)
    assert pixels_HWC.shape[0] <= 2 * height and pixels_HWC.shape[0] % 2 == 0
    assert pixels_HWC.shape[1] <= width
    assert 0.95 * MIN_SIDE**2 <= layout.size.area <= min(1.05 * MAX_SIDE**2, size.area)
    assert layout.size.width / layout.size.height == pytest.approx(size.width / size.height, rel=0.1)


def test_pictures_are_as_large_as_enough_of_them_allow() -> None:
    small, large = grid_layout(64, Size(64, 64), 80, 18), grid_layout(64, Size(64, 64), 200, 50)
    assert small is not None and large is not None
    assert small.columns * small.rows >= MIN_PICTURES
    assert small.size < large.size == (MAX_SIDE, MAX_SIDE)


def test_a_layout_has_no_empty_places() -> None:
    layout = grid_layout(3, Size(32, 32), 200, 50)
    assert layout == (3, 1, (32, 32))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_come_out_in_their_place_and_colour(channels: int) -> None:
    pictures_BCHW = torch.full((4, channels, 16, 16), -1.0)
    pictures_BCHW[1] = 1.0
    pictures_BCHW[:, 3:] = 1.0  # opaque
    layout = grid_layout(4, Size(16, 16), 40, 20)
    assert layout == (2, 2, (16, 16))
    pixels_HWC = tiled(thumbnails(pictures_BCHW), layout)
    assert pixels_HWC[:16, 17:33].min() == 255
    assert pixels_HWC[:, :16].max() == 0
    assert pixels_HWC[17:].max() == 0
