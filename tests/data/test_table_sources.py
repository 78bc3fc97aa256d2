"""Tables that other libraries wrote are read as they wrote them; what is wrong with one is said in a line."""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import PHOTOS, encode
from PIL import Image

from fastdcgan.data.array import ArraySource
from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource
from fastdcgan.data.tables.hdf5 import NEVER_WRITTEN
from fastdcgan.storage.cache import cache_folder

LIBRARIES = ("lmdb", "h5py", "pyarrow", "datasets")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in LIBRARIES), reason=f"needs {', '.join(LIBRARIES)}"
)

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
FILES = [encode(Image.fromarray(picture), "PNG") for picture in BYTES]
LABELS = [number % 3 for number in range(12)]
CLASSES = ["cat", "dog", "e.el/x"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def source(spec: object, cache: str = "off", resolution: int = 16) -> ImageSource:
    return open_source(
        str(spec), resolution=resolution, channels=3, device="cpu", threads=2, decoder="pillow", cache=cache
    )


def everything(found: ImageSource) -> np.ndarray:
    return torch.cat(list(found.read([[3, 0, 8], [], range(len(found))]))).numpy()[3:]


def lmdb_folder(folder: Path) -> Path:
    import lmdb

    path = str(folder / "bedroom_train_lmdb")
    with lmdb.open(path, map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for number, data in enumerate(FILES):
            transaction.put(f"{number:040x}".encode(), data)
    return folder / "bedroom_train_lmdb"


def parquet(folder: Path) -> Path:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    rows = {"image": [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(FILES)], "label": LABELS}
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


def parquet_folder(folder: Path) -> Path:
    path = parquet(folder)
    data = folder / "set" / "data"
    data.mkdir(parents=True)
    path.rename(data / path.name)
    (data / "test-00000-of-00001.parquet").write_bytes((data / path.name).read_bytes())
    (folder / "set" / "README.md").write_text("a card")
    return folder / "set"


def plain_parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": list(range(12)), "jpg": FILES, "label": [f"class {n}" for n in LABELS]})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=5)
    return folder / "a.parquet"


def hdf5_encoded(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "encoded.h5", "w") as file:
        images = file.create_dataset("images", (12,), h5py.vlen_dtype(np.uint8))
        for number, data in enumerate(FILES):
            images[number] = np.frombuffer(data, np.uint8)
        file["labels"] = LABELS
    return folder / "encoded.h5"


def hdf5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("set/images", data=BYTES, chunks=(5, 16, 16, 3), compression="gzip")
        file["labels"] = LABELS
    return folder / "a.hdf5"


def image_folder(folder: Path) -> str:
    for number, data in enumerate(FILES):
        path = folder / "pictures" / CLASSES[LABELS[number]].replace("/", "-") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return f"hub:{folder / 'pictures'}"


MADE: dict[str, tuple[Callable[[Path], Path | str], list[str] | None]] = {
    "LSUN's LMDB": (lmdb_folder, None),
    "parquet": (parquet, ["cat", "dog", "e.el_x"]),
    "parquet folder": (parquet_folder, ["cat", "dog", "e.el_x"]),
    "plain parquet": (plain_parquet, ["class 0", "class 1", "class 2"]),
    "encoded HDF5": (hdf5_encoded, ["0", "1", "2"]),
    "HDF5": (hdf5, ["0", "1", "2"]),
}


@pytest.mark.parametrize("kind", MADE)
def test_pictures_and_classes_are_those_that_were_written(kind: str, tmp_path: Path) -> None:
    make, classes = MADE[kind]
    spec = make(tmp_path)
    for cache in ("off", "on", "on"):
        found = source(spec, cache)
        assert np.array_equal(everything(found), BYTES)
        assert not found.skipped
        if classes is None:
            assert found.labels is None
        else:
            assert found.labels is not None
            assert list(found.labels.classes) == classes
            assert found.labels.numbers.tolist() == LABELS
    assert found.origin == str(Path(spec).resolve())
    assert isinstance(found, ArraySource) and "packed in" in found.description
    assert len(list((cache_folder() / "tables").glob("*.tar"))) == (kind != "HDF5")


def test_hugging_faces_image_folder_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    found = source(image_folder(tmp_path))
    assert len(found) == 12
    assert found.labels is not None and found.labels.classes == ("cat", "dog", "e.el-x")
    by_class = sorted(range(12), key=lambda number: (LABELS[number], str(number)))
    assert np.array_equal(np.sort(everything(found), axis=0), np.sort(BYTES[by_class], axis=0))


def test_a_table_that_was_changed_is_read_anew_and_the_old_copy_goes(tmp_path: Path) -> None:
    path = plain_parquet(tmp_path)
    assert len(source(path)) == 12
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"image": FILES[:5]}), path)
    assert len(source(path)) == 5
    assert len(list((cache_folder() / "tables").glob("*.tar"))) == 1
    pyarrow.parquet.write_table(pyarrow.table({"image": [*FILES[:4], b"", None, b"text"]}), path)
    found = source(path)
    assert len(found) == 4
    assert [skip.reason[:12] for skip in found.skipped] == ["empty file", "empty file", "not an image"]


def test_hdf5_of_other_numbers_is_scaled(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = (BYTES.transpose(0, 3, 1, 2) / np.float32(2) - 60).astype("f4")
    for cache in ("off", "on"):
        found = source(tmp_path / "a.h5", cache)
        assert found.value_range == ValueRange(-60, 67.5)
        assert np.array_equal(everything(found), BYTES)


@pytest.mark.parametrize("labelled", [True, False])
def test_pictures_that_were_never_written_are_left_out_and_counted(labelled: bool, tmp_path: Path) -> None:
    """As where the program that wrote them was ended: HDF5 would give them as black."""
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = file.create_dataset("images", (12, 16, 16, 3), np.uint8, chunks=(2, 8, 16, 3))
        labels = file.create_dataset("labels", (12,), "i8", chunks=(2,))
        for number in (0, 1, 6, 7, 11):
            images[number] = BYTES[number]
            if labelled or number != 7:
                labels[number] = LABELS[number]
        images[2:4, :8] = 1  # half of their chunks
        images[8:10] = 0  # black, but written
        labels[8:10] = 2
        if not labelled:
            del file["labels"]
            file.create_dataset("labels", (12,), "i8", chunks=(6,))[:6] = 1
    used = [0, 1, 6, 7, 8, 9, 10, 11]  # 10 shares a chunk with 11
    wanted = np.stack([BYTES[n] if n in (0, 1, 6, 7, 11) else np.zeros_like(BYTES[0]) for n in used])
    for cache in ("off", "on"):
        found = source(tmp_path / "a.h5", cache)
        assert np.array_equal(torch.cat(list(found.read([range(8)]))).numpy(), wanted)
        (skip,) = found.skipped
        assert (skip.path, skip.count) == (f"{tmp_path}/a.h5: images, picture 2", 4)
        assert skip.reason == NEVER_WRITTEN and not skip.not_a_picture
        if labelled:
            assert found.labels is not None
            assert [found.labels.classes[number] for number in found.labels.numbers] == list("01012202")
        else:
            assert found.labels is None, "class 0 would be made up"


def test_hdf5_of_any_layout_is_known_to_be_written(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = BYTES
        other = h5py.VirtualSource(file["x"])
    layouts: dict[str, dict[str, object]] = {
        "contiguous": {},
        "chunked": {"chunks": (5, 7, 16, 2)},
        "to be extended": {"maxshape": (None, 16, 16, 3)},
        "external": {"external": [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]},
    }
    for number, (name, how) in enumerate(layouts.items()):
        path = tmp_path / f"{number}.h5"  # the last one's is still open
        with h5py.File(path, "w") as file:
            file.create_dataset("images", BYTES.shape, np.uint8, **how)[:] = BYTES
        found = source(path)
        assert np.array_equal(everything(found), BYTES) and not found.skipped, name
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layout = h5py.VirtualLayout(BYTES.shape, np.uint8)
        layout[:] = other
        file.create_virtual_dataset("images", layout)
    assert np.array_equal(everything(source(tmp_path / "a.h5")), BYTES)
    (tmp_path / "other.h5").unlink()
    with pytest.raises(ValueError, match=r"images can't be read \(a file is missing whose rows these are: "):
        source(tmp_path / "a.h5")


@pytest.mark.parametrize("chunks", [None, (4, 16, 16, 3)])
def test_hdf5_of_which_nothing_was_written_is_refused(chunks: tuple[int, ...] | None, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", BYTES.shape, np.uint8, chunks=chunks)
    with pytest.raises(ValueError, match=r"a\.h5: images: no picture; its 12 were never written$"):
        source(tmp_path / "a.h5")


def no_pictures(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": [1], "b": ["x"]}), folder / "a.parquet")
    return folder / "a.parquet"


def no_dataset(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file["a"] = [1, 2]
    return folder / "a.h5"


def written(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a parquet without pictures": (no_pictures, r"no column of pictures' bytes.*; it has a \(int64\), b \(string\)"),
    "an HDF5 without pictures": (no_dataset, r"no dataset of pictures; there are a \(int64, \(2,\)\)"),
    "no parquet": (written("a.parquet", b"text"), "damaged, or no parquet"),
    "no HDF5": (written("a.h5", b"text"), "damaged, or not HDF5"),
    "no LMDB": (written("a.mdb", b"text" * 5000), "damaged, or of another kind"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_in_one_line(what: str, tmp_path: Path) -> None:
    make, words = WRONG[what]
    with pytest.raises(ValueError, match=words) as raised:
        source(make(tmp_path))
    assert "\n" not in str(raised.value)


def test_what_is_not_there_by_name_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a test asks no network
    with pytest.raises(ValueError, match=r"^hub:nobody/nothing: datasets can't load it \([^\n]+\)$"):
        source("hub:nobody/nothing")


@pytest.mark.parametrize(
    ("module", "extra", "make"),
    [
        ("lmdb", "lmdb", lmdb_folder),
        ("pyarrow", "parquet", plain_parquet),
        ("h5py", "hdf5", hdf5),
        ("datasets", "hub", image_folder),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_command(
    module: str, extra: str, make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else real(name))
    with pytest.raises(ValueError, match=rf"needs {module}: pip install 'fastdcgan\[{extra}\]'$"):
        source(spec)


def test_photographs_are_not_made_anew(tmp_path: Path) -> None:
    """The bytes are copied as they are: a JPEG loses nothing."""
    import pyarrow
    import pyarrow.parquet

    jpeg = encode(PHOTOS[0].resize((40, 30)), "JPEG")
    pyarrow.parquet.write_table(pyarrow.table({"image": [jpeg]}), tmp_path / "a.parquet")
    found = source(tmp_path / "a.parquet", resolution=30)
    with Image.open(io.BytesIO(jpeg)) as picture:
        expected = np.asarray(picture)[:, 5:35]
    assert np.array_equal(next(found.read([[0]])).numpy()[0], expected)
