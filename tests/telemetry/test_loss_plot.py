import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fastdcgan.telemetry.metrics import Record, curves_of
from fastdcgan.telemetry.report.loss_plot import plot_losses

FIRST = Record(
    step=10,
    images=320,
    epoch=0.1,
    seconds=1.0,
    loss_d=1.4,
    loss_g=0.7,
    d_real=0.5,
    d_fake=0.5,
    images_per_sec=320.0,
    data_wait_fraction=0.0,
)


def records(count: int) -> list[Record]:
    return [
        replace(FIRST, step=10 * n, loss_d=1.4 / n, loss_g=0.7 * n, d_real=1 - 0.5 / n, d_fake=0.5 / n)
        for n in range(1, count + 1)
    ]


def drawn(lines: list[Record], path: Path) -> np.ndarray:
    plot_losses(curves_of(lines), path)
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) >= 600, "large enough to read"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("count", [1, 30])
def test_the_plot_is_a_readable_picture(count: int, tmp_path: Path) -> None:
    pixels = drawn(records(count), tmp_path / "losses.png")
    assert (pixels == 255).all(-1).mean() > 0.5, "on white"
    for colour in ((217, 95, 2), (27, 158, 119)):  # G and D
        assert (pixels == colour).all(-1).sum() > 50


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return drawn(records(5), tmp_path_factory.mktemp("five") / "losses.png")


@pytest.mark.parametrize("name", ["loss_d", "loss_g", "d_real", "d_fake"])
def test_the_plot_shows_each_figure(name: str, five: np.ndarray, tmp_path: Path) -> None:
    lines = records(5)
    lines[2] = replace(lines[2], **{name: 0.9})
    assert not np.array_equal(drawn(lines, tmp_path / "losses.png"), five)


def test_a_later_plot_replaces_the_earlier_one(five: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "losses.png"
    plot_losses(curves_of(records(2)), path)
    assert np.array_equal(drawn(records(5), path), five)
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_curve_looks_as_if_all_of_it_were_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose points would take 100 MiB and seconds at each save."""
    chance = np.random.default_rng(0)
    losses = chance.normal(1, 0.2, (30_000, 2)).clip(0.1) + np.linspace(0, 2, 30_000)[:, None]
    losses[12_345] = 5  # in one step of 30,000
    lines = [replace(FIRST, step=10 * n, loss_d=d, loss_g=g) for n, (d, g) in enumerate(losses.tolist(), 1)]
    pixels = drawn(lines, tmp_path / "few.png").astype(int)
    monkeypatch.setattr("fastdcgan.telemetry.report.loss_plot.GROUPS", len(lines))
    differ = np.abs(drawn(lines, tmp_path / "all.png") - pixels).max(-1) > 64
    assert differ.mean() < 0.01
    of_D = np.abs(pixels - (27, 158, 119)).max(-1) < 40
    assert of_D[50:160, 450:550].any(), "what stands out in one step is seen"


def test_nothing_of_a_plot_stays_in_memory(tmp_path: Path) -> None:
    gc.disable()  # it would free them too, some time
    try:
        before = [thing for thing in gc.get_objects() if type(thing) is Figure]
        plot_losses(curves_of(records(5)), tmp_path / "losses.png")
        assert [thing for thing in gc.get_objects() if type(thing) is Figure] == before
    finally:
        gc.enable()
