"""A run at a size that isn't square, from its data to what is made with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastdcgan import cli

WIDE = ("--resolution", "16x32")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures that are higher than wide."""
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 50), (number * 80, 100, 200)).save(folder / f"{number}.png")
    return folder


def fastdcgan(*arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])


def train(photos: Path, out: Path, images: int, fit: str = "pad") -> None:
    how = ("--width", 4, "--latent-dim", 5, "--batch-size", 2, "--plan", "default", "--track", "none")
    fastdcgan("train", "--data", photos, "--out", out, *WIDE, "--fit", fit, *how, "--images", images)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.slow
def test_a_whole_run(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train(photos, out, 4)
    train(photos, out, 8)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    kept = json.loads((out / "config.json").read_text())["config"]
    assert (kept["arch"], kept["resolution"], kept["fit"]) == ("dcgan16x32", "16x32", "pad")
    assert "3x16x32" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train(photos, out, 8, fit="crop")
    assert "--fit: pad, now crop" in capsys.readouterr().err

    assert size(out / "samples" / "step-00000004.png") == (8 * (32 + 2) + 2, 8 * (16 + 2) + 2)
    real_HWC = np.asarray(Image.open(out / "real.png").convert("RGB"))
    first_HWC = real_HWC[2:18, 2:34]
    assert first_HWC[:, 10:22].any(axis=-1).all(), "the picture"
    assert not first_HWC[:, :9].any() and not first_HWC[:, 23:].any(), "its borders"
    assert "dcgan16x32" in (out / "report.html").read_text(encoding="utf-8")

    fastdcgan("generate", out, "--count", 4, "--out", tmp_path / "grid.png")
    assert size(tmp_path / "grid.png") == (2 * (32 + 2) + 2, 2 * (16 + 2) + 2)
    fastdcgan("generate", out, "--count", 3, "--out", tmp_path / "pictures.npy")
    assert np.load(tmp_path / "pictures.npy").shape == (3, 16, 32, 3)
    fastdcgan("interpolate", out, "--frames", 3, "--out", tmp_path / "walk.webp")
    assert size(tmp_path / "walk.webp") == (4 * (32 + 2) + 2, 4 * (16 + 2) + 2)
    fastdcgan("report", out)
    assert size(out / "samples.webp") == size(out / "samples" / "step-00000004.png")

    fastdcgan("export", out, "--to", "tutorial", "--out", tmp_path / "exported")
    assert "layers of dcgan16x32" in capsys.readouterr().out
    files = [tmp_path / "exported" / name for name in ("netG.pth", "netD.pth")]
    fastdcgan("import", *files, "--out", tmp_path / "imported")
    assert "imported dcgan16x32, width 4, 3 channels, 5 latent numbers" in capsys.readouterr().out


def test_the_data_is_described_and_packed_for_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    fastdcgan("data", photos, *WIDE, "--fit", "stretch", "--out", sheet)
    said = capsys.readouterr().out
    assert "4 pictures have another shape than 16x32 (height x width):" in said
    assert "--fit crop     cuts off 60% of a picture in the mean, 60% at most; 4 pictures lose more than half" in said
    assert size(sheet) == (2 * (32 + 2) + 2, 2 * (16 + 2) + 2)
    fastdcgan("pack", photos, *WIDE, "--fit", "stretch")
    said = capsys.readouterr().out
    assert "16x32x3 = 1,536 bytes each" in said and f"--data {photos} --resolution 16x32 --fit stretch uses it" in said


@pytest.mark.parametrize("verb", ["roofline", "scale"])
def test_limits_know_it(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    fastdcgan(verb, "--arch", "dcgan64x32", "--width", 8, "--batch-size", 8)
    assert "dcgan64x32, width 8" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", ["48", "96", "64x128", *(pytest.param(shape, marks=pytest.mark.exhaustive) for shape in ("112", "192x96"))]
)
def test_every_verb_at_every_kind_of_size(
    shape: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes that aren't powers of two, and rectangles: no verb knows only squares."""
    height, _, width = shape.partition("x")
    across, down = int(width or height), int(height)
    monkeypatch.chdir(tmp_path)
    tiny = ("--width", 4, "--batch-size", 2)
    asked = ("--resolution", shape, *tiny, "--images", 4, "--plan", "default")
    fastdcgan("train", "--data", photos, *asked, "--out", "run")
    files = {"onnx": "generator.onnx", "torch": "generator.pt2", "hub": "model.safetensors", "tutorial": "netG.pth"}
    for to, file in files.items():
        if to == "onnx":
            pytest.importorskip("onnxscript")
        fastdcgan("export", "run", "--to", to, "--out", to)
        assert (tmp_path / to / file).stat().st_size > 0
    fastdcgan("generate", "run", "--count", 1, "--out", "one.png")
    assert size(tmp_path / "one.png") == (across, down)
    fastdcgan("generate", "run", "--count", 3, "--out", "some.npy")
    assert np.load("some.npy").shape == (3, down, across, 3)
    fastdcgan("interpolate", "run", "--frames", 2, "--out", "walk.webp")
    fastdcgan("report", "run")
    assert "dcgan" + shape in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    fastdcgan("tune", "--arch", f"dcgan{shape}", *tiny, "--seconds", 1, "--threads", 1, "--json", "plans.json")
    assert json.loads(Path("plans.json").read_text())
