import gzip
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from fastdcgan.data.array import ArraySource
from fastdcgan.data.datasets import cifar10 as module
from fastdcgan.data.datasets.cifar10 import holds_cifar10, open_cifar10
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource

PER_BATCH = 4
PICTURES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
PLANES = np.ascontiguousarray(PICTURES.transpose(0, 3, 1, 2)).reshape(5, PER_BATCH, 3072)


@pytest.fixture(autouse=True)
def small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_BATCH", PER_BATCH)
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def python2_pickle(planes: np.ndarray, dtype: str = "u1", order: str = "I00\n") -> bytes:
    """Opcode by opcode as Python 2 wrote the published batches: there bytes are text, and NumPy has its old names."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    count, length = planes.shape
    pixels = planes.tobytes()
    state = b"(K\x01" + f"(I{count}\nI{length}\nt".encode()
    state += b"cnumpy\ndtype\n(" + text(dtype) + b"K\x00K\x01tR(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xff"
    state += b"J\xff\xff\xff\xffK\x00tb" + order.encode() + b"T" + struct.pack("<I", len(pixels)) + pixels + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text("b") + b"tR" + state + b"b"
    return b"\x80\x02}(" + text("labels") + b"](K\x01K\x02e" + text("data") + array + b"u."


def python3_pickle(planes: np.ndarray) -> bytes:
    return pickle.dumps({"labels": [9] * len(planes), "data": planes}, protocol=4)


def binary(planes: np.ndarray) -> bytes:
    return np.concatenate([np.full((len(planes), 1), 9, np.uint8), planes], axis=1).tobytes()


def tar_gz(files: dict[str, bytes]) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as archive:
        for name, data in files.items():
            (info := tarfile.TarInfo(name)).size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def batches(folder: str = "cifar-10-batches-py", **changed: bytes | None) -> dict[str, bytes]:
    encode, ending = (python2_pickle, "") if folder.endswith("py") else (binary, ".bin")
    files: dict[str, bytes | None] = {f"data_batch_{n + 1}": encode(planes) for n, planes in enumerate(PLANES)}
    files["test_batch"] = b"never read"
    files |= changed
    return {f"{folder}/{name}{ending}": data for name, data in files.items() if data is not None}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def opened(folder: Path | str, resolution: int = 32, cache: str = "off") -> ImageSource:
    return open_source(str(folder), resolution=resolution, channels=3, device="cpu", threads=1, cache=cache)


def everything(source: ImageSource) -> torch.Tensor:
    return torch.cat(list(source.read([range(20)])))


FORMS: dict[str, dict[str, bytes]] = {
    "python folder": batches(),
    "python folder, rewritten": batches(**{f"data_batch_{n + 1}": python3_pickle(PLANES[n]) for n in range(5)}),
    "python archive": {"cifar-10-python.tar.gz": tar_gz(batches())},
    "binary folder": batches("cifar-10-batches-bin"),
    "binary archive": {"cifar-10-binary.tar.gz": tar_gz(batches("cifar-10-batches-bin"))},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_layout_is_recognised_and_gives_the_same(form: str, tmp_path: Path) -> None:
    assert not holds_cifar10(tmp_path)
    source = opened(write(tmp_path, FORMS[form]), cache="on")
    assert isinstance(source, ArraySource)
    assert torch.equal(everything(source), torch.from_numpy(PICTURES))
    assert source.description.startswith("20 pictures of 32x32 from ")
    if form in ("python folder", "python archive"):  # two labels for four pictures
        assert source.labels is None
    else:
        assert source.labels is not None
        assert (source.labels.classes, source.labels.counts()) == (("truck",), [20])
    assert source.origin.startswith(str(tmp_path))
    if "folder" in form:
        inner = opened(tmp_path / next(iter(FORMS[form])).split("/")[0])
        assert torch.equal(everything(inner), torch.from_numpy(PICTURES))


def test_an_array_in_fortrans_order_is_understood(tmp_path: Path) -> None:
    columns = PLANES[0].reshape(PER_BATCH, 3072).T.reshape(PER_BATCH, 3072)  # the bytes as they lie in that order
    files = batches(data_batch_1=python2_pickle(columns, order="I01\n"))
    assert torch.equal(everything(opened(write(tmp_path, files))), torch.from_numpy(PICTURES))


def test_other_sizes_are_packed_and_read_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path, FORMS["python archive"])
    streaming, packed = opened(folder, 16), opened(folder, 16, cache="on")
    assert isinstance(packed, ArraySource) and not isinstance(streaming, ArraySource)
    assert torch.equal(everything(streaming), everything(packed))


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, ("this-must-not-run",)


GOOD = python2_pickle(PLANES[2])
BAD_BATCHES: dict[str, bytes] = {
    "runs a program": pickle.dumps(Evil()),
    "runs a program, by an old opcode": b"(S'touch this-must-not-run'\nios\nsystem\n.",
    "runs a program within": pickle.dumps({"data": Evil()}),
    "asks for eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "asks for more of numpy": b"cnumpy\nload\n(S'x'\ntR.",
    "another name\nof two lines": pickle.dumps(Evil()).replace(b"posix", b"a\nb\tc"),
    "empty": b"",
    "cut": GOOD[:-2000],
    "cut early": GOOD[:20],
    "html": b"<html>404</html>",
    "a list": pickle.dumps([1]),
    "no data": pickle.dumps({"labels": []}),
    "data of another kind": pickle.dumps({"data": b"abc"}),
    "floats": python2_pickle(PLANES[2], dtype="f8"),
    "other pictures": python2_pickle(PLANES[2][:, :3000]),
    "fewer pictures": python2_pickle(PLANES[2][:3]),
    "too few bytes": GOOD.replace(b"I3072\n", b"I3073\n"),
    "calls what is no class": b"\x80\x02cnumpy\nndarray\n(K\x01K\x02tb.",
}


@pytest.mark.parametrize("name", BAD_BATCHES)
@pytest.mark.parametrize("archived", [False, True])
def test_bad_batches_are_named_and_never_run(
    name: str, archived: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = batches(data_batch_3=BAD_BATCHES[name])
    folder = write(tmp_path, {"cifar-10-python.tar.gz": tar_gz(files)} if archived else files)
    with pytest.raises(ValueError, match=r"^[^\n]*data_batch_3: damaged[^\n]*$") as raised:
        opened(folder)
    if "asks for" in name or "runs" in name:
        assert "it asks for" in str(raised.value)
    assert not Path("this-must-not-run").exists()


def sparse(size: int) -> bytes:
    """A .tar.gz that announces more than it holds."""
    (info := tarfile.TarInfo("cifar-10-batches-py/data_batch_1")).size = size
    return gzip.compress(info.tobuf() + bytes(1024))


GOOD_ARCHIVE = FORMS["python archive"]["cifar-10-python.tar.gz"]
LINK = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
BAD_ARCHIVES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "damaged"),
    "html": (b"<html>404</html>", "damaged or cut off"),
    "cut": (GOOD_ARCHIVE[:-300], "damaged or cut off"),
    "without its end": (GOOD_ARCHIVE[:-4], "damaged or cut off"),
    "wrong checksum": (GOOD_ARCHIVE[:-8] + bytes(8), "damaged or cut off"),
    "no tar": (gzip.compress(b"abc" * 999), "damaged, or not a .tar.gz"),
    "announces more": (sparse(2**33), "damaged, or not a .tar.gz"),
    "bomb": (gzip.compress(bytes(2**20 + 1)), "unpacks to more than CIFAR-10 has"),
    "lacks one": (tar_gz(batches(data_batch_4=None)), "it holds no cifar-10-batches-py/data_batch_4"),
    "links": (gzip.compress(LINK.tobuf() + bytes(1024)), "it holds no cifar-10-batches-py/data_batch_1"),
    "large": (tar_gz(batches(data_batch_1=bytes(200_000))), "data_batch_1 is larger than any batch of CIFAR-10"),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_bad_archives_are_told_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ARCHIVE", 2**20)
    monkeypatch.setattr(module, "MAX_BATCH", 100_000)
    data, words = BAD_ARCHIVES[name]
    folder = write(tmp_path, {"cifar-10-python.tar.gz": data})
    with pytest.raises(ValueError, match=r"^[^\n]*cifar-10-python\.tar\.gz: [^\n]*$") as raised:
        opened(folder)
    assert words in str(raised.value)


def test_bad_folders_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(name: str, **changed: bytes | None) -> str:
        with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
            opened(write(tmp_path / name, batches("cifar-10-batches-bin", **changed)))
        return str(raised.value)

    assert complaint("missing", data_batch_4=None).endswith("data_batch_4.bin: no such file or directory")
    assert "data_batch_2.bin: damaged" in complaint("cut", data_batch_2=binary(PLANES[1])[:-1])
    assert "10 classes only" in complaint("shifted", data_batch_2=b"\xff" * 4 * 3073)
    monkeypatch.setattr(module, "MAX_BATCH", 4 * 3073)
    assert "data_batch_5.bin: larger than any batch" in complaint("long", data_batch_5=bytes(5 * 3073))
    (tmp_path / "pipe" / "cifar-10-batches-bin").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe" / "cifar-10-batches-bin" / "data_batch_1.bin")
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: not a file$"):
        opened(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^no cifar-10-python\.tar\.gz and no cifar-10-batches-py in "):
        open_cifar10(tmp_path, frame=Frame.of(32), channels=3, threads=1)


class TestDownload:
    def test_happens_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def download(url: str, root: str, filename: str, md5: str) -> None:
            asked.append((url, md5))
            (Path(root) / filename).write_bytes(GOOD_ARCHIVE)

        monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
        for _ in range(2):
            assert torch.equal(everything(opened("cifar10")), torch.from_numpy(PICTURES))
        published = torchvision.datasets.CIFAR10
        assert asked == [(published.url, published.tgz_md5)]
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar-10-python.tar.gz"]

    @pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), OSError(), IncompleteRead(b"")])
    def test_failing_says_what_to_put_where(
        self, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(url: str, root: str, filename: str, md5: str) -> None:
            (Path(root) / filename).write_bytes(b"half")
            raise error

        monkeypatch.setattr(torchvision.datasets.utils, "download_url", fail)
        with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
            opened("cifar10")
        assert f"put cifar-10-python.tar.gz into {tmp_path}/cache, or name" in str(raised.value)
        assert not list((tmp_path / "cache").iterdir())
