import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import PHOTOS
from PIL import Image
from psutil import Process

from fastdcgan.data.array import ArraySource, DeviceSource, ResizedSource, make_array_source
from fastdcgan.data.arrays import npy_pictures
from fastdcgan.data.arrays.npy_pictures import open_npy
from fastdcgan.data.arrays.picture_array import channels_last
from fastdcgan.data.decoding.fitting import Frame, fit
from fastdcgan.data.decoding.picture import as_channels
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource


def photos(mode: str, width: int = 40, height: int = 30) -> np.ndarray:
    pictures = [np.asarray(photo.convert(mode).resize((width, height))) for photo in PHOTOS]
    return np.stack(pictures).reshape(2, height, width, -1)


def opened(pictures: np.ndarray, resolution: int, channels: int) -> ImageSource:
    return make_array_source(
        pictures, frame=Frame.of(resolution), channels=channels, threads=2, description="two photographs", origin="here"
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_array_of_another_size_is_resized_as_files_are(mode: str, channels: int) -> None:
    pictures = photos(mode)
    if mode == "RGBA":
        pictures[:, :15, :, 3] = 100
    source = opened(pictures, 16, channels)
    assert isinstance(source, ResizedSource)
    assert (len(source), source.description, source.origin, source.skipped) == (2, "two photographs", "here", ())
    (read,) = source.read([[1, 0, 1]])
    assert (read.dtype, read.shape) == (torch.uint8, (3, 16, 16, channels))
    for number, picture in zip([1, 0, 1], read, strict=True):
        expected = fit(as_channels(Image.fromarray(pictures[number].squeeze()), channels), Frame.of(16))
        assert np.array_equal(picture.numpy().squeeze(), np.asarray(expected))


def test_pictures_of_the_right_size_are_not_copied_but_what_is_read_is() -> None:
    pictures = photos("RGB", 16, 16).copy()
    source = opened(pictures, 16, 3)
    assert isinstance(source, ArraySource)
    (before,) = source.read([[0]])
    before.zero_()
    assert pictures.any()
    pictures[0] = 9
    assert (next(source.read([[0]])) == 9).all()


@pytest.mark.parametrize("kind", ["as it is", "ahead", "fitted", "resident"])
def test_batches_are_taken_lazily_and_of_any_length(kind: str) -> None:
    pictures = photos("L", 16, 16).copy()
    source = opened(pictures, 8 if kind == "fitted" else 16, 1)
    if kind != "fitted":
        assert isinstance(source, ArraySource)
        source.prefetch = kind == "ahead"
    if kind == "resident":
        source = DeviceSource(source, torch.device("cpu"))
    reading = source.read(iter(lambda: [0, 1], None))
    assert next(reading).shape == next(reading).shape == (2, *[8 if kind == "fitted" else 16] * 2, 1)
    reading.close()
    (one, none, three) = source.read([[1], [], [1, 0, 1]])
    assert (len(one), len(none), len(three)) == (1, 0, 3)
    assert torch.equal(one[0], three[2])
    assert not torch.equal(one[0], three[1])


def test_a_device_source_gives_the_arrays_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdcgan.data.array._CHUNK", 3)
    pictures = np.arange(7 * 2 * 2 * 3, dtype=np.uint8).reshape(7, 2, 2, 3)
    pictures.flags.writeable = False
    source = ArraySource(pictures, description="seven", origin="here")
    resident = DeviceSource(source, torch.device("cpu"))
    order = [[6, 0, 3], [5, 5]]
    assert all(torch.equal(a, b) for a, b in zip(source.read(order), resident.read(order), strict=True))
    assert (resident.description, resident.fingerprint) == ("seven, kept on cpu", source.fingerprint)


def test_the_fingerprint_is_that_of_shape_and_pixels() -> None:
    pictures = photos("RGB", 16, 16).copy()
    before = opened(pictures, 16, 3).fingerprint
    assert opened(pictures.copy(), 16, 3).fingerprint == before
    assert opened(pictures.reshape(2, 8, 32, 3), 16, 3).fingerprint != before
    assert opened(pictures, 8, 3).fingerprint != before
    pictures[1, 15, 15, 2] ^= 1
    assert opened(pictures, 16, 3).fingerprint != before


def test_pictures_with_channels_first_are_gathered_one_by_one() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    many_NHWC = np.broadcast_to(pictures, (10**9, 3, 16, 16)).transpose(0, 2, 3, 1)  # a copy of all would take 768 GB
    (read,) = opened(many_NHWC, 16, 3).read([[10**9 - 1, 0]])
    assert torch.equal(read, torch.from_numpy(pictures.transpose(0, 2, 3, 1)).expand(2, 16, 16, 3))


@pytest.mark.parametrize("axes", ["N, H, W, C", "N, C, H, W", "N, H, W"])
@pytest.mark.parametrize("read_at", [npy_pictures.read_at, npy_pictures._seek_and_read])
def test_a_file_gives_the_arrays_pictures(
    axes: str, read_at: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy_pictures, "read_at", read_at)
    shape = {"N, H, W, C": (9, 6, 5, 3), "N, C, H, W": (9, 3, 6, 5), "N, H, W": (9, 6, 5)}[axes]
    stored = np.random.default_rng(0).normal(size=shape).astype(">f4")
    np.save(tmp_path / "a.npy", stored)
    found, wanted_NHWC = open_npy(tmp_path / "a.npy", ""), channels_last(stored, axes)
    assert (found.shape, found.dtype, found.nbytes) == (wanted_NHWC.shape, stored.dtype, stored.nbytes)
    assert np.array_equal(found[7], wanted_NHWC[7])
    assert np.array_equal(found[2:50], wanted_NHWC[2:])
    assert found[9:].shape == (0, 6, 5, 1 if axes == "N, H, W" else 3)
    taken = np.empty((3, *wanted_NHWC.shape[1:]), ">f4")
    found.take([8, 0, 8], taken)
    assert np.array_equal(taken, wanted_NHWC[[8, 0, 8]])


def test_a_file_is_closed_with_its_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2, 2, 3), np.uint8))
    before = Process().num_fds() if hasattr(Process, "num_fds") else Process().num_handles()
    pictures = [open_npy(tmp_path / "a.npy", "") for _ in range(20)]
    pictures.clear()
    assert (Process().num_fds() if hasattr(Process, "num_fds") else Process().num_handles()) == before


@pytest.mark.parametrize("kind", ["as it is", "ahead", "fitted", "resident"])
@pytest.mark.parametrize("fault", ["cut off", "away"])
def test_a_file_that_goes_away_in_the_midst_of_a_batch_is_named(
    kind: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it mapped, its pixels would end the process (SIGBUS)."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((400, 16, 16, 3), np.uint8))
    size = 8 if kind == "fitted" else 16
    found = open_source(str(path), resolution=size, channels=3, device="cpu", threads=1, cache="off")
    read_at, reads = npy_pictures.read_at, itertools.count()

    def read(descriptor: int, part: memoryview, at: int) -> int:
        if next(reads) == (0 if kind == "resident" else 3):
            if fault == "away":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.truncate(path, 5000)
        return read_at(descriptor, part, at)

    assert next(found.read([[399]])).shape[0] == 1
    monkeypatch.setattr(npy_pictures, "read_at", read)
    if isinstance(found, ArraySource):
        found.prefetch = kind == "ahead"
    reason = "the file was cut off while training read it" if fault == "cut off" else "input/output error"
    with pytest.raises(ValueError, match=rf"a\.npy: {reason}$"):
        if kind == "resident":
            assert isinstance(found, ArraySource)
            DeviceSource(found, torch.device("cpu"))
        next(found.read([range(399, 0, -1)]))
