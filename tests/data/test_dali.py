"""DALI against its twin: the same pictures, in the order asked for, and no picture can stop it."""

import itertools
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import PHOTOS, encode, good_files, write_corpus
from PIL import Image

from fastdcgan.data import open as module
from fastdcgan.data.decoding.dali import DaliSource, dali_available
from fastdcgan.data.decoding.fitting import Frame, fit_geometry
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.folder import FolderIndex, scan_folder
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # pytest undoes our own filter

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = [None, pytest.param(0, marks=[pytest.mark.gpu, no_cuda])]

needs_dali = pytest.mark.skipif(not dali_available(), reason="DALI is not installed")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderIndex]:
    """Every kind of picture, and photographs enough to see how decoders agree when resizing."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    for number, (width, height) in itertools.product((0, 1), ((178, 218), (300, 200), (640, 427), (50, 40))):
        photo = PHOTOS[number].resize((width, height), Image.Resampling.LANCZOS)
        (folder / f"photo {number} {width}.jpg").write_bytes(encode(photo, "JPEG", quality=90))
        (folder / f"photo {number} {width}.png").write_bytes(encode(photo, "PNG"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTDCGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield scan_folder(folder)


@pytest.fixture(params=["pillow", pytest.param("dali", marks=needs_dali)])
def source(request: pytest.FixtureRequest, corpus: FolderIndex) -> ImageSource:
    if request.param == "pillow":
        return PillowSource(corpus, frame=Frame.of(32), channels=3, threads=2)
    return DaliSource(corpus, frame=Frame.of(32), channels=3, device=None, threads=2)


@needs_dali
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "frame",
    [
        *(Frame.of(resolution) for resolution in (32, 64, 200, "64x128", "96x48")),
        *(Frame.of(resolution, "pad") for resolution in (48, "64x128", "96x48")),
        *(Frame.of(resolution, "stretch") for resolution in (48, "64x128")),
    ],
    ids=lambda frame: f"{frame.size}-{frame.fit}",
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_is_as_pillow_decodes_it(
    channels: int, frame: Frame, device: int | None, corpus: FolderIndex, capfd: pytest.CaptureFixture[str]
) -> None:
    fast = DaliSource(corpus, frame=frame, channels=channels, device=device, threads=2)
    slow = PillowSource(corpus, frame=frame, channels=channels, threads=2)
    everything = list(range(len(corpus)))
    (seen,), (expected,) = list(fast.read([everything])), list(slow.read([everything]))
    assert seen.shape == expected.shape == (len(corpus), *frame.size, channels)
    assert seen.dtype == torch.uint8
    difference = (seen.cpu().int() - expected.int()).abs().numpy()
    for picture, levels in zip(corpus.pictures, difference, strict=True):
        if not picture.plain:
            assert levels.max() == 0, picture.path
        # Measured on the CPU: 1 (RGB) and 2 (grey) within, 20 on the border, 0.33 in the mean. nvJPEG isn't libjpeg.
        slack = 0 if device is None else 2
        place = fit_geometry(picture.width, picture.height, frame)
        top, left = max(0, -place.top), max(0, -place.left)  # where a padded picture begins
        bottom, right = min(frame.size.height, top + place.height), min(frame.size.width, left + place.width)
        inside = levels[top + 1 : bottom - 1, left + 1 : right - 1]
        assert not inside.size or inside.max() <= (2 if channels == 1 else 1) + slack, picture.path
        assert levels.max() <= 24, picture.path
        assert levels.mean() <= 0.35 + slack / 2, picture.path
    assert capfd.readouterr() == ("", "")


@needs_dali
def test_long_pictures_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    PHOTOS[0].resize((8000, 20)).save(tmp_path / "long.png")
    index = scan_folder(tmp_path)
    (seen,) = DaliSource(index, frame=Frame.of(512), channels=3, device=None, threads=1).read([[0]])
    (expected,) = PillowSource(index, frame=Frame.of(512), channels=3, threads=1).read([[0]])
    assert (seen.int() - expected.int()).abs().max() <= 1


def test_pictures_come_in_the_order_asked_for(source: ImageSource) -> None:
    batches = [[3, 1, 2], [7], [7, 7, 1, 30, 0], [1, 2, 3]] + [[i] for i in range(8)]
    read = list(source.read(iter(batches)))
    assert [len(pictures) for pictures in read] == [len(batch) for batch in batches]
    alone = {n: next(source.read([[n]]))[0] for n in set(itertools.chain(*batches))}
    for batch, pictures in zip(batches, read, strict=True):
        for number, picture in zip(batch, pictures, strict=True):
            assert torch.equal(picture, alone[number]), number


def test_no_batches_yield_nothing(source: ImageSource) -> None:
    assert list(source.read([])) == []


def test_yielded_batches_are_not_overwritten(source: ImageSource) -> None:
    held = list(source.read([[n] * 4 for n in range(10)]))
    copies = [pictures.clone() for pictures in held]
    held[0].zero_()
    for _ in source.read([[n] * 4 for n in range(20, 30)]):
        pass
    assert all(torch.equal(a, b) for a, b in zip(held[1:], copies[1:], strict=True))
    assert len({pictures.data_ptr() for pictures in held}) == len(held)


def test_an_endless_order_is_read_lazily_and_closing_ends_all_threads(source: ImageSource) -> None:
    asked = 0

    def endless() -> Iterator[Sequence[int]]:
        nonlocal asked
        while True:
            asked += 1
            yield [asked % len(source)] * 3

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 0

    for pictures in source.read([[0], [1]]):  # DALI keeps a few threads of its own from its first use on
        del pictures
    before, python_before = threads(), threading.active_count()
    for _ in range(3):
        reading = source.read(endless())
        asked = 0
        for _ in range(5):
            next(reading)
        assert asked <= 5 + 10
        began = time.perf_counter()
        reading.close()
        assert time.perf_counter() - began < 30
        assert threading.active_count() == python_before
    deadline = time.perf_counter() + 10  # the system takes a moment to end a thread that was joined
    while threads() > before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert threads() <= before
    assert next(source.read([[4]])).shape == (1, 32, 32, 3)


def test_two_readers_do_not_mix(source: ImageSource) -> None:
    one, two = source.read([[n] for n in range(6)]), source.read([[n] for n in range(6, 12)])
    mixed = [(next(one), next(two)) for _ in range(6)]
    for number, pair in enumerate(mixed):
        assert torch.equal(pair[0], next(source.read([[number]])))
        assert torch.equal(pair[1], next(source.read([[number + 6]])))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        PHOTOS[number % 2].crop((number, 0, number + 90, 80)).save(folder / f"{number:02d}.jpg", quality=92)
    return folder


@pytest.mark.parametrize("decoder", ["pillow", pytest.param("dali", marks=needs_dali)])
def test_a_file_that_changes_while_it_is_used_is_named(decoder: str, photos: Path) -> None:
    assert decoder in ("dali", "pillow")
    source = open_source(str(photos), resolution=32, channels=3, device="cpu", threads=1, decoder=decoder)  # type: ignore[arg-type]
    (photos / "07.jpg").write_bytes(b"now it is text")
    (photos / "08.jpg").unlink()
    with pytest.raises(ValueError, match=r"07\.jpg: the file was changed"):
        list(source.read([[1], [2], [7]]))
    with pytest.raises(ValueError, match=r"08\.jpg: no such file"):
        list(source.read([[8]]))
    assert len(list(source.read([[1], [9]]))) == 2


@needs_dali
def test_pictures_that_dali_refuses_are_decoded_by_pillow(photos: Path) -> None:
    good = (photos / "05.jpg").read_bytes()
    after_first_segment = 4 + int.from_bytes(good[4:6], "big")
    for name in ("05.jpg", "16.jpg"):  # junk between markers: libjpeg skips it, DALI's parser gives up
        (photos / name).write_bytes(good[:after_first_segment] + b"\0\0" + good[after_first_segment:])
    index = scan_folder(photos)
    assert all(picture.plain for picture in index.pictures)
    fast = DaliSource(index, frame=Frame.of(32), channels=3, device=None, threads=2)
    slow = PillowSource(index, frame=Frame.of(32), channels=3, threads=2)
    order = [[n, (n + 1) % 20] for n in range(20)] * 2
    for seen, expected in zip(fast.read(order), slow.read(order), strict=True):
        assert (seen.int() - expected.int()).abs()[:, 1:-1, 1:-1].max() <= 1
    # A picture looks the same before and after others were refused: resuming elsewhere must give the same bits.
    fresh = DaliSource(index, frame=Frame.of(32), channels=3, device=None, threads=2)
    for number in (4, 5, 6, 16, 17):
        assert torch.equal(next(fresh.read([[number]])), next(fast.read([[number]])))


@needs_dali
@pytest.mark.parametrize("piece", [1, 4000, 20_000])
def test_batches_in_pieces_come_as_in_one(piece: int, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (photos / "05.jpg").read_bytes()
    after_first_segment = 4 + int.from_bytes(good[4:6], "big")
    (photos / "05.jpg").write_bytes(
        good[:after_first_segment] + b"\0\0" + good[after_first_segment:]
    )  # DALI refuses it
    (photos / "99.png").write_bytes(good_files()["rgba.png"])
    index = scan_folder(photos)
    batches = [list(range(21)), [3], [20, 5, 5, 0], [7, 1, 6, 5, 2, 8, 9, 4]] * 2

    def read() -> list[torch.Tensor]:
        return list(DaliSource(index, frame=Frame.of(32), channels=3, device=None, threads=2).read(batches))

    whole = read()
    monkeypatch.setattr("fastdcgan.data.decoding.dali.PIECE_LIMIT", piece)
    in_pieces = read()
    assert [len(pictures) for pictures in in_pieces] == [len(batch) for batch in batches]
    assert all(torch.equal(a, b) for a, b in zip(whole, in_pieces, strict=True))


@needs_dali
def test_a_failure_without_a_refused_picture_is_raised(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemory:
        def run(self, *_: object) -> None:
            raise RuntimeError("out of memory")

    source = DaliSource(scan_folder(photos), frame=Frame.of(32), channels=3, device=None, threads=1)
    monkeypatch.setattr(source, "_pipeline", lambda feed: feed() and OutOfMemory())
    with pytest.raises(RuntimeError, match="out of memory"):
        list(source.read([[1, 2], [3]]))


def test_open_source_says_what_decodes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(**options: object) -> ImageSource:
        chosen = {"resolution": 32, "channels": 3, "device": "cpu", "threads": 1} | options
        return open_source(str(photos), **chosen)  # type: ignore[arg-type]

    (photos / "99.png").write_bytes(good_files()["rgba.png"])
    (photos / "bad.png").write_bytes(b"")
    if dali_available():
        assert opened().description == f"21 pictures in {photos}, decoded by DALI on the CPU, 1 of them by Pillow"
        assert opened(device="mps").description.endswith("DALI on the CPU, 1 of them by Pillow")
        assert isinstance(opened(decoder="dali"), DaliSource)
        (photos.parent / "icons").mkdir()
        (photos.parent / "icons" / "0.png").write_bytes(good_files()["rgba.png"])
        icons = open_source(str(photos.parent / "icons"), resolution=32, channels=3, device="cpu", threads=1)
        assert ", decoded by Pillow (DALI would make other pixels of all of them)" in icons.description
    assert [Path(skipped.path).name for skipped in opened().skipped] == ["bad.png"]
    assert opened(decoder="pillow").description == f"21 pictures in {photos}, decoded by Pillow"
    assert opened(channels=4).description.endswith("by Pillow (it has 4 channels)")
    assert next(opened(channels=4).read([[0, 20]])).shape == (2, 32, 32, 4)
    with pytest.raises(ValueError, match="DALI decodes 1 or 3 channels"):
        opened(decoder="dali", channels=4)
    monkeypatch.setattr(module, "dali_available", lambda: False)
    faster = "DALI is faster: pip install nvidia-dali-cuda130"
    without_dali = faster if sys.platform == "linux" else "DALI is for Linux"
    assert opened().description.endswith(f"by Pillow ({without_dali})")
    with pytest.raises(ValueError, match="DALI is not installed here: pip install nvidia-dali-cuda130; or"):
        opened(decoder="dali")


def test_a_batch_may_be_numpy(source: ImageSource) -> None:
    numbers = np.array([5, 2])
    assert torch.equal(next(source.read([numbers.tolist()])), next(source.read([numbers])))  # type: ignore[list-item]
