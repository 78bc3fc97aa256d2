"""Pictures that are there twice are counted, named, and left out where that is asked for."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import PHOTOS, encode
from PIL import Image

from fastdcgan import cli
from fastdcgan.data.array import ArraySource
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.duplicates import SubsetSource, find_copies
from fastdcgan.data.open import open_source
from fastdcgan.data.source import COPY, ImageSource

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
TWICE = [0, 1, 2, 1, 3, 4, 2, 5, 1, 6]
"""Numbers of `PICTURES`: the places 3, 6 and 8 are copies of 1, 2 and 1."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def source(spec: object, *, drop: bool = False, cache: str = "off", resolution: int = 16) -> ImageSource:
    return open_source(
        str(spec),
        resolution=resolution,
        channels=3,
        device="cpu",
        threads=2,
        decoder="pillow",
        cache=cache,
        drop_duplicates=drop,
    )


def encoded(number: int) -> bytes:
    return encode(Image.fromarray(PICTURES[number]), "BMP")  # all of one size


def folder(path: Path) -> Path:
    for place, number in enumerate(TWICE):
        (path / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        (path / "ab"[place % 2] / f"{place}.bmp").write_bytes(encoded(number))
    return path


def flat_folder(path: Path) -> Path:
    path.mkdir()
    for place, number in enumerate(TWICE):
        (path / f"{place}.bmp").write_bytes(encoded(number))
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        for place, number in enumerate(TWICE):
            archive.writestr(f"{place}.bmp", encoded(number))
    return path.with_suffix(".zip")


def npy(path: Path) -> Path:
    np.save(path.with_suffix(".npy"), PICTURES[TWICE])
    return path.with_suffix(".npy")


def npy_folder(path: Path) -> Path:
    path.mkdir()
    for place, number in enumerate(TWICE):
        np.save(path / f"{place}.npy", PICTURES[number])
    return path


@pytest.mark.parametrize("make", [flat_folder, zipped, npy, npy_folder])
def test_copies_are_found_and_left_out_of_every_kind(make: object, tmp_path: Path) -> None:
    assert callable(make)
    spec = make(tmp_path / "set")
    whole = source(spec)
    found = find_copies(whole)
    assert (found.copies.tolist(), found.originals.tolist()) == ([3, 6, 8], [1, 2, 1])
    once = source(spec, drop=True)
    packed = source(spec, drop=True, cache="on")
    assert isinstance(once, SubsetSource) and isinstance(packed, ArraySource)
    (all_of_it,) = once.read([range(7)])
    assert torch.equal(all_of_it, torch.from_numpy(PICTURES[:7][[0, 1, 2, 3, 4, 5, 6]]))
    assert torch.equal(next(packed.read([[6, 0]])), all_of_it[[6, 0]])
    assert len(once) == len(packed) == 7
    assert "; 3 copies left out, 7 used" in packed.description
    assert [(skip.reason, skip.not_a_picture) for skip in packed.skipped] == [(COPY, False)] * 3
    assert once.fingerprint == packed.fingerprint != whole.fingerprint
    assert source(spec, cache="on").origin != packed.origin, "else one pack would take the place of the other"


def test_files_of_different_sizes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in range(20, 60, 4):
        (tmp_path / f"{width}.bmp").write_bytes(encode(PHOTOS[0].resize((width, 9)), "BMP"))
    opened = source(tmp_path)
    assert isinstance(opened, PillowSource)
    monkeypatch.setattr(type(opened.encoded), "read_bytes", lambda *_: pytest.fail("it was read"))
    assert len(find_copies(opened)) == 0
    assert source(tmp_path, drop=True).description == opened.description


def test_what_was_found_is_remembered_until_something_changes(tmp_path: Path) -> None:
    spec = flat_folder(tmp_path / "set")
    told: list[str] = []
    for _ in range(2):
        assert len(find_copies(source(spec), lambda what, done, total: told.append(what))) == 3
    assert told == ["looking for copies"] * 10
    (spec / "3.bmp").unlink()
    assert len(find_copies(source(spec))) == 2
    (cache,) = (tmp_path / "cache" / "copies").iterdir()
    for damaged in (b"", b"00000000\n{}", cache.read_bytes()[:-3]):
        cache.write_bytes(damaged)
        assert len(find_copies(source(spec))) == 2


def test_classes_of_what_is_left(tmp_path: Path) -> None:
    labels = source(folder(tmp_path / "set"), drop=True).labels
    assert labels is not None
    assert (labels.classes, labels.counts()) == (("a", "b"), [4, 3])


def test_data_tells_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = folder(tmp_path / "set")
    (spec / "a" / "bad.jpg").write_bytes(b"")
    (spec / "labels.csv").write_text("a")
    (spec / ".DS_Store").touch()
    out = tmp_path / "facts.json"
    cli.main(["data", str(spec), "--out", str(tmp_path / "sheet.png"), "--json", str(out)])
    said = capsys.readouterr().out
    assert "classes   2 of 5 pictures each: a, b\n" in said
    assert "copies    3 pictures with the bytes of another, as " in said
    assert "--drop-duplicates leaves them out" in said
    assert "skipped   1 file that can't be used:\n" in said
    assert "left out  1 file that is no picture (.csv)\n" in said
    facts = json.loads(out.read_text())
    assert (facts["pictures"], facts["copies"], facts["classes"]) == (10, 3, {"a": 5, "b": 5})
    assert facts["size"] == [64, 64]
    assert facts["files"]["kinds"] == {"BMP RGB": 10}
    assert {skip["kind"] for skip in facts["skipped"]} == {"unusable", "no picture", "hidden"}
    cli.main(["data", str(spec), "--out", str(tmp_path / "sheet.png"), "--drop-duplicates"])
    said = capsys.readouterr().out
    assert "copies  " not in said
    assert f"fastdcgan pack {spec} --resolution 64 --drop-duplicates\n" in said
    assert f"left out  3 pictures, as {spec}/" in said and COPY in said


def test_labels_and_second_pictures_are_not_called_unusable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for number in range(6):
            archive.writestr(f"{number}.bmp", encoded(number))
            archive.writestr(f"{number}.seg.bmp", encoded(number))
            archive.writestr(f"{number}.cls", b"3")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    cli.main(["data", str(tmp_path / "a.zip"), "--out", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert "can't be used" not in said
    assert "skipped   nothing\n" in said
    assert "left out  6 pictures, as " in said and "6 files that are no pictures (.cls)" in said
