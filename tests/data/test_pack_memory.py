"""Packing very many pictures takes little memory: measured of few and of more, in processes of their own."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tables import write_lmdb

ROOT = Path(__file__).parents[2]

FEW, MORE, VERY_MANY = 2_000, 12_000, 100_000

MOST = 300
"""MiB above the imports, for `VERY_MANY`."""


def encoded(count: int) -> Iterator[tuple[str, bytes]]:
    """Pictures of 32x32, each other bytes."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG", quality=40)
    for number in range(count):
        yield f"{number // 1000:03d}/{number:06d}.jpg", file.getvalue() + number.to_bytes(4, "big")


def as_folder(place: Path, count: int) -> Path:
    for name, data in encoded(count):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def as_tar(place: Path, count: int) -> Path:
    path = place.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for name, data in encoded(count):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_zip(place: Path, count: int) -> Path:
    path = place.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in encoded(count):
            archive.writestr(name, data)
    return path


def as_lmdb(place: Path, count: int) -> Path:
    return write_lmdb(place, [data for _, data in encoded(count)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "write", [as_folder, *(pytest.param(write, marks=pytest.mark.exhaustive) for write in (as_tar, as_zip, as_lmdb))]
)
def test_very_many_pictures_are_packed_in_little_memory(write: Callable[[Path, int], Path], tmp_path: Path) -> None:
    peaks = []
    for count in (FEW, MORE):
        source = write(tmp_path / str(count), count)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.packing", str(source), "16", "2"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "FASTDCGAN_CACHE": str(tmp_path / "cache")},
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["pictures"] == count
        peaks.append(answer["peak_memory_mib"])
    few, more = peaks
    each = max(0.0, more - few) / (MORE - FEW)
    assert few + each * (VERY_MANY - FEW) < MOST, peaks
