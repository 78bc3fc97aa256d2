import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from corpus import write_corpus
from torch import Tensor

from fastdcgan.data.array import ArraySource
from fastdcgan.data.decoding.dali import DaliSource, dali_available
from fastdcgan.data.decoding.fitting import Fit
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource
from fastdcgan.gan.architecture import Resolution, Size
from fastdcgan.storage.cache import cache_folder

DECODERS = ["pillow", pytest.param("dali", marks=pytest.mark.skipif(not dali_available(), reason="DALI is for Linux"))]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A folder of every kind of file; how many are good and bad."""
    folder = tmp_path_factory.mktemp("corpus")
    good, bad = write_corpus(folder)
    return folder, len(good), len(bad)


@pytest.fixture
def photos(photographs: Path, tmp_path: Path) -> Path:
    """A dozen photographs in a folder of their own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted((photographs / "china").iterdir())[:12]:
        shutil.copy(path, folder)
    return folder


def opened(folder: Path, *, cache: str = "on", decoder: str = "pillow", channels: int = 3) -> ImageSource:
    return open_source(  # type: ignore[arg-type]
        str(folder), resolution=32, channels=channels, device="cpu", threads=2, decoder=decoder, cache=cache
    )


def pixels(source: ImageSource) -> Tensor:
    return next(source.read([range(len(source))]))


def packs() -> list[str]:
    folder = cache_folder() / "packs"
    return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


def manifest() -> Path:
    (path,) = (cache_folder() / "packs").glob("*.json")
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the pictures that Pillow decoded."""
    numbers: list[int] = []
    read = PillowSource.read

    def count(self: PillowSource, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        batches = list(batches)
        numbers.extend(number for batch in batches for number in batch)
        return read(self, batches)

    monkeypatch.setattr(PillowSource, "read", count)
    return numbers


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("resolution", [48, "64x128"])
def test_each_fit_has_a_pack_of_its_own(
    resolution: Resolution, decoder: Literal["dali", "pillow"], photos: Path, cache: Path
) -> None:
    def opened_fitted(fit: Fit, cached: Literal["on", "off"]) -> ImageSource:
        return open_source(
            str(photos),
            resolution=resolution,
            channels=3,
            device="cpu",
            threads=2,
            fit=fit,
            decoder=decoder,
            cache=cached,
        )

    fits: list[Fit] = ["crop", "pad", "stretch"]
    packed = [pixels(opened_fitted(fit, "on")) for fit in fits]
    assert len(list((cache / "packs").glob("*.npy"))) == 3
    for fit, pictures in zip(fits, packed, strict=True):
        assert pictures.shape[1:] == (*Size.of(resolution), 3)
        assert torch.equal(pictures, pixels(opened_fitted(fit, "off")))
        assert torch.equal(pictures, pixels(opened_fitted(fit, "on"))), "the same pack again"
    assert not torch.equal(packed[0], packed[1]) and not torch.equal(packed[0], packed[2])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_packed_pictures_equal_streamed_ones(decoder: str, channels: int, corpus: tuple[Path, int, int]) -> None:
    folder, good, bad = corpus
    packed = opened(folder, decoder=decoder, channels=channels)
    streamed = opened(folder, decoder=decoder, channels=channels, cache="off")
    assert isinstance(packed, ArraySource)
    assert isinstance(streamed, DaliSource if decoder == "dali" else PillowSource)
    assert len(packed) == len(streamed) == good
    order = [[5, 3, 3], list(range(good))]
    assert all(torch.equal(a, b) for a, b in zip(packed.read(order), streamed.read(order), strict=True))
    assert len(packed.skipped) == bad
    assert packed.fingerprint == streamed.fingerprint


def test_the_second_time_nothing_is_decoded(photos: Path, decoded: list[int]) -> None:
    before = pixels(opened(photos))
    assert decoded == list(range(12))
    assert torch.equal(pixels(opened(photos)), before)
    assert decoded == list(range(12))
    assert packs() == [".json", ".lock", ".npy"]


def test_the_manifest_says_what_is_in_it(photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    source = opened(photos)
    said = json.loads(manifest().read_text())
    assert said["source"] == source.origin == str(photos)
    assert (said["count"], said["resolution"], said["channels"]) == (12, 32, 3)
    assert "shorter side" in said["rule"]
    assert [Path(skip["path"]).name for skip in said["skipped"]] == ["broken.jpg"]
    array = np.load(manifest().with_suffix(".npy"))
    assert (array.shape, array.dtype) == ((12, 32, 32, 3), np.uint8)
    assert torch.equal(torch.from_numpy(array), pixels(source))


def add(photos: Path) -> None:
    shutil.copy(photos / "003.jpg", photos / "more.jpg")


def remove(photos: Path) -> None:
    (photos / "003.jpg").unlink()


def modify(photos: Path) -> None:
    shutil.copy(photos / "004.jpg", photos / "003.jpg")


def rename(photos: Path) -> None:
    (photos / "000.jpg").rename(photos / "zzz.jpg")


def touch(photos: Path) -> None:
    os.utime(photos / "003.jpg", (1, 1))


@pytest.mark.parametrize("change", [add, remove, modify, rename, touch])
def test_a_changed_folder_is_packed_again(change: Callable[[Path], None], photos: Path, decoded: list[int]) -> None:
    opened(photos)
    decoded.clear()
    change(photos)
    source = opened(photos)
    assert len(decoded) == len(source)
    assert torch.equal(pixels(source), pixels(opened(photos, cache="off")))
    decoded.clear()
    opened(photos)
    assert not decoded
    assert packs() == [".json", ".lock", ".npy"], "the old pack is replaced"


@pytest.mark.skipif(not dali_available(), reason="DALI is not installed")
def test_another_version_of_dali_packs_anew(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them can't be installed at once: the same one, under another version's name."""
    opened(photos, decoder="dali")
    before = manifest().read_text()
    opened(photos, decoder="dali")
    assert manifest().read_text() == before
    monkeypatch.setattr("fastdcgan.data.decoding.dali._dali_version", lambda: "99.0")
    theirs = opened(photos, decoder="dali")
    assert "DALI 99.0" in manifest().read_text() and isinstance(theirs, ArraySource)


def test_sizes_kinds_and_folders_have_packs_of_their_own(photos: Path, tmp_path: Path, decoded: list[int]) -> None:
    shutil.copytree(photos, tmp_path / "other" / "photos")
    for _ in range(2):
        opened(photos)
        opened(photos, channels=1)
        opened(tmp_path / "other" / "photos")
    assert len(decoded) == 3 * 12


def cut(array: Path) -> None:
    os.truncate(array, array.stat().st_size - 1)


def flip(array: Path) -> None:
    data = bytearray(array.read_bytes())
    data[-7] ^= 1
    array.write_bytes(data)


def empty(array: Path) -> None:
    array.write_bytes(b"")


def other_header(array: Path) -> None:
    array.write_bytes(array.read_bytes().replace(b"(12, 32, 32, 3)", b"(12, 32, 96, 1)"))


def no_array(array: Path) -> None:
    array.unlink()


def no_manifest(array: Path) -> None:
    array.with_suffix(".json").unlink()


def half_a_manifest(array: Path) -> None:
    os.truncate(array.with_suffix(".json"), 60)


def strange_manifest(array: Path) -> None:
    array.with_suffix(".json").write_text('["not", "a", "manifest"]')


def another_version(array: Path) -> None:
    path = array.with_suffix(".json")
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))


@pytest.mark.parametrize(
    "damage",
    [cut, flip, empty, other_header, no_array, no_manifest, half_a_manifest, strange_manifest, another_version],
)
def test_a_damaged_pack_is_rebuilt(damage: Callable[[Path], None], photos: Path, decoded: list[int]) -> None:
    before = pixels(opened(photos))
    decoded.clear()
    damage(manifest().with_suffix(".npy"))
    assert torch.equal(pixels(opened(photos)), before)
    assert decoded == list(range(12))


def test_a_pack_that_was_copied_is_compared_with_its_checksum_and_used(photos: Path, decoded: list[int]) -> None:
    opened(photos)
    decoded.clear()
    os.utime(manifest().with_suffix(".npy"), (1, 1))
    opened(photos)
    assert not decoded


def test_a_build_that_fails_leaves_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "packing images":
            raise KeyboardInterrupt

    monkeypatch.setattr("fastdcgan.data.pack.BATCH", 5)
    with pytest.raises(KeyboardInterrupt):
        open_source(str(photos), resolution=32, channels=3, device="cpu", threads=1, cache="on", on_progress=interrupt)
    assert packs() == [".lock"]
    assert len(opened(photos)) == 12


def test_a_picture_that_vanishes_while_packing_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdcgan.data.pack._check_disk_space", lambda *_: (photos / "007.jpg").unlink())
    with pytest.raises(ValueError, match=r"007\.jpg: no such file"):
        opened(photos, cache="auto")
    assert packs() == [".lock"]


class TestNoRoom:
    """The pack can't be written: `on` says so in one line, `auto` decodes whenever it reads."""

    def check(self, photos: Path, reason: str) -> None:
        with pytest.raises(ValueError, match=reason) as failed:
            opened(photos, cache="on")
        assert "\n" not in str(failed.value)
        assert "--data-cache off" in str(failed.value)
        source = opened(photos, cache="auto")
        assert isinstance(source, PillowSource)
        assert str(failed.value).split(";")[0].split("more than")[0] in source.description
        assert len(pixels(source)) == 12
        assert ".npy" not in packs()
        assert ".unfinished" not in packs()

    def test_on_the_disk(self, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(photos)._replace(free=10_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        self.check(photos, r"would take 0\.04 MB, more than what is free in .* \(0\.01 MB\)")

    def test_after_half_of_it(self, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        self.check(photos, "can't be written to .*: No space left on device")

    def test_in_a_cache_that_is_no_folder(self, photos: Path, cache: Path) -> None:
        cache.write_text("a file")
        self.check(photos, "can't be written to .*: Not a directory")


def test_nobody_asked_for_half_of_the_disk(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(photos)._replace(free=2 * 12 * 32 * 32 * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    source = opened(photos, cache="auto")
    assert isinstance(source, PillowSource)
    assert "not packed: the packed pictures would take 0.04 MB, more than 50% of what is free" in source.description
    assert isinstance(opened(photos, cache="on"), ArraySource)


BUILD = """
import sys, time
from fastdcgan.data import pack
from fastdcgan.data.open import open_source
pack.BATCH = 1

def slowly(what, done, total):
    if what == "packing images":
        print(done, flush=True)
        time.sleep(0.05)

source = open_source(sys.argv[1], resolution=32, channels=3, device="cpu", threads=1, decoder="pillow", cache="on",
                     on_progress=slowly)
print("opened", int(next(source.read([range(12)])).sum()), flush=True)
"""


def build(photos: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", BUILD, photos], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["1", "6", "12"])
def test_a_killed_build_leaves_nothing_that_looks_finished(moment: str, photos: Path) -> None:
    with build(photos) as process:
        assert process.stdout is not None
        assert any(line.strip() == moment for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert ".json" not in packs()
    started = time.monotonic()
    source = opened(photos)
    assert time.monotonic() - started < 20, "the killed one's lock is not waited for"
    assert torch.equal(pixels(source), pixels(opened(photos, cache="off")))
    assert packs() == [".json", ".lock", ".npy"]


@pytest.mark.slow
def test_processes_that_start_together_build_it_once(photos: Path) -> None:
    processes = [build(photos) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    builders = [output for output in outputs if "12" in output[:-2]]
    assert len(builders) == 1, outputs
    expected = str(int(pixels(opened(photos, cache="off")).sum()))
    assert [output[-2:] for output in outputs] == [["opened", expected]] * 3
