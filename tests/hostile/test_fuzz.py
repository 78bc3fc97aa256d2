"""Damage of every kind, by a seeded generator: nothing comes out of a reader but one line of ours.

FASTDCGAN_FUZZ sets how many damaged files each reader is given (default 150).
"""

import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corrupted import damaged
from PIL import Image

from fastdcgan.config import RunConfig, TrainConfig, flat
from fastdcgan.data.datasets.cifar10 import _BATCH_ERRORS, _batch_from_pickle
from fastdcgan.data.datasets.idx import FILE_NAME, read_idx_images
from fastdcgan.data.open import open_source
from fastdcgan.data.pack import read_manifest
from fastdcgan.runs.folder import RunFolder, read_condition, read_config
from fastdcgan.telemetry.metrics import Record, read_metrics

EACH = int(os.environ.get("FASTDCGAN_FUZZ", "150"))

CONFIG = flat(TrainConfig(run=RunConfig(images=100)).resolved())


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(file, "PNG")
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a.png", "é" * 60 + "/b.png", "c.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(png())
            archive.addfile(member, io.BytesIO(png()))
        link = tarfile.TarInfo("../../d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("0/a.png", "é" * 60 + "/b.png", "c.txt"):
            archive.writestr(zipfile.ZipInfo(name), png())
        archive.writestr("d.bmp", bytes(10**5), zipfile.ZIP_DEFLATED)
        archive.writestr("dataset.json", b'{"labels": [["0/a.png", 1]]}')
    return file.getvalue()


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    picture = Image.linear_gradient("L").resize((20, 20))
    (picture if form in ("PPM", "JPEG2000") else picture.convert("RGB")).save(file, form)
    return file.getvalue()


def fractions() -> bytes:
    file = io.BytesIO()
    np.save(file, np.linspace(-3, 9, 1024, dtype=np.float32).reshape(4, 16, 16))
    return file.getvalue()


def array(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, np.zeros((4, 16, 16, 3), np.uint8))
    return file.getvalue()


def manifest() -> bytes:
    fields = {"source": "s", "fingerprint": "f", "count": 1, "resolution": 16, "channels": 3, "rule": "r", "format": 1}
    more = {"checksum": "c", "mtime_ns": 1, "skipped": [{"path": "p", "reason": "r", "foreign": False}]}
    return json.dumps(fields | more).encode()


def batch() -> bytes:
    return pickle.dumps({"batch_label": "1", "data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}, 3)


def metrics() -> bytes:
    return json.dumps(dict.fromkeys(Record.__dataclass_fields__, 1)).encode() + b"\n"


def open_any(path: Path) -> None:
    source = open_source(str(path), resolution=16, channels=3, device="cpu", threads=1, decoder="pillow")
    for pictures_BHWC in source.read([range(len(source))]):
        assert pictures_BHWC.shape[1:] == (16, 16, 3)
    assert source.labels is None or len(source.labels.numbers) == len(source)


def unpickle(path: Path) -> None:
    try:
        _batch_from_pickle(path.read_bytes())
    except _BATCH_ERRORS as error:  # which open_cifar10 turns into one line
        raise ValueError(type(error).__name__) from error


def configuration(path: Path) -> None:
    read_condition(RunFolder(path.parent), "data")
    config = read_config(RunFolder(path.parent))
    config.model.architecture()


READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "tar": ("a.tar", tar(), open_any),
    "zip": ("a.zip", zipped(), open_any),
    "tiff": ("a.tif", encoded("TIFF"), lambda path: open_any(path.parent)),
    "pnm": ("a.pgm", encoded("PPM"), lambda path: open_any(path.parent)),
    "avif": ("a.avif", encoded("AVIF"), lambda path: open_any(path.parent)),
    "jpeg 2000": ("a.jp2", encoded("JPEG2000"), lambda path: open_any(path.parent)),
    "ico": ("a.ico", encoded("ICO"), lambda path: open_any(path.parent)),
    "npy of fractions": ("a.npy", fractions(), open_any),
    "folder of npy": ("a.npy", fractions(), lambda path: open_any(path.parent)),
    "npy": ("a.npy", array(np.save), open_any),
    "npz": ("a.npz", array(np.savez_compressed), open_any),
    "idx": (FILE_NAME, struct.pack(">IIII", 0x0803, 4, 16, 16) + bytes(1024), read_idx_images),
    "pack manifest": ("a.json", manifest(), read_manifest),
    "config": ("config.json", json.dumps({"config": CONFIG, "conditions": {"data": 1}}).encode(), configuration),
    "metrics": ("metrics.jsonl", metrics() * 5, read_metrics),
    "batch": ("data_batch_1", batch(), unpickle),
    "picture": ("a.png", png(), lambda path: open_any(path.parent)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.timeout(0)
def test_nothing_but_our_own_refusals(reader: str, tmp_path: Path) -> None:
    name, whole, read = READERS[reader]
    path = tmp_path / name
    path.write_bytes(whole)
    read(path)
    rng = random.Random(reader)
    refused = 0
    for number in range(EACH):
        data = damaged(whole, rng)
        path.write_bytes(data)
        os.utime(path, (number, number))  # another file than the one before it, to those who remember
        try:
            read(path)
        except ValueError as refusal:
            refused += 1
            assert "\n" not in str(refusal), (number, data)
            assert str(refusal).isprintable(), (number, data)
    if reader not in ("pack manifest", "metrics"):  # which leave out what can't be read
        assert refused > EACH / 20, "the files are not damaged enough to tell"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name], "nothing is made where the files are"
