import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from fastdcgan.data.datasets import celeba as module
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource

COUNT = 6


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (22, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=95)
    return buffer.getvalue()


JPEGS = {f"{number:06d}.jpg": jpeg(number) for number in range(1, COUNT + 1)}


def zipped(files: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as archive:
        archive.mkdir("img_align_celeba")
        for name, data in (JPEGS if files is None else files).items():
            archive.writestr(f"img_align_celeba/{name}", data)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """celeba/ in a cache of its own, for a CelebA of few pictures that can't be downloaded."""

    def offline(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.utils, "download_file_from_google_drive", offline)
    monkeypatch.setattr(module, "PICTURES", COUNT)
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path))
    (tmp_path / "celeba").mkdir()
    return tmp_path / "celeba"


def opened(cache: str = "off", progress: list[tuple[str, int, int]] | None = None) -> ImageSource:
    def on_progress(what: str, done: int, total: int) -> None:
        if progress is not None:
            progress.append((what, done, total))

    return open_source(
        "celeba",
        resolution=16,
        channels=3,
        device="cpu",
        threads=1,
        decoder="pillow",
        cache=cache,
        on_progress=on_progress,
    )


def complaint() -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
        opened()
    return str(raised.value)


def everything(source: ImageSource) -> torch.Tensor:
    return torch.cat(list(source.read([range(COUNT)])))


def put_pictures(folder: Path) -> None:
    (folder / "img_align_celeba").mkdir()
    for name, data in JPEGS.items():
        (folder / "img_align_celeba" / name).write_bytes(data)


def test_an_unpacked_set_is_scanned_as_a_folder(folder: Path) -> None:
    put_pictures(folder)
    source = opened()
    assert len(source) == COUNT
    assert source.origin == str(folder / "img_align_celeba")
    expected = open_source(
        source.origin, resolution=16, channels=3, device="cpu", threads=1, decoder="pillow", cache="off"
    )
    assert torch.equal(everything(source), everything(expected))
    assert torch.equal(everything(opened(cache="on")), everything(expected))


def test_an_archive_is_unpacked_once(folder: Path) -> None:
    (folder / "img_align_celeba.zip").write_bytes(zipped(method=zipfile.ZIP_DEFLATED))
    progress: list[tuple[str, int, int]] = []
    assert len(opened(progress=progress)) == COUNT
    assert [report for report in progress if report[0] == "unpacking celeba"] == [
        ("unpacking celeba", done, COUNT) for done in range(1, COUNT + 1)
    ]
    assert {path.name: path.read_bytes() for path in (folder / "img_align_celeba").iterdir()} == JPEGS
    assert (folder / "img_align_celeba.zip").exists(), "what the user put there is the user's"
    (folder / "img_align_celeba.zip").write_bytes(b"")
    assert len(opened()) == COUNT


def test_only_regular_pictures_are_unpacked_and_only_into_the_folder(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for (name, data), prefix in zip(JPEGS.items(), ["", "../../", "/", "a/b/", "C:/", "./"], strict=True):
            archive.writestr(prefix + name, data)
        link = zipfile.ZipInfo("000099.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        for name in ("readme.txt", "__MACOSX/._000001.jpg", "x.jpg", "..\\000098.jpg", "000097.jpg/"):
            archive.writestr(name, b"")
    opened()
    assert sorted(path.name for path in (folder / "img_align_celeba").iterdir()) == sorted(JPEGS)
    assert not list(tmp_path.glob("*.jpg"))


def damaged(data: bytes) -> bytes:
    place = data.index(JPEGS["000004.jpg"])
    return data[: place + 30] + bytes(30) + data[place + 60 :]


def encrypted(data: bytes) -> bytes:
    return data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")


BAD = {
    "empty": (b"", "damaged or cut off; remove it to have it downloaded again"),
    "html": (b"<html>Google Drive: quota exceeded</html>", "damaged or cut off"),
    "cut": (zipped()[:-50], "damaged or cut off"),
    "a picture is damaged": (damaged(zipped()), "damaged or cut off"),
    "encrypted": (encrypted(zipped()), "damaged or cut off"),
    "fewer pictures": (zipped({"000001.jpg": b"x"}), f"only 1 of CelebA's {COUNT} pictures are in it"),
    "compressed otherwise": (zipped(method=zipfile.ZIP_LZMA), f"only 0 of CelebA's {COUNT} pictures are in it"),
    "a large one": (zipped({**JPEGS, "000004.jpg": bytes(5000)}, zipfile.ZIP_DEFLATED), "unpacks to more than"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_named_and_leaves_nothing(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PICTURE_BYTES", 4000)
    data, words = BAD[name]
    (folder / "img_align_celeba.zip").write_bytes(data)
    message = complaint()
    assert message.startswith(f"{folder}/img_align_celeba.zip: ")
    assert words in message
    assert not list(folder.glob("img_align_celeba*/"))


def test_all_pictures_together_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", sum(map(len, JPEGS.values())) - 1)
    (folder / "img_align_celeba.zip").write_bytes(zipped())
    assert "unpacks to more than CelebA has" in complaint()


def test_what_a_killed_process_left_is_not_taken_for_the_set(folder: Path) -> None:
    (folder / "img_align_celeba.zip").write_bytes(zipped())
    (folder / "img_align_celeba.unfinished").mkdir()
    (folder / "img_align_celeba.unfinished" / "000077.jpg").write_bytes(jpeg(77))
    assert len(opened()) == COUNT
    assert len(list((folder / "img_align_celeba").iterdir())) == COUNT


def test_a_part_of_the_set_is_not_taken_for_it(folder: Path) -> None:
    put_pictures(folder)
    (folder / "img_align_celeba" / "000003.jpg").unlink()
    assert f"only 5 of CelebA's {COUNT} pictures are in {folder}/img_align_celeba; " in complaint()


class TestDownload:
    def test_happens_once_and_fetches_only_the_pictures(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def download(number: str, root: str, filename: str, md5: str) -> None:
            asked.append((number, md5, filename))
            (Path(root) / filename).write_bytes(zipped())

        monkeypatch.setattr(torchvision.datasets.utils, "download_file_from_google_drive", download)
        for _ in range(2):
            assert len(opened()) == COUNT
        assert asked == [torchvision.datasets.CelebA.file_list[0]]
        left = {path.name for path in folder.iterdir()} - {"img_align_celeba.lock"}
        assert left == {"img_align_celeba"}, "the archive is not needed any more"

    class RefusedError(Exception):
        """As gdown raises."""

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (
                RuntimeError("You can install it with 'pip install gdown'."),
                "You can install it with 'pip install gdown'",
            ),
            (OSError("no network"), "no network"),
            (TimeoutError(), "TimeoutError"),
            (RefusedError("Too many users\n\n\thave viewed this file"), "Too many users have viewed this file"),
        ],
    )
    def test_failing_says_what_to_put_where(
        self, error: Exception, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(number: str, root: str, filename: str, md5: str) -> None:
            (Path(root) / filename).write_bytes(b"half")
            raise error

        monkeypatch.setattr(module, "_download_errors", lambda: (self.RefusedError,))
        monkeypatch.setattr(torchvision.datasets.utils, "download_file_from_google_drive", fail)
        assert complaint() == (
            f"CelebA could not be downloaded ({words}); put img_align_celeba.zip, or the folder img_align_celeba with "
            f"its pictures, into {folder}"
        )
        assert {path.name for path in folder.iterdir()} <= {"img_align_celeba.lock"}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^no such folder: celebA-HQ; named sets are faces, celeba, cifar10, fash"):
        open_source("celebA-HQ", resolution=16, channels=3, device="cpu", threads=1)
