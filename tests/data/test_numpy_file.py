import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdcgan.data import numpy_file
from fastdcgan.data.array import ArraySource, ResizedSource
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (9, 16, 16), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def npy(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def header(shape: object, descr: object = "|u1", fortran_order: object = False) -> bytes:
    text = repr({"descr": descr, "fortran_order": fortran_order, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def opened(path: Path, resolution: int = 16, channels: int = 3, cache: str = "off") -> ImageSource:
    return open_source(str(path), resolution=resolution, channels=channels, device="cpu", threads=2, cache=cache)


def everything(source: ImageSource) -> torch.Tensor:
    return torch.cat(list(source.read([[3, 0, 8], [], range(9)])))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["faces.npy", "faces.npz", "FACES.NPY", "packed.npz"])
@pytest.mark.parametrize(
    ("stored", "channels", "axes"),
    [
        (COLOUR, 3, "N, H, W, C"),
        (COLOUR.transpose(0, 3, 1, 2).copy(), 3, "N, C, H, W"),
        (GREY, 1, "N, H, W"),
        (GREY[..., None], 1, "N, H, W, C"),
        (GREY[:, None], 1, "N, C, H, W"),
    ],
    ids=["NHWC", "NCHW", "NHW", "NHW1", "N1HW"],
)
def test_pictures_of_the_right_size_are_not_changed(
    stored: np.ndarray, channels: int, axes: str, name: str, tmp_path: Path
) -> None:
    data = npy(stored) if name.lower().endswith("npy") else npz(faces=npy(stored))
    if name == "packed.npz":
        data = npz(zipfile.ZIP_DEFLATED, faces=npy(stored))
    source = opened(write(tmp_path / name, data), channels=channels, cache="on")
    truth = COLOUR if channels == 3 else GREY[..., None]
    assert torch.equal(everything(source), torch.from_numpy(truth[[3, 0, 8, *range(9)]]))
    assert source.description.startswith("9 pictures of 16x16 from ")
    assert f"with axes [{axes}]" in source.description
    assert source.origin == str(tmp_path / name)
    assert isinstance(source, ArraySource)
    assert not (tmp_path / "cache").exists(), "what is as it should be is not packed"


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "sparse.npy"
    start = header((2**20, 64, 64, 3))
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 2**20 * 64 * 64 * 3)
    (batch,) = opened(path, 64).read([[2**20 - 1, 0]])
    assert batch.shape == (2, 64, 64, 3)


@pytest.mark.parametrize(("resolution", "channels"), [(8, 3), (16, 1), (24, 4)])
def test_other_sizes_are_packed_and_read_the_same(resolution: int, channels: int, tmp_path: Path) -> None:
    path = write(tmp_path / "faces.npy", npy(COLOUR.transpose(0, 3, 1, 2).copy()))
    streaming = opened(path, resolution, channels)
    assert isinstance(streaming, ResizedSource)
    for _ in range(2):
        packed = opened(path, resolution, channels, cache="on")
        assert isinstance(packed, ArraySource)
        assert torch.equal(everything(packed), everything(streaming))
    assert packed.fingerprint == streaming.fingerprint
    (pack,) = (tmp_path / "cache" / "packs").glob("*.npy")
    assert torch.equal(everything(opened(pack, resolution, channels)), everything(packed)), "a pack is such a file"


def test_a_changed_file_is_noticed_without_reading_it(tmp_path: Path) -> None:
    path = write(tmp_path / "faces.npy", npy(COLOUR))
    before = opened(path).fingerprint
    assert opened(path).fingerprint == before
    os.utime(path, ns=(0, 1))
    assert opened(path).fingerprint != before


PICTURES, OTHERS = npy(COLOUR), npy(GREY[:4])


@pytest.mark.parametrize("name", ["images", "X", "x_train", "train_images", "arr_0"])
def test_the_array_that_is_meant_is_found(name: str, tmp_path: Path) -> None:
    labels = {"labels": npy(np.arange(9)), "flags": npy(np.zeros((9, 2), np.uint8))}
    alone = opened(write(tmp_path / "a.npz", npz(faces=PICTURES, **labels)))
    among = opened(write(tmp_path / "b.npz", npz(x_test=OTHERS, **labels, **{name: PICTURES})))
    assert torch.equal(everything(alone), everything(among))
    assert f"from {name!r} of {tmp_path}/b.npz, in memory" in among.description


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/this-must-not-run",)


def objects() -> bytes:
    np.save(buffer := io.BytesIO(), np.array([Evil(), 1], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def lying(data: bytes) -> bytes:
    """A .npz whose table of contents says that the member has a gigabyte more."""
    place = data.rindex(b"PK\x01\x02")
    (size,) = struct.unpack_from("<I", data, place + 24)
    return data[: place + 24] + struct.pack("<I", size + 2**30) + data[place + 28 :]


BAD = {
    "complex.npy": (npy(COLOUR * 1j), r"pictures must be of numbers, these are complex128"),
    "text.npy": (npy(np.full((9, 16, 16), "a")), r"these are <U1"),
    "one value.npy": (npy(np.full((9, 16, 16), 0.5)), r"every value is 0\.5, so all pictures are of one colour"),
    "no value.npy": (npy(np.full((9, 16, 16), np.nan)), r"none of its values is a finite number"),
    "records.npy": (npy(np.zeros(3, [("a\nb", "u1"), ("b", "u1")])), r"these are records"),
    "objects.npy": (objects(), r"these are Python objects; .*numpy\.stack"),
    "objects.npz": (npz(faces=objects()), r"these are Python objects"),
    "pickle.npy": (pickle.dumps(Evil()), r"damaged, or not a \.npy file"),
    "flat.npy": (npy(COLOUR.reshape(9, -1)), r"this is 9x768$"),
    "number.npy": (npy(np.uint8(7)), r"this is a single number$"),
    "one.npy": (npy(COLOUR[0]), r"this is 16x16x3; is it a single picture\?$"),
    "two.npy": (npy(COLOUR[..., :2]), r"this is 9x16x16x2$"),
    "none.npy": (npy(COLOUR[:0]), r"the array is empty \(0x16x16x3\)"),
    "negative.npy": (header((-9, -16, 16, 3)), r"the array is empty"),
    "fortran.npy": (npy(np.asfortranarray(COLOUR)), r"Fortran's order .*numpy\.ascontiguousarray"),
    "cut.npy": (PICTURES[:-5], r"cut off; of 9x16x16x3 pixels, 5 bytes are missing"),
    "long tail.npy": (PICTURES + b"abc", r"3 bytes too many"),
    "terabytes.npy": (header((2**40, 64, 64, 3)) + bytes(100), r"bytes are missing"),
    "endless.npy": (header((10**30, 64, 64, 3)) + bytes(100), r"bytes are missing"),
    "empty.npy": (b"", r"damaged, or not a \.npy file"),
    "magic.npy": (PICTURES[:6], r"damaged, or not a \.npy file"),
    "html.npy": (b"<html>404</html>", r"damaged, or not a \.npy file"),
    "zip.npy": (npz(faces=PICTURES), r"damaged, or not a \.npy file"),
    "version.npy": (b"\x93NUMPY\x09\x00" + PICTURES[8:], r"damaged, or not a \.npy file"),
    "shape.npy": (header("nine"), r"damaged, or not a \.npy file"),
    "descr.npy": (header((9,), ()), r"damaged, or not a \.npy file"),
    "nested.npy": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, r"damaged, or not a \.npy file"),
    "long header.npy": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", r"damaged, or not a \.npy file"),
    "empty.npz": (b"", r"damaged, or not a \.npz file"),
    "cut.npz": (npz(faces=PICTURES)[:-40], r"damaged, or not a \.npz file"),
    "npy.npz": (PICTURES, r"damaged, or not a \.npz file"),
    "hollow.npz": (npz(), r"no pictures, .*; it holds no arrays$"),
    "short.npz": (npz(faces=PICTURES[:-1]), r": faces: damaged or cut off; .*1 bytes are missing"),
    "bomb.npz": (npz(zipfile.ZIP_DEFLATED, faces=header((2**40, 64, 64, 3)) + bytes(2**20)), r"bytes are missing"),
    "lies.npz": (lying(npz(faces=header((2**30 + 10,)) + bytes(10))), r"must be \[N, H, W, C\]"),
    "lies well.npz": (lying(npz(faces=header((2**30 + 10, 1, 1, 1)) + bytes(10))), r"damaged, or not a \.npz file"),
    "crc.npz": (npz(faces=PICTURES).replace(COLOUR.tobytes()[:50], bytes(50)), r"damaged, or not a \.npz file"),
    "lzma.npz": (npz(zipfile.ZIP_LZMA, faces=PICTURES), r"damaged, or not a \.npz file"),
    "unclear.npz": (
        npz(left=PICTURES, right=OTHERS, y=npy(np.arange(9))),
        r"which array .*Call it images; there are left \(uint8, 9x16x16x3\), right \(uint8, 4x16x16\), y \(int64, 9\)$",
    ),
    "both.npz": (npz(images=PICTURES, x=OTHERS), r"which array holds the pictures\?"),
    "no pictures.npz": (npz(x=npy(COLOUR[0, 0]), y=npy(np.arange(9))), r"it holds x \(uint8, 16x3\), y \(int64, 9\)$"),
    "many.npz": (npz(**{f"a{n}": OTHERS for n in range(20)}), r"a7 \(uint8, 4x16x16\) and 12 more$"),
}


@pytest.mark.filterwarnings("ignore:.*created on Python 2", "ignore:invalid")
@pytest.mark.parametrize("name", BAD)
def test_damage_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    data, words = BAD[name]
    with pytest.raises(ValueError, match=words) as raised:
        opened(write(tmp_path / name, data))
    assert str(raised.value).startswith(f"{tmp_path}/{name}: ")
    assert "\n" not in str(raised.value)
    assert not Path("/tmp/this-must-not-run").exists()


def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no such file: .*missing\.npy$"):
        opened(tmp_path / "missing.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match=r"pipe\.npy: not a regular file$"):
        opened(tmp_path / "pipe.npy")


def test_the_bound_comes_before_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_file, "MAX_BYTES", COLOUR.size - 1)
    with pytest.raises(ValueError, match=r"0\.0 GiB are too much for memory; a \.npy is read in pieces$"):
        opened(write(tmp_path / "faces.npz", npz(faces=PICTURES)))


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    """Damage anywhere in headers and tables is either harmless or told in a line."""
    generator = np.random.default_rng(1)
    for name, good in {"a.npy": npy(COLOUR[:1]), "a.npz": npz(zipfile.ZIP_DEFLATED, a=npy(COLOUR[:1]))}.items():
        for _ in range(300):
            data = bytearray(good)
            places = [*range(128), *range(len(data) - 128, len(data))]
            for place in generator.choice(places, 2):
                data[place] = generator.integers(256)
            try:
                assert len(opened(write(tmp_path / name, bytes(data)))) > 0
            except ValueError as error:
                assert "\n" not in str(error) and str(tmp_path / name) in str(error), error
