"""A file that is replaced by another of the same size is noticed, also where times of change are of two seconds."""

import io
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tables import write_hdf5

from fastdcgan.data.open import open_source
from fastdcgan.storage import settled

SIDE = 16


def grey(level: int) -> np.ndarray:
    return np.full((1, SIDE, SIDE, 3), level, np.uint8)


def bmp(level: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(grey(level)[0]).save(out, "BMP")
    return out.getvalue()


def a_file(folder: Path, level: int) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "a.bmp").write_bytes(bmp(level))
    return folder / "pictures" / "a.bmp"


def a_npy(folder: Path, level: int) -> Path:
    np.save(folder / "a.npy", grey(level))
    return folder / "a.npy"


def a_npy_in_a_folder(folder: Path, level: int) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    return a_npy(folder / "pictures", level)


def a_tar(folder: Path, level: int) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.bmp")
        info.size = len(bmp(level))
        archive.addfile(info, io.BytesIO(bmp(level)))
    return folder / "a.tar"


def a_zip(folder: Path, level: int) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.bmp", bmp(level))
    return folder / "a.zip"


def a_hdf5(folder: Path, level: int) -> Path:
    return write_hdf5(folder / "a.h5", grey(level))


class Clock:
    """Time stands still but for who waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time_ns() // settled.COARSEST * settled.COARSEST + 300_000_000
        self.waited = 0.0
        monkeypatch.setattr(settled, "time", self)

    def time_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waited += seconds
        self.now += round(seconds * 10**9)

    def stamp(self, file: Path, granularity: int) -> None:
        os.utime(file, ns=(self.now, self.now // granularity * granularity))


def level_seen(spec: Path) -> int:
    found = open_source(str(spec), resolution=SIDE, channels=3, device="cpu", threads=1, decoder="pillow", cache="on")
    return int(next(found.read([[0]])).numpy().max())


@pytest.mark.parametrize("write", [a_file, a_npy, a_npy_in_a_folder, a_tar, a_zip, a_hdf5])
@pytest.mark.parametrize("seconds", [1, 2])
def test_a_file_replaced_within_its_time_is_read_anew(
    seconds: int, write: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    clock = Clock(monkeypatch)
    for level in (200, 100, 50):
        file = write(tmp_path, level)
        clock.stamp(file, seconds * 10**9)
        spec = file.parent if file.parent.name == "pictures" else file
        assert level_seen(spec) == level
        clock.now += 1000
    assert 0 < clock.waited <= 3 * 2


def test_fine_and_old_times_and_those_to_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    whole = clock.now - 300_000_000
    assert not settled.wait_out([clock.now - 5, whole - 2 * 10**9, whole + 10**9]) and clock.waited == 0
    assert settled.wait_out([clock.now - 5, whole]) and clock.waited == pytest.approx(1.7)
