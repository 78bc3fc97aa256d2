"""What Pillow reads besides the formats of the web: right in its values, named where something is missing."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from corpus import PHOTOS, encode, heif, heif_available
from PIL import Image

from fastdcgan.data.decoding import formats
from fastdcgan.data.decoding.formats import INSTALL_HEIF, may_be_picture
from fastdcgan.data.decoding.picture import UNKNOWN_RANGE, examine, opened
from fastdcgan.data.folder import NoUsablePictureError, scan_folder

needs_heif = pytest.mark.skipif(not heif_available(), reason="pillow-heif is not installed")

PHOTO = PHOTOS[0].resize((60, 40))
RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def grey(data: bytes) -> np.ndarray:
    with opened(data, 1) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("form", ["TIFF", "PPM", "JPEG2000"])
def test_16_bits_are_scaled_and_not_clipped(form: str) -> None:
    assert np.array_equal(grey(encode(Image.fromarray(RAMP), form)), (RAMP.astype(int) + 128) // 257)


def test_16_bits_of_which_0_is_white() -> None:
    data = encode(Image.fromarray(RAMP), "TIFF", tiffinfo={0x0106: 0})
    assert np.array_equal(grey(data), 255 - (RAMP.astype(int) + 128) // 257)
    eight = (RAMP // 257).astype(np.uint8)
    assert np.array_equal(grey(encode(Image.fromarray(eight), "TIFF")), eight)


@pytest.mark.parametrize("form", ["TIFF", "PPM", "JPEG2000", "AVIF", "ICO", pytest.param("HEIF", marks=needs_heif)])
def test_colours(form: str) -> None:
    data = heif(PHOTO) if form == "HEIF" else encode(PHOTO, form, **({"sizes": [(60, 40)]} if form == "ICO" else {}))
    info = examine(data)
    assert (info.width, info.height, info.plain) == (60, 40, False)
    with opened(data, 3) as image:
        difference = abs(np.asarray(image).astype(int) - np.asarray(PHOTO))
    assert difference.mean() < (8 if form in ("AVIF", "HEIF") else 1e-9)


def test_the_first_page_is_taken_and_said() -> None:
    data = encode(PHOTO, "TIFF", save_all=True, append_images=[PHOTO.rotate(90, expand=True), PHOTO])
    assert examine(data).kind == "TIFF RGB, first page"
    assert examine(encode(PHOTO, "TIFF")).kind == "TIFF RGB"
    with opened(data, 3) as image:
        assert np.array_equal(np.asarray(image), np.asarray(PHOTO))


def test_the_largest_icon_is_taken() -> None:
    info = examine(encode(PHOTOS[0], "ICO", sizes=[(16, 16), (96, 64), (48, 32)]))
    assert (info.width, info.height) == (96, 64)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int16"])
def test_values_of_unknown_range_are_refused_and_not_clipped(dtype: str) -> None:
    data = encode(Image.fromarray(np.linspace(-5, 5, 64).reshape(8, 8).astype(dtype)), "TIFF")
    for read in (examine, grey):
        with pytest.raises(ValueError, match="values of unknown range"):
            read(data)
    assert "--value-range" in UNKNOWN_RANGE


def test_raw_photographs_and_films_are_no_pictures(tmp_path: Path) -> None:
    for name in ("a.cr2", "a.nef", "a.dng"):
        (tmp_path / name).write_bytes(encode(PHOTO, "TIFF"))
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0" + bytes(90))
    (tmp_path / "notes").write_bytes(b"P5 is the parking place\n")
    (tmp_path / "a.tif").write_bytes(encode(PHOTO, "TIFF"))
    index = scan_folder(tmp_path)
    assert [Path(picture.path).name for picture in index.pictures] == ["a.tif"]
    assert all(skip.not_a_picture for skip in index.skipped)


@needs_heif
def test_heic_without_its_plug_in_names_it_and_is_read_once_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.heic").write_bytes(heif(PHOTO))
    (tmp_path / "b").write_bytes(heif(PHOTO))
    assert may_be_picture(heif(PHOTO))
    with monkeypatch.context() as patch:
        real = importlib.util.find_spec
        patch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "pillow_heif" else real(name))
        with pytest.raises(NoUsablePictureError) as raised:
            scan_folder(tmp_path)
        assert [skip.reason for skip in raised.value.skipped] == [INSTALL_HEIF] * 2
    assert len(scan_folder(tmp_path)) == 2
