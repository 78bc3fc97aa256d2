"""Runs that released versions, and commits before them, wrote (write.py) are opened, gone on with, reported and
exported as if of today."""

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import fastdcgan
from fastdcgan import cli
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.folder import scan_folder
from fastdcgan.data.open import open_source
from fastdcgan.data.pack import Pack, pack_status
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.checkpoints.folder import list_checkpoints
from fastdcgan.runs.folder import RunFolder
from fastdcgan.training import trainer
from fastdcgan.tuning.choice import load_choice

from .write import LONG, TRAIN

WRITTEN = {
    "1dd8b3a": "the last checkpoints without a manifest (format 1)",
    "7e62603": "the last checkpoints without an average of G (format 2)",
    "1cbf83e": "the first with an average of G (format 3)",
    "0.1.0": "the version; with evaluations and a measured plan",
}
RELEASED = [name for name in WRITTEN if "." in name]


@pytest.fixture(params=WRITTEN)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a commit has written, in the current folder."""
    with tarfile.open(Path(__file__).parent / f"{request.param}.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python has from 3.11.4 on
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path


of_released = pytest.mark.parametrize("old", RELEASED, indirect=True)


def pictures(folder: str) -> NDArray[np.int16]:
    """All PNGs of a folder, by name: [N, H, W, C]."""
    return np.stack([np.asarray(Image.open(file), np.int16) for file in sorted(Path(folder).glob("*.png"))])


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]


def test_its_pictures_are_the_same(old: Path) -> None:
    cli.main(["generate", "run", "--count", "4", "--seed", "1", "--out", "now"])
    before_NHWC = pictures("drawn")
    assert before_NHWC.std(axis=(1, 2)).min() > 10, "pictures of one grey would show nothing"
    # Another processor may round the other way.
    assert np.abs(pictures("now") - before_NHWC).max() <= 1


def test_it_goes_on_where_it_was(old: Path) -> None:
    before = records()
    cli.main([*TRAIN, *LONG])
    for was, now in zip(before, records(), strict=False):
        assert was.items() <= now.items(), "what was measured before is kept"
    assert [record["step"] for record in records()[len(before) :]][-3:] == [90, 100, 120]
    assert [path.name for path in list_checkpoints(RunFolder(Path("run")).checkpoints)][-1] == "step-00000120"
    assert "step 60" in Path("run/run.log").read_text()


def test_its_noise_is_drawn_as_before_and_a_new_run_draws_by_table(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Stream] = []

    def noted(seed: int, stream: Stream, *rest: int) -> torch.Tensor:
        drawn.append(stream)
        return latents(seed, stream, *rest)

    monkeypatch.setattr(trainer, "latents", noted)
    for budget in (LONG, (LONG[0], str(2 * int(LONG[1])))):  # the second time it has been written by this version
        cli.main([*TRAIN, *budget])
    assert drawn and set(drawn) == {Stream.NOISE}
    drawn.clear()
    for budget in (LONG, (LONG[0], str(2 * int(LONG[1])))):
        cli.main([*TRAIN, *budget, "--out", "another"])
    assert drawn and set(drawn) == {Stream.NOISE_BY_TABLE}


def test_another_configuration_is_still_refused(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([*TRAIN, *LONG, "--beta1", "0.4"])
    assert "--beta1: 0.5, now 0.4" in capsys.readouterr().err


def test_report_and_walk(old: Path) -> None:
    cli.main(["report", "run"])
    page = Path("run/report.html").read_text()
    assert "dcgan16" in page and page.count("data:image") >= 3
    cli.main(["interpolate", "run", "--frames", "4", "--out", "walk.gif"])
    assert Image.open("walk.gif").n_frames == 4


def test_weights_for_other_programs(old: Path) -> None:
    cli.main(["export", "run", "--to", "tutorial", "--out", "exported"])
    weights = torch.load("exported/netG.pth", weights_only=True)
    width = architecture("dcgan16", width=4).width
    assert weights["main.0.weight"].shape == (6, 2 * width, 4, 4)


def test_its_packs_are_used(old: Path) -> None:
    """The name has the folder's full path in it, which is another one here; Pillow may be another one too."""
    source = open_source("pictures", resolution=16, channels=3, device="cpu", threads=1, decoder="pillow")
    pack = Pack(original=source, frame=Frame.of(16), channels=3)
    (made,) = Path("cache/packs").glob("*.npy")
    manifest = made.with_suffix(".json").read_text()
    shutil.copy2(made, pack.array)
    pack.manifest.write_text(re.sub(r"Pillow [\d.]+", f"Pillow {PIL.__version__}", manifest))
    assert pack_status(pack, verify=True) == "whole"


def test_its_index_of_pictures_is_used_or_made_anew(old: Path) -> None:
    """Made anew where this version reads kinds of pictures that the one before passed over."""
    (made,) = Path("cache/folders").iterdir()
    count = len(list(Path("pictures").iterdir()))
    assert len(scan_folder("pictures")) == count
    (new,) = set(Path("cache/folders").iterdir()) - {made}
    shutil.copy2(made, new)
    assert len(scan_folder("pictures")) == count


def test_the_version_has_what_it_wrote() -> None:
    """Who sets another version keeps a run of it: python tests/old_runs/write.py HEAD VERSION"""
    assert RELEASED[-1] == fastdcgan.__version__


@of_released
def test_its_evaluations_are_kept_and_its_best_is_drawn(old: Path) -> None:
    before = Path("run/evaluations.jsonl").read_text()
    best = json.loads(Path("run/best.json").read_text())["step"]
    for checkpoint in ("best", str(best)):
        cli.main(["generate", "run", "--count", "4", "--checkpoint", checkpoint, "--out", f"drawn-{checkpoint}"])
    assert np.array_equal(pictures("drawn-best"), pictures(f"drawn-{best}"))
    cli.main([*TRAIN, *LONG])
    assert Path("run/evaluations.jsonl").read_text() == before
    assert "kernel distance" in Path("run/report.html").read_text()


@of_released
def test_its_measured_plans_are_found_by_it_alone(old: Path) -> None:
    (made,) = Path("cache/plans").iterdir()
    record = json.loads(made.read_text())
    conditions, plan = record["conditions"], Plan(**{**record["plan"], "kernels": tuple(record["plan"]["kernels"])})
    known = load_choice(conditions, [Plan(), plan])
    assert known is not None and known.plan == plan
    conditions["versions"]["fastdcgan"] = "99"
    assert load_choice(conditions, [Plan(), plan]) is None
