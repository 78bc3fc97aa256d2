"""A link under the name of a file that we write: the file behind it, another of the user's, stays as it is."""

import json
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastdcgan.config import RunConfig, TrainConfig
from fastdcgan.data.array import ArraySource
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.describe import write_skipped
from fastdcgan.data.source import Skipped
from fastdcgan.distributed.rank_log import rank_log
from fastdcgan.runs import folder
from fastdcgan.runs.animation import save_animation
from fastdcgan.runs.folder import RunFolder, write_config
from fastdcgan.runs.sampling import save_grid, save_tiled
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached
from fastdcgan.storage.files import create, open_to_append, read_limited, write_replacing
from fastdcgan.telemetry.metrics import MetricsFile, Record
from fastdcgan.telemetry.report.html import write_report
from fastdcgan.telemetry.report.loss_plot import plot_losses
from fastdcgan.telemetry.report.nearest import write_nearest
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.plan_tables import write_plans

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need no privilege elsewhere only")

PRECIOUS = b"the user's own"
CONFIG = TrainConfig(run=RunConfig(images=100)).resolved()
RECORD = Record(
    step=1,
    images=1,
    epoch=1.0,
    seconds=1.0,
    loss_d=1.0,
    loss_g=1.0,
    d_real=0.5,
    d_fake=0.5,
    images_per_sec=1.0,
    data_wait_fraction=0.0,
)
PICTURE_BCHW = torch.zeros(1, 3, 8, 8)
REAL = ArraySource(np.zeros((2, 8, 8, 3), np.uint8), description="", origin="")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / "precious"
    path.write_bytes(PRECIOUS)
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.samples.mkdir(parents=True)
    return folder


def metrics_written(folder: RunFolder) -> None:
    file = MetricsFile(folder.metrics)
    file.write(RECORD)
    file.close()


def animated(folder: RunFolder) -> None:
    save_animation([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "red")], folder.animation, 100)


def said(folder: RunFolder) -> None:
    (folder.samples / "step-00000000.png").unlink(missing_ok=True)
    write_report(folder)


WRITERS: dict[str, tuple[str, Callable[[RunFolder], object]]] = {
    "config": ("config.json", lambda run: write_config(run, CONFIG, CONFIG.model.architecture(), {})),
    "metrics": ("metrics.jsonl", metrics_written),
    "losses": ("losses.png", lambda run: plot_losses([RECORD], run.losses)),
    "skipped": ("skipped.txt", lambda run: write_skipped([Skipped(path="a", reason="b")], run.skipped)),
    "animation": ("samples.webp", animated),
    "report": ("report.html", said),
    "tiled": ("walk.png", lambda run: save_tiled(PICTURE_BCHW, run.path / "walk.png", columns=1)),
    "real": ("real.png", lambda run: save_grid(PICTURE_BCHW, run.real)),
    "nearest": ("nearest.png", lambda run: write_nearest(run, PICTURE_BCHW, REAL, 1, mirrored=False)),
    "nearest record": ("nearest.json", lambda run: write_nearest(run, PICTURE_BCHW, REAL, 1, mirrored=False)),
    "sample": ("samples/step-00000000.png", lambda run: save_grid(PICTURE_BCHW, run.samples / "step-00000000.png")),
    "plans": ("plans.json", lambda run: write_plans(run.path / "plans.json", {})),
    "probe": (".writable", folder.create),
    "cache": ("cached", lambda run: write_cached(run.path / "cached", b"body")),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_in_a_files_place_is_replaced_and_not_followed(writer: str, run: RunFolder, precious: Path) -> None:
    name, write = WRITERS[writer]
    (run.path / name).symlink_to(precious)
    write(run)
    assert precious.read_bytes() == PRECIOUS
    assert not (run.path / name).is_symlink()
    assert list(run.path.rglob(f".*{os.getpid()}")) == []


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "probe"])
def test_nor_is_one_beside_where_the_file_is_prepared(writer: str, run: RunFolder, precious: Path) -> None:
    """All names that such a file has had: with the process's number, and those of older versions."""
    name, write = WRITERS[writer]
    place = run.path / name
    beside = (place.with_name(f".{place.name}.{os.getpid()}"), place.with_suffix(f".{os.getpid()}"))
    for path in (*beside, place.with_suffix(".tmp")):
        path.symlink_to(precious)
    write(run)
    assert precious.read_bytes() == PRECIOUS
    assert place.is_file()


def test_a_link_to_nothing_makes_nothing(run: RunFolder, tmp_path: Path) -> None:
    run.config.symlink_to(tmp_path / "made")
    (run.path / ".writable").symlink_to(tmp_path / "made")
    folder.create(run)
    write_config(run, CONFIG, CONFIG.model.architecture(), {})
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["samples", "checkpoints", "logs", "tensorboard", "profile"])
def test_folders_of_a_run_that_are_links_are_refused(name: str, tmp_path: Path) -> None:
    run, home = RunFolder(tmp_path / "run"), tmp_path / "home"
    run.path.mkdir()
    home.mkdir()
    (run.path / name).symlink_to(home)
    with pytest.raises(ValueError, match=f"can't write to the output folder .*{name} is a link"):
        folder.create(run)
    assert list(home.iterdir()) == []


def test_the_runs_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    run = RunFolder(tmp_path / "run")
    run.path.symlink_to(tmp_path / "large-disk")
    folder.create(run)
    write_config(run, CONFIG, CONFIG.model.architecture(), {})
    assert (tmp_path / "large-disk" / "config.json").is_file()


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
def test_a_ranks_log_is_no_link(link: Callable[[Path, Path], None], run: RunFolder, precious: Path) -> None:
    run.logs.mkdir()
    link(run.logs / "rank-1.log", precious)
    with pytest.raises(ValueError, match=r"can't write to .*rank-1\.log"), rank_log(run.logs, 1, 2):
        pass
    assert precious.read_bytes() == PRECIOUS


def test_nor_is_the_first_ones(run: RunFolder, precious: Path) -> None:
    run.log.symlink_to(precious)
    with pytest.raises(OSError):
        RunLog(run.log).write("text")
    assert precious.read_bytes() == PRECIOUS


def test_a_ranks_log_is_in_no_linked_folder(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    run.logs.symlink_to(tmp_path / "home")
    with pytest.raises(ValueError, match=r"can't write to .*is a link"), rank_log(run.logs, 1, 2):
        pass
    assert list((tmp_path / "home").iterdir()) == []


def test_what_is_no_file_is_not_replaced_even_behind_a_link(tmp_path: Path) -> None:
    """Else root's `--skipped /dev/null` would take that from everybody."""
    for name, path in (("link", tmp_path / "link"), ("pipe", tmp_path / "pipe"), ("folder", tmp_path / "folder")):
        if name == "link":
            path.symlink_to("/dev/null")
        elif name == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        before = path.lstat()
        with pytest.raises(OSError, match="not a regular file"):
            write_replacing(path, "text")
        assert os.path.samestat(path.lstat(), before)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_limited(tmp_path / "pipe", 10)
    with pytest.raises(OSError):
        open_to_append(tmp_path / "pipe")
    assert read_cached(tmp_path / "pipe") is None


def test_what_was_there_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    from fastdcgan.storage.files import replacing

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_new_file_has_the_permissions_that_the_user_gives_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text")
    create(tmp_path / "ours").close()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_pack_is_not_built_through_links(precious: Path, photographs: Path) -> None:
    from fastdcgan.data.open import open_source
    from fastdcgan.data.pack import Pack, open_packed

    source = open_source(
        str(photographs), resolution=16, channels=1, device="cpu", threads=1, decoder="pillow", cache="off"
    )
    pack = Pack(original=source, frame=Frame.of(16), channels=1)
    pack.array.parent.mkdir(parents=True, exist_ok=True)
    for path in (pack.array, pack.manifest, pack.array.with_suffix(".unfinished"), pack.array.with_suffix(".lock")):
        path.symlink_to(precious)
    try:
        open_packed(source, frame=Frame.of(16), channels=1)
    except ValueError as refusal:
        assert "can't be written" in str(refusal)
    assert precious.read_bytes() == PRECIOUS
    for path in pack.array.parent.glob(f"{pack.array.stem}*"):
        path.unlink()


def test_what_was_measured_is_not_kept_through_a_link(precious: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdcgan.execution.plan import Plan
    from fastdcgan.tuning import choice

    conditions = {"architecture": {"name": "dcgan64"}, "batch": 1}
    path = choice._cache_file(conditions)
    assert path.is_relative_to(cache_folder())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(precious)
    path.with_suffix(f".{os.getpid()}").symlink_to(precious)
    monkeypatch.setattr(choice, "chosen_plan", lambda tuning: Plan())
    monkeypatch.setattr(choice, "_speedup", lambda tuning: 1.0)
    assert choice.save_choice(conditions, None) == path  # type: ignore[arg-type]
    assert precious.read_bytes() == PRECIOUS
    assert json.loads(path.read_text())["date"] == date.today().isoformat()
