"""Runs on a network mount without locks, hard links, flushes of folders and fine times, which goes away for a while."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from left_behind import left_behind, name_after_the_sitting

from fastdcgan.storage import locks
from fastdcgan.storage.checksummed import can_flush, flush
from fastdcgan.storage.locks import held

ROOT = Path(__file__).parents[2]

COMMAND = (
    *("train", "--resolution", "16", "--width", "4", "--latent-dim", "6", "--batch-size", "8", "--flip"),
    *("--device", "cpu", "--plan", "default", "--precision", "fp32", "--threads", "1", "--decoder", "pillow"),
    *("--log-every", "7", "--checkpoint-every", "20", "--sample-every", "50"),
)

AWAY_SECONDS = 10


class Mount:
    """A folder that is a network mount to a process with the shim."""

    def __init__(self, folder: Path, shim: Path | None) -> None:
        self.place, self.down = folder / "mount", folder / "down"
        self.place.mkdir(parents=True)
        self._environment = {**os.environ, "FASTDCGAN_CACHE": str(self.place / "cache"), "OMP_NUM_THREADS": "1"}
        self._environment["PYTHONPATH"] = str(ROOT)
        if shim is not None:
            self._environment |= {"LD_PRELOAD": str(shim), "SHIM_MOUNT": str(self.place), "SHIM_DOWN": str(self.down)}

    def train(self, *options: object, out: Path | None = None) -> "subprocess.CompletedProcess[str]":
        run = out or self.place / "run"
        command = [sys.executable, "-m", "fastdcgan", *COMMAND, *map(str, options), "--out", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment, timeout=300)
        with suppress(FileNotFoundError):
            name_after_the_sitting(run)
        return done

    def go_away_after(self, path: Path, seconds: float) -> threading.Thread:
        """Once a file is there, for so many seconds; join the thread that is returned."""

        def watch() -> None:
            give_up = time.monotonic() + 200
            while not path.exists() and time.monotonic() < give_up:
                time.sleep(0.05)
            self.down.touch()
            time.sleep(seconds)
            self.down.unlink()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("needs Linux and gcc")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True)
    return library


def copied(photographs: Path, mount: Mount) -> Path:
    shutil.copytree(photographs, mount.place / "photos")
    return mount.place / "photos"


@pytest.mark.slow(35)
def test_a_mount_that_lacks_much_serves_and_what_it_cannot_promise_is_said(
    shim: Path, photographs: Path, tmp_path: Path
) -> None:
    mount, disk = Mount(tmp_path / "a", shim), Mount(tmp_path / "b", None)
    for one in (mount, disk):
        done = one.train("--data", copied(photographs, one), "--images", 400)
        assert done.returncode == 0, done.stderr
        warned = [line for line in done.stdout.splitlines() if line.startswith(("lock ", "disk "))]
        assert [line.split()[0] for line in warned] == (["lock", "disk"] if one is mount else [])
        assert "packed in" in done.stdout, "no lock is no reason to decode for ever"
        assert not list((one.place / "cache").rglob("*unfinished*"))
    assert left_behind(mount.place / "run") == left_behind(disk.place / "run")
    again = mount.train("--data", mount.place / "photos", "--images", 400)
    assert again.returncode == 0 and "packing" not in again.stdout + again.stderr, "the pack is found again"


@pytest.mark.slow(35)
@pytest.mark.parametrize("cache", ["on", pytest.param("off", marks=pytest.mark.exhaustive)])
def test_after_a_mount_was_away_the_same_command_goes_on_exactly(
    cache: str, shim: Path, photographs: Path, tmp_path: Path
) -> None:
    """All of it is away: data, cache and run, also files that are open."""
    options = ("--images", 3200, "--data-cache", cache)
    mount, disk = Mount(tmp_path / "a", shim), Mount(tmp_path / "b", None)
    photos = copied(photographs, mount)
    away = mount.go_away_after(mount.place / "run" / "checkpoints" / "step-00000040" / "manifest.json", AWAY_SECONDS)
    stopped = mount.train("--data", photos, *options)
    away.join()
    said = [line for line in stopped.stderr.splitlines() if line.startswith("fastdcgan: error:")]
    assert stopped.returncode == 2 and len(said) == 1 and said[0].endswith("the same command goes on from there"), said
    assert "Traceback" not in stopped.stderr
    gone_on = mount.train("--data", photos, *options)
    assert gone_on.returncode == 0 and "resuming  after step" in gone_on.stdout, gone_on.stderr
    undisturbed = disk.train("--data", copied(photographs, disk), *options)
    assert undisturbed.returncode == 0, undisturbed.stderr
    found, wanted = left_behind(mount.place / "run"), left_behind(disk.place / "run")
    assert [name for name in wanted if not name.startswith("checkpoints") and found[name] != wanted[name]] == []
    last = [name for name in wanted if "step-00000400" in name]
    assert last and [name for name in last if found[name] != wanted[name]] == []


@pytest.mark.slow(35)
def test_where_only_the_pack_goes_away_all_that_was_learned_is_saved(
    shim: Path, photographs: Path, tmp_path: Path
) -> None:
    mount, out = Mount(tmp_path, shim), tmp_path / "run"
    options = ("--data", copied(photographs, mount), "--images", 3200, "--data-cache", "on")
    away = mount.go_away_after(out / "checkpoints" / "step-00000040" / "manifest.json", 5)
    stopped = mount.train(*options, out=out)
    away.join()
    (pack,) = (mount.place / "cache" / "packs").glob("*.npy")
    (said,) = [line for line in stopped.stderr.splitlines() if line.startswith("fastdcgan: error:")]
    step = max(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))
    assert stopped.returncode == 2, stopped.stderr
    assert said == (
        f"fastdcgan: error: {pack}: input/output error; what was learned until step {step:,} is saved; "
        "the same command goes on from there"
    )
    gone_on = mount.train(*options, out=out)
    assert gone_on.returncode == 0 and f"resuming  after step {step:,}" in gone_on.stdout, gone_on.stderr
    assert "packing" not in gone_on.stdout + gone_on.stderr, "the pack is as it was"


@pytest.mark.parametrize("number", sorted(locks.NO_LOCKS))
def test_where_there_are_no_locks_work_goes_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with held(tmp_path / "a.lock") as is_held:
        assert not is_held
    with pytest.raises(ZeroDivisionError), held(tmp_path / "a.lock"):
        raise ZeroDivisionError


def test_where_there_are_locks_they_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(tmp_path / "a.lock") as is_held:
        assert is_held
        with pytest.raises(locks.Timeout), held(tmp_path / "a.lock", blocking=False):
            raise AssertionError("held twice")
    with held(tmp_path / "a.lock", blocking=False):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "away")

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with pytest.raises(OSError, match="away"), held(tmp_path / "a.lock"):
        raise AssertionError("an error of another kind is no lack of locks")


@pytest.mark.skipif(sys.platform == "win32", reason="no folder is flushed there")
def test_folders_that_cannot_be_flushed_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert can_flush(tmp_path)
    for number, ends in ((errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)):

        def refuse(descriptor: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse)
            if ends:
                with pytest.raises(OSError, match=os.strerror(number)):
                    flush(tmp_path)
                with pytest.raises(OSError, match=os.strerror(number)):
                    can_flush(tmp_path)
            else:
                flush(tmp_path)
                assert not can_flush(tmp_path)
            with pytest.raises(OSError, match=os.strerror(number)):
                flush(tmp_path / "file")
