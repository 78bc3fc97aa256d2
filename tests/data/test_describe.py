import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastdcgan.data.decoding.dali import dali_available
from fastdcgan.data.decoding.fitting import Fit, Frame
from fastdcgan.data.decoding.picture import NOT_AN_IMAGE, PictureInfo
from fastdcgan.data.describe import contact_sheet, describe, describe_files, group_by_reason, write_skipped
from fastdcgan.data.open import open_source
from fastdcgan.data.pack import Pack, PackStatus, ensure_packed, pack_status
from fastdcgan.data.source import ImageSource, Skipped
from fastdcgan.gan.architecture import Resolution

needs_dali = pytest.mark.skipif(not dali_available(), reason="DALI is for Linux")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of three kinds and as many sizes, two files that are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, mode, size in (
        ("a.jpg", "RGB", (40, 50)),
        ("b.jpg", "RGB", (41, 20)),  # 40 would keep exactly half
        ("c.jpg", "RGB", (40, 20)),
        ("d.png", "RGBA", (100, 90)),
        ("e.jpg", "L", (31, 31)),
    ):
        Image.new(mode, size, 200 if mode == "L" else "teal").save(folder / name)
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("hello")
    return folder


def opened(spec: Path | str, resolution: int = 32, channels: int = 3) -> ImageSource:
    return open_source(
        str(spec), resolution=resolution, channels=channels, device="cpu", threads=1, decoder="pillow", cache="off"
    )


def pack_of(folder: Path) -> Pack:
    return Pack(original=opened(folder), frame=Frame.of(32), channels=3)


def flip_a_byte(path: Path) -> None:
    """In the last picture, with the times of the file as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_facts_of_a_folder(folder: Path) -> None:
    facts = describe(opened(folder), frame=Frame.of(32), channels=3)
    assert facts.count == 5 and str(folder) in facts.source
    files = facts.files
    assert files is not None and facts.pixels is None
    assert files.kinds == (("JPEG RGB", 3), ("PNG RGBA", 1), ("JPEG L", 1))
    assert (files.smallest, files.median, files.largest) == ((40, 20), (31, 31), (100, 90))
    assert files.enlarged == 3 and files.shapes.below_half == 1
    assert files.bytes == sum((folder / name).stat().st_size for name in ("a.jpg", "b.jpg", "c.jpg", "d.png", "e.jpg"))
    assert facts.pack is not None and facts.pack.bytes == 5 * 32 * 32 * 3
    assert facts.pack_status == "missing"
    assert [(Path(skip.path).name, skip.reason) for skip in facts.skipped] == [
        ("empty.jpg", "empty file"),
        ("text.jpg", NOT_AN_IMAGE),
    ]


def test_facts_of_one_picture(folder: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.png", "empty.jpg", "text.jpg"):
        (folder / name).unlink()
    source = opened(folder)
    files = describe(source, frame=Frame.of(32), channels=3).files
    assert files is not None and files.smallest == files.median == files.largest == (31, 31)
    assert contact_sheet(source).shape == (1, 32, 32, 3)


def test_sizes_are_those_of_upright_pictures(tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 30))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    files = describe(opened(tmp_path), frame=Frame.of(32), channels=3).files
    assert files is not None and files.largest == (30, 80)


def test_as_many_pixels_are_not_the_same_size(tmp_path: Path) -> None:
    for number, size in enumerate(((20, 30), (30, 20), (20, 30))):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    files = describe(opened(tmp_path), frame=Frame.of(16), channels=3).files
    assert files is not None and files.smallest != files.largest


class Many:
    """A hundred thousand pictures that were examined."""

    origin, fingerprint, skipped = "many", "", ()

    def __len__(self) -> int:
        return 100_000

    def info(self, number: int) -> PictureInfo:
        return PictureInfo(100 + number, 50_000, True, "JPEG RGB" if number % 4 else "WEBP RGB", 3)

    def read_bytes(self, number: int) -> bytes:
        raise AssertionError("no file is read for a description")


def test_many_pictures_are_counted_without_reading_them() -> None:
    files = describe_files(Many(), frame=Frame.of(128))
    assert files.kinds == (("JPEG RGB", 75_000), ("WEBP RGB", 25_000))
    assert (files.smallest, files.median, files.largest) == ((100, 50_000), (50_099, 50_000), (100_099, 50_000))
    assert files.enlarged == 28
    assert files.shapes.below_half == 24_900 + 99, "narrower than 25,000, or wider than 100,000"
    assert files.bytes == 300_000


def test_facts_of_arrays(tmp_path: Path) -> None:
    pictures = np.arange(7 * 28 * 28).astype(np.uint8)
    header = np.array([0x803, 7, 28, 28], ">u4").tobytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + pictures.tobytes())
    as_they_are = describe(opened(tmp_path, 28, 1), frame=Frame.of(28), channels=1)
    assert as_they_are.pack is None and as_they_are.pack_status is None, "there is nothing to pack"
    fitted = describe(opened(tmp_path, 64, 3), frame=Frame.of(64), channels=3)
    assert fitted.pack is not None and fitted.pack.bytes == 7 * 64 * 64 * 3
    for facts in (as_they_are, fitted):
        assert facts.count == 7 and facts.files is None
        assert facts.pixels is not None
        assert (facts.pixels.shape, facts.pixels.dtype, facts.pixels.bytes) == ((7, 28, 28, 1), "uint8", 7 * 28 * 28)


@pytest.mark.parametrize("decoder", ["pillow", pytest.param("dali", marks=needs_dali)])
def test_a_crop_that_cuts_much_is_said_where_the_source_is_opened(tmp_path: Path, decoder: str) -> None:
    for number in range(3):
        Image.new("RGB", (64, 128)).save(tmp_path / f"{number}.png")

    def described(resolution: Resolution, fit: Fit = "crop", spec: Path = tmp_path) -> str:
        options: dict[str, Any] = {"decoder": decoder, "channels": 3, "device": "cpu", "threads": 1, "fit": fit}
        return open_source(str(spec), resolution=resolution, **options).description

    assert "(50% of a picture is cut off to make it 64x64; see --fit, and fastdcgan data)" in described(64)
    for quiet in (described("128x64"), described(64, "pad"), described(64, "stretch"), described("80x48")):
        assert "cut off" not in quiet
    array = tmp_path.parent / "array.npy"
    np.save(array, np.zeros((2, 128, 64, 3), np.uint8))
    assert "50% of a picture is cut off" in described(64, spec=array)
    assert "cut off" not in described("128x64", spec=array)


class Numbered:
    """Pictures whose pixels are their number."""

    description = origin = fingerprint = "numbers"
    skipped: Sequence[Skipped] = ()

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, batches):  # type: ignore[no-untyped-def]
        import torch

        for numbers in batches:
            yield torch.tensor(numbers, dtype=torch.int64)[:, None, None, None]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000])
def test_a_contact_sheet_is_spread_over_the_whole_source(count: int) -> None:
    numbers = contact_sheet(Numbered(count)).flatten().tolist()
    assert len(numbers) == min(count, 64)
    assert numbers[0] == 0 and numbers[-1] == count - 1
    steps = np.diff(numbers)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_reasons_are_grouped_the_most_frequent_first(tmp_path: Path) -> None:
    skipped = [Skipped(path=p, reason=r) for p, r in (("a", "empty"), ("b", "cut off"), ("c", "cut off"))]
    assert group_by_reason(skipped) == [("cut off", skipped[1:]), ("empty", skipped[:1])]
    many = Skipped(path="s.tar: d.cls", reason="none", count=3)
    assert group_by_reason([*skipped, many])[0] == ("none", [many])
    write_skipped(skipped, tmp_path / "skipped.txt")
    assert (tmp_path / "skipped.txt").read_text() == "'a': empty\n'b': cut off\n'c': cut off\n"
    with pytest.raises(ValueError, match="nowhere"):
        write_skipped(skipped, tmp_path / "nowhere" / "skipped.txt")


def test_pack_status(folder: Path) -> None:
    def found(*, verify: bool = False) -> PackStatus:
        return pack_status(pack_of(folder), verify=verify)

    assert found() == "missing"
    packing = ensure_packed(pack_of(folder))
    assert packing.found == "missing" and packing.seconds is not None
    assert found() == found(verify=True) == "whole"
    flip_a_byte(pack_of(folder).array)
    assert (found(), found(verify=True)) == ("whole", "damaged")
    pack_of(folder).array.unlink()
    assert found() == "damaged"
    (folder / "a.jpg").unlink()
    assert found() == "outdated"
    pack_of(folder).manifest.write_text("{")
    assert found() == "outdated"


def test_ensure_packed_rebuilds_a_damaged_pack_and_leaves_an_intact_one(folder: Path) -> None:
    ensure_packed(pack_of(folder))
    array = pack_of(folder).array
    good = array.read_bytes()
    flip_a_byte(array)
    assert array.read_bytes() != good
    mended = ensure_packed(pack_of(folder))
    assert mended.found == "damaged" and mended.seconds is not None
    assert array.read_bytes() == good
    whole = array.stat().st_mtime_ns
    again = ensure_packed(pack_of(folder))
    assert (again.found, again.seconds) == ("whole", None)
    assert array.stat().st_mtime_ns == whole
    (folder / "b.jpg").unlink()
    assert ensure_packed(pack_of(folder)).found == "outdated"
    assert pack_status(pack_of(folder), verify=True) == "whole"
