"""Numbers of any range become bytes by a range that is said, and the same one is used when a run goes on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdcgan.config import DataConfig, TrainConfig, flat, from_flat, parse_value_range
from fastdcgan.data.array import ArraySource
from fastdcgan.data.arrays.numpy_folder import NumpyFolderSource
from fastdcgan.data.arrays.value_range import ValueRange, range_of
from fastdcgan.data.folder import NoUsablePictureError
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
BYTES[0, 0, 0] = (0, 255, 128)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def source(
    path: Path, *, value_range: tuple[float, float] | None = None, cache: str = "off", channels: int = 3
) -> ImageSource:
    return open_source(
        str(path), resolution=16, channels=channels, device="cpu", threads=2, cache=cache, value_range=value_range
    )


def everything(found: ImageSource) -> np.ndarray:
    return torch.cat(list(found.read([[3, 0, 8], [], range(len(found))]))).numpy()[3:]


def saved(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16", "uint16", "int32", "int64"])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (-4000, 4160), (0, 65535)])
def test_what_was_stretched_comes_back(dtype: str, low: int, high: int, tmp_path: Path) -> None:
    values = BYTES.astype(float) / 255 * (high - low) + low
    if "int" in dtype:
        values = values.round()
    if dtype == "float16" and high > 60000:
        pytest.skip("the type has no room for it")
    if not np.array_equal(values.astype(dtype).astype(float).round(0), values.round(0)):
        pytest.skip("the type has no room for it")
    path = saved(tmp_path / "a.npy", values.astype(dtype))
    for cache in ("off", "on", "on"):
        found = source(path, cache=cache)
        assert found.value_range == ValueRange(low, high)
        assert abs(everything(found).astype(int) - BYTES).max() <= (1 if dtype == "float16" else 0)
    assert f"{low:g} to {high:g} scaled to 0 to 255 (--value-range)" in found.description


def test_truth_values(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", BYTES > 127)
    assert np.array_equal(everything(source(path)), (BYTES > 127) * np.uint8(255))


def test_a_range_that_is_asked_for_clips(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", BYTES.astype(np.float32))
    found = source(path, value_range=(100, 200))
    expected = np.rint((BYTES.astype(float) - 100).clip(0, 100) * 2.55)
    assert abs(everything(found) - expected).max() <= 1
    assert found.fingerprint != source(path).fingerprint, "else a pack of the other range would be used"
    packed = [everything(source(path, value_range=asked, cache="on")) for asked in ((100, 200), (0, 255), (100, 200))]
    assert np.array_equal(packed[0], packed[2]) and not np.array_equal(packed[0], packed[1])


def test_bytes_stay_as_they_are_but_for_a_range_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", BYTES)
    found = source(path)
    assert isinstance(found, ArraySource) and found.value_range is None
    assert np.array_equal(everything(source(path, value_range=(0, 127.5)))[BYTES > 128], BYTES[BYTES > 128] * 0 + 255)


def test_a_few_far_out_are_clipped_and_a_few_near_are_not() -> None:
    values = RNG.normal(0, 1, 10**6)
    assert range_of(np.append(values, [1e9, -1e9]), "").high < 4
    even = np.linspace(-40, 40, 10**5)
    assert range_of(even, "") == ValueRange(-40, 40)
    assert range_of(np.append(even, [np.nan, np.inf, -np.inf]), "") == ValueRange(-40, 40)
    assert range_of(np.append(np.zeros(10**5), [3.0]), "") == ValueRange(0, 3)


def test_what_is_not_finite_is_said_and_does_no_harm(tmp_path: Path) -> None:
    values = BYTES / 255
    values[1, :2, 0] = np.nan
    values[2, 3, 4], values[2, 3, 5] = np.inf, -np.inf
    found = source(saved(tmp_path / "a.npy", values))
    assert found.description.endswith("; NaN and infinities among them are taken for the ends")
    shown = everything(found)
    assert (shown[1, :2, 0] == 0).all() and (shown[2, 3, 4] == 255).all() and (shown[2, 3, 5] == 0).all()
    assert np.array_equal(shown[3:], BYTES[3:])


def test_one_colour_is_noticed(tmp_path: Path) -> None:
    fractions = saved(tmp_path / "a.npy", BYTES / np.float32(256))
    with pytest.raises(ValueError, match=r"by --value-range 300,400 all pictures are of one colour; its"):
        source(fractions, value_range=(300, 400))
    black = source(saved(tmp_path / "b.npy", (BYTES / 256).astype(np.uint8)))
    assert "every value is 0, so all pictures are of one colour" in black.description
    dark = source(saved(tmp_path / "c.npy", (BYTES / 255).astype(np.uint8)))
    assert "no value is over 1, so all is black or almost: --value-range 0,1 scales them" in dark.description
    assert everything(source(tmp_path / "c.npy", value_range=(0, 1))).max() == 255


def test_a_folder_of_npy_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number, picture in enumerate(BYTES[:30]):
        form = (picture, picture.transpose(2, 0, 1), picture[..., :1])[number % 3]
        saved(folder / f"class {number % 2}" / f"{number:02d}.npy", form / np.float32(2) - 60)
    saved(folder / "class 0" / "several.npy", BYTES[30:] / np.float32(2) - 60)
    saved(folder / "class 1" / "plain.npy", BYTES[0, ..., 0] / 2 - 60)
    (folder / "class 1" / "bad.npy").write_bytes(b"no")
    (folder / "class 1" / "objects.npy").write_bytes(b"")
    (folder / "labels.csv").write_text("a")
    saved(folder / ".ipynb_checkpoints" / "a.npy", BYTES[0])
    found, packed = source(folder), source(folder, cache="on")
    assert isinstance(found, NumpyFolderSource) and isinstance(packed, ArraySource)
    assert len(found) == 41
    assert found.value_range == packed.value_range == ValueRange(-60, 67.5)
    shown = everything(found)
    assert np.array_equal(shown, everything(packed))
    for number in (0, 6, 12):
        assert np.array_equal(shown[number // 2], BYTES[number])
    assert np.array_equal(shown[4 // 2], BYTES[4].round())
    assert np.array_equal(shown[15:25], BYTES[30:])
    reasons = {Path(skip.path).name: (skip.not_a_picture, bool(skip.hidden)) for skip in found.skipped}
    assert reasons == {
        "bad.npy": (False, False),
        "objects.npy": (False, False),
        "labels.csv": (True, False),
        "a.npy": (True, True),
    }
    assert found.labels is not None and found.labels.counts() == [25, 16]
    os.utime(folder / "class 0" / "00.npy", ns=(1, 1))
    with pytest.raises(ValueError, match=r"00\.npy: the file was changed"):
        everything(found)
    assert source(folder).fingerprint != found.fingerprint


def test_a_folder_of_bad_npy_files_says_what_is_wrong(tmp_path: Path) -> None:
    saved(tmp_path / "set" / "a.npy", np.zeros((3, 3), complex))
    with pytest.raises(NoUsablePictureError, match=r"no usable picture in .*a\.npy: pictures must be of numbers"):
        source(tmp_path / "set")


@pytest.mark.parametrize("text", ["", "1", "1,1", "2,1", "nan,1", "0,inf", "a,b", "1,2,3"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be auto or LO,HI"):
        TrainConfig(data=DataConfig(value_range=text)).resolved()


def test_the_option() -> None:
    assert parse_value_range("auto") is None
    assert parse_value_range("-40, 40") == (-40, 40)
    old = {name: value for name, value in flat(TrainConfig().resolved()).items() if name != "value_range"}
    assert from_flat(old).data.value_range == "auto", "runs from before there was the option go on"


@pytest.mark.slow
def test_a_run_keeps_the_range_it_was_begun_with(tmp_path: Path) -> None:
    from fastdcgan.cli import main

    data = saved(tmp_path / "a.npy", BYTES / np.float32(255))
    options = f"train --data {data} --resolution 16 --width 4 --batch-size 8 --threads 1 --quiet".split()
    run = tmp_path / "run"
    main([*options, "--out", str(run), "--images", "16"])
    conditions = json.loads((run / "config.json").read_text())["conditions"]
    assert conditions["value_range"] == [0.0, 1.0]
    saved(data, BYTES / np.float32(127))  # a second part of the same recording
    main([*options, "--out", str(run), "--images", "32"])
    conditions = json.loads((run / "config.json").read_text())["conditions"]
    assert conditions["value_range"] == [0.0, 1.0]
    with pytest.raises(SystemExit):
        main([*options, "--out", str(run), "--images", "48", "--value-range=0,2"])
