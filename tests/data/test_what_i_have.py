"""Each row of the table at the top of docs/data.md: what somebody has, and what they type."""

import gzip
import json
import re
import shlex
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corpus import PHOTOS, encode, heif, heif_available, with_alpha
from PIL import Image
from tables import needed, write_hdf5, write_lmdb, write_parquet

from fastdcgan import cli
from fastdcgan.config import TrainConfig
from fastdcgan.data.datasets import celeba, cifar10
from fastdcgan.data.faces import dataset as faces
from fastdcgan.storage.cache import cache_folder
from fastdcgan.training import setup, trainer

TABLE = Path(__file__).parents[2] / "docs" / "data.md"
ROWS = dict(re.findall(r"^\| (.+) \| `(fastdcgan train.*)` \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE))

COUNT = 8
PICTURES = [PHOTOS[n % 2].resize((80 + n, 60), box=(n, n, n + 300, n + 300)) for n in range(COUNT)]


def pictures(folder: Path, form: str, suffix: str, change: Callable[[Image.Image], Image.Image] | None = None) -> None:
    folder.mkdir()
    for number, picture in enumerate(PICTURES):
        (folder / f"{number}{suffix}").write_bytes(encode(change(picture) if change else picture, form))


def photos(here: Path) -> None:
    for number, picture in enumerate(PICTURES * 2):
        (here / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (here / "photos" / "ab"[number % 2] / f"{number}.jpg").write_bytes(encode(picture, "JPEG"))


def scans(here: Path) -> None:
    grey = [np.asarray(picture.convert("L")).astype(np.uint16) * 257 for picture in PICTURES]
    (here / "scans").mkdir()
    for number, levels in enumerate(grey):
        form, suffix = (("TIFF", ".tif"), ("PPM", ".pgm"), ("JPEG2000", ".jp2"))[number % 3]
        (here / "scans" / f"{number}{suffix}").write_bytes(encode(Image.fromarray(levels), form))


def telephone(here: Path) -> None:
    if not heif_available():
        pytest.skip("pillow-heif is not installed")
    (here / "telephone").mkdir()
    for number, picture in enumerate(PICTURES):
        (here / "telephone" / f"IMG.{number}.HEIC").write_bytes(heif(picture))


def zipped(here: Path) -> None:
    with zipfile.ZipFile(here / "photos.zip", "w") as archive:
        labels = []
        for number, picture in enumerate(PICTURES):
            archive.writestr(f"00000/img{number:08d}.png", encode(picture, "PNG"))
            labels.append([f"00000/img{number:08d}.png", number % 2])
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def shards(here: Path) -> None:
    pictures(here / "loose", "JPEG", ".jpg")
    (here / "shards").mkdir()
    for shard in range(3):
        with tarfile.open(here / "shards" / f"train-{shard:03d}.tar", "w") as tar:
            for number in range(shard, COUNT, 3):
                tar.add(here / "loose" / f"{number}.jpg", f"{number}.jpg")


def spectrograms(here: Path) -> None:
    np.save(here / "spectrograms.npy", np.random.default_rng(0).uniform(-40, 40, (COUNT, 50, 70)).astype("f4"))


def recordings(here: Path) -> None:
    spectrograms(here)
    (here / "recordings").mkdir()
    for number, recording in enumerate(np.load(here / "spectrograms.npy")):
        np.save(here / "recordings" / f"{number}.npy", recording)


def bedrooms(here: Path) -> None:
    write_lmdb(here / "bedroom_train_lmdb", [encode(picture, "WEBP") for picture in PICTURES])


def hdf5(here: Path) -> None:
    write_hdf5(here / "pictures.h5", np.stack([np.asarray(picture.resize((64, 64))) for picture in PICTURES]))


def downloaded(here: Path) -> None:
    (here / "downloaded").mkdir()
    write_parquet(here / "downloaded" / "train.parquet", [encode(picture, "PNG") for picture in PICTURES])


def on_the_hub(here: Path) -> None:
    """`datasets` takes a folder for a name, too: no network is needed."""
    needed("datasets")
    (here / "OWNER").mkdir()
    pictures(here / "OWNER" / "NAME", "PNG", ".png")


def unpacked_cifar10(here: Path) -> None:
    folder = cache_folder() / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number in range(5):
        rows = np.zeros((COUNT, 3073), np.uint8)
        rows[:, 0], rows[:, 1:] = np.arange(COUNT), np.arange(COUNT)[:, None]
        (folder / f"data_batch_{number + 1}.bin").write_bytes(rows.tobytes())


def idx_files(here: Path) -> None:
    raw = cache_folder() / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    header = struct.pack(">IIII", 0x803, COUNT, 28, 28)
    pixels = b"".join(bytes([number]) * 784 for number in range(COUNT))
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels))


def celebrities(here: Path) -> None:
    folder = cache_folder() / "celeba"
    folder.mkdir(parents=True)
    pictures(folder / "img_align_celeba", "JPEG", ".jpg")


MAKE: dict[str, Callable[[Path], None]] = {
    "faces": lambda here: None,
    "photos": photos,
    "scans": scans,
    "telephone": telephone,
    "sprites": lambda here: pictures(here / "sprites", "PNG", ".png", with_alpha),
    "portraits": lambda here: pictures(here / "portraits", "AVIF", ".avif"),
    "photos.zip": zipped,
    "shards/train-{000..002}.tar": shards,
    "spectrograms.npy": spectrograms,
    "recordings": recordings,
    "bedroom_train_lmdb": bedrooms,
    "pictures.h5": hdf5,
    "downloaded": downloaded,
    "hub:OWNER/NAME": on_the_hub,
    "cifar10": unpacked_cifar10,
    "fashion-mnist": idx_files,
    "celeba": celebrities,
}
"""By what `--data` is given: somebody who has it, in this folder or the cache."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in; sets of fixed sizes are small ones."""
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(cifar10, "PER_BATCH", COUNT)
    monkeypatch.setattr(celeba, "PICTURES", COUNT)
    monkeypatch.setattr(faces, "faces_folder", partial(faces.faces_folder, COUNT))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def typed(row: str) -> list[str]:
    return shlex.split(ROWS[row])[1:]


def data_of(arguments: list[str]) -> str:
    return arguments[arguments.index("--data") + 1] if "--data" in arguments else "faces"


def test_somebody_has_each() -> None:
    assert len(ROWS) >= 19
    assert {data_of(typed(row)) for row in ROWS} == MAKE.keys()


@pytest.mark.parametrize("row", ROWS)
def test_what_is_typed_opens_it(row: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKE[data_of(typed(row))](here)
    asked: list[TrainConfig] = []
    monkeypatch.setattr(trainer, "train", asked.append)
    cli.main(typed(row))
    config = asked[0].resolved()
    monkeypatch.setattr(setup, "local_main_process_first", lambda accelerator: nullcontext())
    monkeypatch.setattr(setup, "check_same_pictures", lambda accelerator, source: None)
    nobody = SimpleNamespace(device=torch.device("cpu"))
    quiet = SimpleNamespace(advance=lambda what, done, total: None)
    arch = config.model.architecture()
    source = setup.open_data(config, arch, nobody, quiet)  # type: ignore[arg-type]
    assert len(source) in (COUNT, 2 * COUNT, 5 * COUNT)
    (pictures_BHWC,) = source.read([range(len(source))])
    assert pictures_BHWC.shape == (len(source), *arch.resolution, arch.channels)
    assert len({picture.numpy().tobytes() for picture in pictures_BHWC}) == COUNT, "each is another picture"


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_what_is_typed_trains(row: str, here: Path) -> None:
    MAKE[data_of(typed(row))](here)
    small = ["--width", "4", "--batch-size", "4", "--images", "8", "--threads", "1", "--plan", "default", "--quiet"]
    cli.main([*typed(row), *small, "--out", "run"])
    assert json.loads((here / "run" / "config.json").read_text())["conditions"]["pictures"] >= COUNT
    assert (here / "run" / "report.html").exists()
