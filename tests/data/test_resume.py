"""Whoever goes on after any step sees the pictures that would have come: for every source, on one rank and on two."""

import gzip
import shutil
import struct
import zipfile
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tables import write_encoded_hdf5, write_hdf5, write_lmdb, write_parquet
from torch import Tensor

from fastdcgan.data.array import ArraySource, DeviceSource
from fastdcgan.data.decoding.dali import dali_available
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import Batching, real_batches

STEPS = 9
"""Of 96 pictures in each: the 240 photographs are gone through four times, the arrays more often."""

CPU = torch.device("cpu")


def folder(photographs: Path, tmp_path: Path, **options: str) -> ImageSource:
    return open_source(  # type: ignore[arg-type]
        str(photographs), resolution=16, channels=3, device="cpu", threads=2, **options
    )


def idx_files(photographs: Path, tmp_path: Path, resolution: int = 20) -> ImageSource:
    pictures = np.random.default_rng(0).integers(0, 256, (130, 20, 20), np.uint8)
    header = struct.pack(">IIII", 0x803, *pictures.shape)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pictures.tobytes(), 1))
    return open_source(str(tmp_path), resolution=resolution, channels=1, device="cpu", threads=2)


def resident(photographs: Path, tmp_path: Path) -> ImageSource:
    packed = folder(photographs, tmp_path, cache="on")
    assert isinstance(packed, ArraySource)
    return DeviceSource(packed, CPU)


def ahead(photographs: Path, tmp_path: Path) -> ImageSource:
    packed = folder(photographs, tmp_path, cache="on")
    assert isinstance(packed, ArraySource)
    packed.prefetch = True
    return packed


def zipped(photographs: Path, tmp_path: Path) -> ImageSource:
    if (tmp_path / "photos.zip").exists():
        return folder(tmp_path / "photos.zip", tmp_path, decoder="pillow")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for number, path in enumerate(sorted(photographs.rglob("*.jpg"))):
            archive.write(path, f"{number}.jpg", zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return folder(tmp_path / "photos.zip", tmp_path, decoder="pillow")


def recordings(photographs: Path, tmp_path: Path) -> ImageSource:
    (tmp_path / "recordings").mkdir(exist_ok=True)
    for number, values in enumerate(np.random.default_rng(0).uniform(-9, 9, (130, 20, 20))):
        if not (tmp_path / "recordings" / f"{number}.npy").exists():
            np.save(tmp_path / "recordings" / f"{number}.npy", values)
    return folder(tmp_path / "recordings", tmp_path)


def without_copies(photographs: Path, tmp_path: Path) -> ImageSource:
    if not (tmp_path / "twice").exists():
        shutil.copytree(photographs, tmp_path / "twice" / "once")
        shutil.copytree(photographs, tmp_path / "twice" / "again")
    return open_source(
        str(tmp_path / "twice"), resolution=16, channels=3, device="cpu", threads=2, drop_duplicates=True
    )


def table(
    photographs: Path, tmp_path: Path, write: Callable[[Path, list[bytes]], Path], name: str, **options: str
) -> ImageSource:
    path = tmp_path / name
    if not path.exists():
        write(path, [photo.read_bytes() for photo in sorted(photographs.rglob("*.jpg"))])
    return folder(path, tmp_path, decoder="pillow", **options)


def hdf5(photographs: Path, tmp_path: Path, **options: str) -> ImageSource:
    """Numbers, which are read as they are needed."""
    path = tmp_path / "numbers.h5"
    if not path.exists():
        write_hdf5(path, np.random.default_rng(0).uniform(-9, 9, (130, 20, 20, 3)))
    return folder(path, tmp_path, **options)


SOURCES: dict[str, Callable[[Path, Path], ImageSource]] = {
    "a folder by Pillow": lambda photos, tmp: folder(photos, tmp, decoder="pillow"),
    "a zip": zipped,
    "a folder of npy": recordings,
    "without copies": without_copies,
    "LMDB": lambda photos, tmp: table(photos, tmp, write_lmdb, "lmdb"),
    "LMDB, packed": lambda photos, tmp: table(photos, tmp, write_lmdb, "lmdb", cache="on"),
    "parquet": lambda photos, tmp: table(photos, tmp, write_parquet, "a.parquet"),
    "encoded HDF5": lambda photos, tmp: table(photos, tmp, write_encoded_hdf5, "encoded.h5"),
    "HDF5": hdf5,
    "HDF5, packed": lambda photos, tmp: hdf5(photos, tmp, cache="on"),
    "a pack": lambda photos, tmp: folder(photos, tmp, cache="on"),
    "a pack gathered ahead": ahead,
    "in the device's memory": resident,
    "an array": idx_files,
    "an array of another size": lambda photos, tmp: idx_files(photos, tmp, resolution=16),
}
if dali_available():
    SOURCES["a folder by DALI"] = lambda photos, tmp: folder(photos, tmp, decoder="dali")


def batches(source: ImageSource, start: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    """From a step to the last."""
    batching = Batching(seed=3, global_batch=96, rank=rank, world_size=world_size, flip=True)
    with closing(real_batches(source, batching, CPU, start)) as stream:
        return list(islice(stream, STEPS - start))


@pytest.mark.parametrize("name", SOURCES)
def test_a_resumed_stream_equals_an_uninterrupted_one(name: str, photographs: Path, tmp_path: Path) -> None:
    source = SOURCES[name](photographs, tmp_path)
    whole = batches(source, 0)
    assert len({batch.sum().item() for batch in whole}) == STEPS, "a batch came twice"
    for start in (1, 2, 3, 7):
        resumed = batches(SOURCES[name](photographs, tmp_path), start)
        assert all(torch.equal(a, b) for a, b in zip(resumed, whole[start:], strict=True)), start
        halves = zip(*(batches(source, start, rank, 2) for rank in range(2)), strict=True)
        together = [torch.cat(half) for half in halves]
        assert all(torch.equal(a, b) for a, b in zip(together, whole[start:], strict=True)), start
