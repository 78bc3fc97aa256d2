import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fastdcgan.config import ModelConfig, TrainConfig
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.models import build
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import RunFolder, create, write_config
from fastdcgan.runs.generate import generate_from_run
from fastdcgan.runs.interpolate import (
    MAX_FRAMES,
    MAX_STILL_ROWS,
    STILL_COLUMNS,
    closed_path,
    interpolate_from_run,
    slerp,
)

ARCH = architecture("dcgan16", width=4)


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose newest checkpoint is of step 7."""
    generator, _ = build(ARCH, 0)
    # Pictures of a fresh network hardly differ.
    generator.load_state_dict({name: 5 * v if v.ndim == 4 else v for name, v in generator.state_dict().items()})
    for module in ("generate", "interpolate"):
        monkeypatch.setattr(
            f"fastdcgan.runs.{module}.load_generator", lambda *_, **__: (generator, ARCH, Progress(step=7), [])
        )
    return tmp_path_factory.mktemp("runs") / "run"


def test_slerp_reaches_its_ends_and_keeps_the_norm() -> None:
    a_BL, b_BL = torch.randn(2, 5, 100, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(slerp(a_BL, b_BL, 0), a_BL) and torch.allclose(slerp(a_BL, b_BL, 1), b_BL)
    a_BL, b_BL = a_BL / a_BL.norm(dim=1, keepdim=True), b_BL / b_BL.norm(dim=1, keepdim=True)
    for part in (0.1, 0.5, 0.8):
        z_BL = slerp(a_BL, b_BL, part)
        assert torch.allclose(z_BL.norm(dim=1), torch.ones(5), atol=1e-5)
        whole, done = (torch.acos((a_BL * other).sum(1)) for other in (b_BL, z_BL))
        assert torch.allclose(done, part * whole, atol=1e-4), "the same way in the same time"


def test_slerp_of_collinear_latents_is_linear() -> None:
    a_BL = torch.tensor([[2.0], [1.0]])
    b_BL = torch.tensor([[4.0], [-1.0]])
    assert torch.allclose(slerp(a_BL, b_BL, 0.5), torch.tensor([[3.0], [0.0]]), atol=1e-5)


def test_a_path_is_closed_and_even() -> None:
    waypoints_WBL = torch.randn(6, 2, 100, generator=torch.Generator().manual_seed(0))
    walk = closed_path(waypoints_WBL, 60)
    assert len(walk) == 60
    for number in range(6):
        assert torch.allclose(walk[10 * number], waypoints_WBL[number], atol=1e-5)
    steps = [float((after - before).norm()) for before, after in zip(walk, [*walk[1:], walk[0]], strict=True)]
    assert max(steps) < 1.5 * min(steps), "no jump, not even from the last frame to the first"
    assert len(closed_path(waypoints_WBL, 2)) == 2


@pytest.mark.parametrize("ending", [".webp", ".gif"])
def test_a_walk_is_written_with_a_still(run: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "new" / f"walk{ending}"
    said = interpolate_from_run(run, frames=12, seed=3, out=out)
    assert str(out) in said and "step 7" in said
    with Image.open(out) as animation:
        assert (animation.format, animation.size) == (ending[1:].upper(), (4 * 18 + 2, 4 * 18 + 2))
        assert getattr(animation, "n_frames", 1) == 12 and animation.info["loop"] == 0
        first = tiles(animation)
    with Image.open(out.with_suffix(".png")) as still:
        assert still.size == (STILL_COLUMNS * 18 + 2, MAX_STILL_ROWS * 18 + 2)
    generate_from_run(run, count=16, seed=3, out=tmp_path / "first.png")
    with Image.open(tmp_path / "first.png") as generated:
        wanted = tiles(generated)
    nearest = np.abs(first[:, None] - wanted).mean((2, 3, 4)).argmin(1)
    assert (nearest == np.arange(16)).sum() >= 12, "it begins at the pictures of this seed, each in its place"


@pytest.mark.parametrize("channels", [3, 4])
def test_a_walk_as_a_video(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = architecture("dcgan16", width=4, channels=channels)
    generator, _ = build(arch, 0)
    monkeypatch.setattr(
        "fastdcgan.runs.interpolate.load_generator", lambda *_, **__: (generator, arch, Progress(step=7), [])
    )
    out = tmp_path / "walk.mp4"
    interpolate_from_run(tmp_path, frames=12, seed=3, out=out)
    reader = imageio_ffmpeg.read_frames(str(out))
    facts = next(reader)
    frames = [np.frombuffer(frame, np.uint8) for frame in reader]
    assert facts["size"] == (4 * 18 + 2, 4 * 18 + 2) and facts["codec"] == "h264" and facts["fps"] == 12.5
    assert len(frames) == 24, "the walk comes twice"
    first, still = frames[0].reshape(74, 74, 3), Image.open(out.with_suffix(".png"))
    assert still.size == (STILL_COLUMNS * 18 + 2, MAX_STILL_ROWS * 18 + 2)
    assert first[2:, 2:].std() > 0 and abs(int(first[0, 0].mean()) - (0 if channels == 3 else 255)) < 20, "the margin"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["walk.mp4", "walk.png"]


def test_a_video_without_ffmpeg_names_the_extra(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"pip install 'fastdcgan\[video\]'"):
        interpolate_from_run(run, frames=5, seed=0, out=tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def tiles(grid: Image.Image) -> NDArray[np.float64]:
    """The 16 pictures of a 4 x 4 grid."""
    pixels = np.asarray(grid.convert("RGB"), np.float64)[2:, 2:].reshape(4, 18, 4, 18, 3)
    return pixels[:, :16, :, :16].swapaxes(1, 2).reshape(16, 16, 16, 3)


def test_a_walk_is_a_function_of_the_seed(run: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        interpolate_from_run(run, frames=5, seed=seed, out=tmp_path / f"{name}.webp")
    a, b, c = ((tmp_path / f"{name}.webp").read_bytes() for name in "abc")
    assert a == b != c


def test_requests_that_cannot_be_met(run: Path, tmp_path: Path) -> None:
    for frames, seed, name, said in (
        (1, 0, "a.webp", "--frames 1: must be at least 2"),
        (MAX_FRAMES + 1, 0, "a.webp", "at most"),
        (5, -1, "a.webp", "--seed -1"),
        (5, 0, "a.avi", "must end in .webp, .gif or .mp4"),
        (5, 0, "file/a.webp", "can't write to"),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=said):
            interpolate_from_run(run, frames=frames, seed=seed, out=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_runs_that_have_learned_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such run folder"):
        interpolate_from_run(tmp_path / "none", frames=5, seed=0, out=tmp_path / "a.webp")
    folder = RunFolder(tmp_path / "empty")
    create(folder)
    write_config(folder, TrainConfig(model=ModelConfig(arch="dcgan16", width=4)).resolved(), ARCH, {})
    with pytest.raises(ValueError, match="no checkpoint yet"):
        interpolate_from_run(folder.path, frames=5, seed=0, out=tmp_path / "a.webp")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
