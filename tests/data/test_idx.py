import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from fastdcgan.data.datasets import idx as idx_module
from fastdcgan.data.datasets.idx import holds_idx, open_fashion_mnist, read_idx_images
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.open import open_source

PICTURES = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)


def idx(pictures: np.ndarray = PICTURES, magic: int = 0x803) -> bytes:
    return struct.pack(">IIII", magic, *pictures.shape[:3]) + pictures.tobytes()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_reads_what_was_written(compress: object, tmp_path: Path) -> None:
    assert callable(compress)
    read = read_idx_images(write(tmp_path / "file", compress(idx())))
    assert read.dtype == np.uint8
    assert np.array_equal(read, PICTURES)


BAD = {
    "not gzip, not idx": b"<html>404</html> and more text",
    "too short": idx()[:10],
    "empty": b"",
    "labels": gzip.compress(struct.pack(">II", 0x801, 7) + bytes(20)),
    "cut": idx()[:-1],
    "too long": idx() + b"\0",
    "gzip cut": gzip.compress(idx())[:-300],
    "gzip without its end": gzip.compress(idx())[:-4],
    "gzip damaged": gzip.compress(idx())[:60] + bytes(40) + gzip.compress(idx())[100:],
    "wrong checksum": gzip.compress(idx())[:-8] + bytes(8),
    "asks for much": gzip.compress(struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "bomb": gzip.compress(struct.pack(">IIII", 0x803, 60000, 28, 28) + bytes(60000 * 28 * 28 + 5_000_000)),
    "none": idx(PICTURES[:0]),
}


@pytest.mark.parametrize("name", BAD)
def test_damage_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*file: (not an idx file|damaged)[^\n]*$"):
        read_idx_images(write(tmp_path / "file", BAD[name]))


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing: no such file"):
        read_idx_images(tmp_path / "missing")


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw", "raw"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_folder_of_idx_files_is_recognised(place: str, ending: str, tmp_path: Path) -> None:
    assert not holds_idx(tmp_path)
    data = gzip.compress(idx()) if ending else idx()
    write(tmp_path / place / f"train-images-idx3-ubyte{ending}", data)
    assert holds_idx(tmp_path)
    source = open_source(str(tmp_path), resolution=28, channels=1, device="cpu", threads=1)
    assert len(source) == 7
    assert source.description.startswith("7 pictures of 28x28 from ")
    assert torch.equal(next(source.read([[3, 0]])), torch.from_numpy(PICTURES[[3, 0]]))
    rgb = next(open_fashion_mnist(tmp_path, frame=Frame.of(32), channels=3, threads=1).read([[1]]))
    assert rgb.shape == (1, 32, 32, 3)


def test_a_folder_without_idx_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no train-images-idx3-ubyte\.gz in .*$"):
        open_fashion_mnist(tmp_path, frame=Frame.of(28), channels=1, threads=1)


class TestDownload:
    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path))
        self.cache = tmp_path

    def test_happens_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        downloads = []

        def download(root: str, download: bool) -> None:
            assert download
            downloads.append(root)
            print("Downloading...")
            raw = Path(root) / "FashionMNIST" / "raw"
            write(raw / "train-images-idx3-ubyte.gz", gzip.compress(idx()))
            write(raw / "train-labels-idx1-ubyte.gz", gzip.compress(struct.pack(">II", 0x801, 7) + bytes(range(7))))

        monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
        for _ in range(2):
            source = open_source("fashion-mnist", resolution=28, channels=1, device="cpu", threads=1)
            assert len(source) == 7
            assert source.labels is not None
            assert source.labels.classes[6] == "shirt"
        assert len(downloads) == 1
        assert [path.name for path in self.cache.iterdir()] == ["FashionMNIST"]

    @pytest.mark.parametrize("error", [RuntimeError("Error downloading"), OSError("no route"), TimeoutError()])
    def test_failing_says_what_to_put_where(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(root: str, download: bool) -> None:
            write(Path(root) / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz", b"half")
            raise error

        monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
        with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
            open_fashion_mnist(None, frame=Frame.of(28), channels=1, threads=1)
        assert f"put train-images-idx3-ubyte.gz into {self.cache}/FashionMNIST/raw" in str(raised.value)
        assert not holds_idx(self.cache)


def test_the_bound_comes_before_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx_module, "MAX_BYTES", PICTURES.size - 1)
    with pytest.raises(ValueError, match="its header speaks of 7 pictures of 28x28"):
        read_idx_images(write(tmp_path / "file", idx()))
