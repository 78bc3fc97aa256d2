"""Many runs on one cache folder: each ends as one alone does, and nothing half-written is read."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from figures import Figure
from left_behind import pictures

from faults.sitting import LONG, Fault, Sitting, begin, train
from faults.test_disk import small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks processes"),
]

AT_ONCE = 20 if LONG else 4

NOBODY = 65534
"""A user who owns nothing."""


@pytest.fixture
def shared(photographs: Path, tmp_path: Path) -> Path:
    """A folder of pictures, and one for each run."""
    (tmp_path / "pictures").mkdir()
    for picture in pictures(photographs):
        shutil.copy(picture, tmp_path / "pictures")
    return tmp_path


def begun(shared: Path, name: str, fault: Fault | None = None, *, powerless: bool = False, cache: str = "on") -> begin:
    run = shared / name / "run"
    run.parent.mkdir()
    command = train(shared / "pictures", run, "--data-cache", cache, "--decoder", "pillow")
    return begin(command, fault, environment={"FASTDCGAN_CACHE": str(shared / "cache")}, powerless=powerless)


def learned(shared: Path, name: str) -> list[bytes]:
    files = sorted((shared / name / "run" / "checkpoints").glob("*/*.safetensors"))
    assert files
    return [file.read_bytes() for file in files]


def fine(ended: Sitting) -> None:
    assert (ended.code, ended.error) == (0, "")


def test_that_start_together(shared: Path, figure: Figure) -> None:
    """One packs, the others wait for it, and all learn the same."""
    for ended in [run.wait() for run in [begun(shared, f"{number}") for number in range(AT_ONCE)]]:
        fine(ended)
    assert all(learned(shared, f"{number}") == learned(shared, "0") for number in range(AT_ONCE))
    left = {path.suffix for path in (shared / "cache" / "packs").iterdir()}
    assert left == {".npy", ".json", ".lock"}, "nothing unfinished"
    figure("runs started on one cache at once", {"runs": AT_ONCE, "learned the same": AT_ONCE})


def test_that_is_removed_below_a_run(shared: Path, figure: Figure) -> None:
    """What is mapped stays until its last reader leaves; the next run packs again."""
    cache = shared / "cache"
    fine(begun(shared, "before").wait())
    fine(begun(shared, "meanwhile", Fault(what="remove", part="step", n=3, path=str(cache))).wait())
    assert not (cache / "packs").exists()
    fine(begun(shared, "after").wait())
    assert learned(shared, "before") == learned(shared, "meanwhile") == learned(shared, "after")
    figure("cache removed under a run", {"runs": 1, "ended as undisturbed": 1})


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("cache", ["on", "auto"])
def test_whose_disk_fills_up(cache: str, shared: Path, figure: Figure) -> None:
    """While one packs and others wait for it: each is refused in one line, or decodes whenever it reads."""
    with small_disk(shared / "cache") as disk:
        full = Fault(what="fill", part="pack", n=3, path=str(disk))  # after the folder and the lock: before the pixels
        together = [begun(shared, f"{number}", full, cache=cache) for number in range(AT_ONCE)]
        for ended in [run.wait() for run in together]:
            if cache == "auto":
                fine(ended)
            else:
                assert ended.code == 2 and ended.error.count("\n") == 1, ended.error
                assert "--data-cache off" in ended.error, ended.error
        assert (disk / "filler").exists(), "it was not filled"
        assert {path.suffix for path in (disk / "packs").iterdir()} == {".lock"}, "nothing half-written is left"
        (disk / "filler").unlink()
        for number in range(2):
            fine(begun(shared, f"{number} again").wait())
        assert learned(shared, "0 again") == learned(shared, "1 again")
        assert cache == "on" or learned(shared, "0") == learned(shared, "0 again")
    ends = "refused in one line" if cache == "on" else "learned the same unpacked"
    figure(f"a cache whose disk fills up, --data-cache {cache}", {"runs": AT_ONCE, ends: AT_ONCE})


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="gives files away")
def test_of_another_user(shared: Path, figure: Figure) -> None:
    """Who may only read it uses the pack that is there, and where there is none is told in one line."""
    fine(begun(shared, "theirs").wait())
    for path in (shared / "cache", *(shared / "cache").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    before = {path: path.stat().st_mtime_ns for path in (shared / "cache").rglob("*") if path.is_file()}
    fine(begun(shared, "ours", powerless=True).wait())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert learned(shared, "theirs") == learned(shared, "ours")
    shutil.rmtree(shared / "cache" / "packs")
    refused = begun(shared, "without", powerless=True).wait()
    assert refused.code == 2 and refused.error.count("\n") == 1, refused.error
    assert "packed pictures can't be written" in refused.error and "FASTDCGAN_CACHE" in refused.error
    figure("another user's cache", {"runs": 2, "used": 1, "refused in one line where it is empty": 1})
