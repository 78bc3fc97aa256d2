"""Classes come out of every source that has some, one for each picture, in the pictures' order."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from corpus import PHOTOS, encode

from fastdcgan.data.array import ArraySource, DeviceSource
from fastdcgan.data.labels import labels_from_numbers, labels_from_paths
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource

JPEG = encode(PHOTOS[0].resize((20, 30)), "JPEG")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def source(spec: object, cache: str = "off", channels: int = 3, resolution: int = 16) -> ImageSource:
    return open_source(
        str(spec), resolution=resolution, channels=channels, device="cpu", threads=1, decoder="pillow", cache=cache
    )


def described(found: ImageSource) -> tuple[tuple[str, ...], list[int]] | None:
    return found.labels and (found.labels.classes, found.labels.numbers.tolist())


@pytest.mark.parametrize(
    ("paths", "classes", "numbers"),
    [
        ("cat/1 cat/2 dog/1 cat/3", "cat dog", [0, 0, 1, 0]),
        ("./cat/1 ./dog/2 ./cat/3 ./dog/4", "cat dog", [0, 1, 0, 1]),
        ("set/cat/1 set/dog/1 set/cat/2 set/dog/2", "cat dog", [0, 1, 0, 1]),
        ("Train/cat/1 Train/dog/1 val/cat/1 val/dog/2", "cat dog", [0, 1, 0, 1]),
        ("cat/old/1 cat/new/1 dog/1 dog/2", "cat dog", [0, 0, 1, 1]),
        ("0/1 9/1 10/1 0/2 9/2 10/2", "0 9 10", [0, 1, 2, 0, 1, 2]),
        ("n01440764/a n01440764/b n01443537/c n01443537/d", "n01440764 n01443537", [0, 0, 1, 1]),
        ("cat/1 cat/2 dog/1 3", None, None),
        ("1 2 3", None, None),
        ("one/1 one/2", None, None),
        ("train/1 test/2 train/3 test/4", None, None),
        ("00000/1 00000/2 01000/3 01000/4", None, None),
        ("a/1 b/1 c/1 d/1", None, None),  # a folder a picture
        ("", None, None),
    ],
)
def test_folders_are_classes_where_they_divide_the_pictures(
    paths: str, classes: str | None, numbers: list[int] | None
) -> None:
    found = labels_from_paths(paths.split())
    if classes is None:
        assert found is None
    else:
        assert found is not None
        assert (found.classes, found.numbers.tolist()) == (tuple(classes.split()), numbers)


def test_numbers_become_places() -> None:
    found = labels_from_numbers(np.array([7, 1, 7, -2]), ("zero", "one"))
    assert (found.classes, found.numbers.tolist(), found.counts()) == (("-2", "one", "7"), [2, 1, 2, 0], [1, 1, 2])


def test_a_folder(tmp_path: Path) -> None:
    for name in ("dog/1.jpg", "cat/2.jpg", "cat/1.jpg", "dog/2.jpg", "cat/bad.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"" if "bad" in name else JPEG)
    wanted = (("cat", "dog"), [0, 0, 1, 1])
    packed = source(tmp_path / "set", cache="on")
    assert isinstance(packed, ArraySource)
    assert described(source(tmp_path / "set")) == described(packed) == wanted
    assert described(DeviceSource(packed, "cpu")) == wanted  # type: ignore[arg-type]
    table = [["cat/1.jpg", 3], ["cat/2.jpg", 5], ["dog/1.jpg", 3], ["dog/2.jpg", 5]]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": table}))
    assert described(source(tmp_path / "set")) == (("3", "5"), [0, 1, 0, 1])
    (tmp_path / "set" / "dataset.json").write_text("{")
    assert described(source(tmp_path / "set")) == wanted


def test_idx_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 3, 16, 16) + bytes(768))
    assert source(tmp_path, channels=1).labels is None
    labels = raw / "train-labels-idx1-ubyte.gz"
    for data in (b"?", gzip.compress(b""), gzip.compress(struct.pack(">II", 0x801, 3) + b"\2\0")):
        labels.write_bytes(data)
        assert source(tmp_path, channels=1).labels is None
    labels.write_bytes(gzip.compress(struct.pack(">II", 0x801, 3) + b"\2\0\2"))
    assert described(source(tmp_path, channels=1)) == (("T-shirt/top", "pullover"), [1, 0, 1])
    assert described(source(raw, channels=1, resolution=32)) == (("T-shirt/top", "pullover"), [1, 0, 1])
    (tmp_path / "FashionMNIST").rename(tmp_path / "mnist")
    assert described(source(tmp_path / "mnist", channels=1)) == (("0", "2"), [1, 0, 1])


@pytest.mark.parametrize("dtype", ["int64", "uint8", ">i4"])
def test_npz(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    images = np.zeros((4, 16, 16, 3), np.uint8)
    np.savez_compressed(path, images=images, labels=np.array([3, 1, 1, 3], dtype))
    assert described(source(path)) == (("1", "3"), [1, 0, 0, 1])
    for labels in (np.zeros(3, dtype), np.zeros((4, 2), dtype), np.zeros(4), np.array(["a"] * 4)):
        np.savez(path, images=images, labels=labels)
        assert source(path).labels is None
    np.save(tmp_path / "a.npy", images)
    assert source(tmp_path / "a.npy").labels is None
