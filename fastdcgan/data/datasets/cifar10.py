"""CIFAR-10: 50,000 pictures of 32x32 in colour, from the archives and folders that it is published in.

The batches for Python are pickles. Nothing in them is called: what they say of NumPy is taken down by stand-ins, and
anything else is refused.
"""

import contextlib
import gzip
import io
import pickle
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.archives.tar_headers import DAMAGE as TAR_DAMAGE
from fastdcgan.data.array import source_of_array
from fastdcgan.data.source import ImageSource
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.printable import printable

BATCHES = 5
PER_BATCH = 10_000

MAX_ARCHIVE = 2**28
"""Bytes of an unpacked archive; the published ones have 186 million."""

MAX_BATCH = 2**26
"""Bytes of a batch's file; the published ones have 31 million."""

_SIDE = 32
_PIXELS = 3 * _SIDE**2
_CLASSES = 10
_NUMPY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
# What unpickling raises on files that are damaged in one way or another.
_DAMAGE = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)


def holds_cifar10(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10: an archive, an unpacked one, or the batches themselves."""
    return _find(folder) is not None


def open_cifar10(folder: Path | None, *, resolution: int, channels: int, threads: int) -> ImageSource:
    """CIFAR-10's 50,000 training pictures, in memory.

    Args:
        folder: where it is, as an archive or unpacked; None for the cache folder, where it is put the first time.
        resolution: side of the pictures given out.
        channels: 1, 3 or 4.
        threads: for fitting, where the size is another.

    Raises:
        ValueError: files are missing or damaged, or can't be downloaded.
    """
    found = _find(folder or cache_folder())
    if found is None and folder is not None:
        raise ValueError(f"no {_FORMS[0].archive} and no {_FORMS[0].folder} in {printable(folder)}")
    place = found or _download(cache_folder())
    pictures = read_cifar10(place)
    return source_of_array(
        pictures,
        resolution=resolution,
        channels=channels,
        threads=threads,
        description=f"{len(pictures):,} pictures of {_SIDE}x{_SIDE} from {printable(place.path)}, in memory",
        origin=printable(place.path.resolve()),
    )


@dataclass(frozen=True, kw_only=True)
class _Form:
    """One of the ways in which CIFAR-10 is published."""

    archive: str
    folder: str
    ending: str
    planes: Callable[[bytes], NDArray[np.uint8]]
    """A batch's pixels, uint8 [N, 3 * 32 * 32], from its file. Raises any of `_DAMAGE`."""

    @property
    def files(self) -> list[str]:
        return [f"data_batch_{number}{self.ending}" for number in range(1, BATCHES + 1)]


class _Place(NamedTuple):
    """An archive or a folder with batches of one form."""

    path: Path
    form: _Form


def read_cifar10(place: _Place) -> NDArray[np.uint8]:
    """Read all training batches.

    Returns:
        uint8 [50000, 32, 32, 3].

    Raises:
        ValueError: a file is missing or damaged.
    """
    pictures_NHWC = np.empty((BATCHES * PER_BATCH, _SIDE, _SIDE, 3), np.uint8)
    files = _files_in_folder(place) if place.path.is_dir() else _files_in_archive(place)
    for number, (name, data) in enumerate(files):
        try:
            planes = place.form.planes(data)
        except _DAMAGE as error:
            raise ValueError(f"{name}: damaged, or not a batch of CIFAR-10 ({_in_short(error)})") from error
        if len(planes) != PER_BATCH:
            raise ValueError(f"{name}: damaged; {len(planes):,} pictures where {PER_BATCH:,} belong")
        batch_NHWC = planes.reshape(PER_BATCH, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        pictures_NHWC[number * PER_BATCH : (number + 1) * PER_BATCH] = batch_NHWC
    return pictures_NHWC


def _files_in_folder(place: _Place) -> Iterator[tuple[str, bytes]]:
    for file_name in place.form.files:
        path = place.path / file_name
        if path.exists() and not path.is_file():
            raise ValueError(f"{printable(path)}: not a file")
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BATCH + 1)
        except OSError as error:
            raise ValueError(f"{printable(path)}: {(error.strerror or str(error)).lower()}") from error
        if len(data) > MAX_BATCH:
            raise ValueError(f"{printable(path)}: larger than any batch of CIFAR-10")
        yield printable(path), data


def _files_in_archive(place: _Place) -> Iterator[tuple[str, bytes]]:
    name = printable(place.path)
    try:
        with gzip.open(place.path) as compressed:
            # All at once: so its checksum is compared before anything is believed, and a bomb ends at the limit.
            data = compressed.read(MAX_ARCHIVE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name}: damaged or cut off") from error
    except OSError as error:
        raise ValueError(f"{name}: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MAX_ARCHIVE:
        raise ValueError(f"{name}: unpacks to more than CIFAR-10 has")
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")  # noqa: SIM115 (bytes in memory stay open for free)
        members = {member.name: member for member in archive if member.isreg()}
    except TAR_DAMAGE as error:
        raise ValueError(f"{name}: damaged, or not a .tar.gz") from error
    for file_name in place.form.files:
        member = members.get(f"{place.form.folder}/{file_name}")
        if member is None:
            raise ValueError(f"{name}: it holds no {place.form.folder}/{file_name}")
        if member.size > MAX_BATCH:
            raise ValueError(f"{name}: {file_name} is larger than any batch of CIFAR-10")
        try:
            file = archive.extractfile(member)
            assert file is not None, member
            batch = file.read()
        except (*TAR_DAMAGE, OSError) as error:
            raise ValueError(f"{name}: {file_name} is damaged or cut off") from error
        yield f"{name}: {file_name}", batch


class _Recorded:
    """Stands in for what a pickle makes by NumPy: keeps what it was to be made of."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Inert(pickle._Unpickler):
    """Builds plain data and `_Recorded`, and calls nothing else.

    It is the unpickler in Python: that in C takes gigabytes where a few bytes name a large place in its memo.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[object]

    def find_class(self, module_name: str, global_name: str) -> type[_Recorded]:
        if (module_name, global_name) not in _NUMPY:
            raise pickle.UnpicklingError(f"it asks for {printable(f'{module_name}.{global_name}')[:80]}")
        return _Recorded


def _refuse(unpickler: _Inert) -> None:
    raise pickle.UnpicklingError("it asks for what no batch has")


def _with_plain_keys(load: Callable[[_Inert], None], keys: slice) -> Callable[[_Inert], None]:
    def checked(unpickler: _Inert) -> None:
        if not all(isinstance(key, str | bytes) for key in unpickler.stack[keys]):
            _refuse(unpickler)
        load(unpickler)

    return checked


# What is hashed may be a tuple of a tuple of a tuple ..., each twice: that takes forever. A bytearray takes as much
# memory as it says it is long.
for _code in (pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS, pickle.BYTEARRAY8):
    _Inert.dispatch[_code[0]] = _refuse
for _code, _keys in (
    (pickle.SETITEM, slice(-2, -1)),
    (pickle.SETITEMS, slice(0, None, 2)),
    (pickle.DICT, slice(0, None, 2)),
):
    _Inert.dispatch[_code[0]] = _with_plain_keys(_Inert.dispatch[_code[0]], _keys)


def _unpickled(data: bytes) -> NDArray[np.uint8]:
    """The array called "data" of a batch for Python, whichever Python and NumPy wrote it."""
    batch = _Inert(io.BytesIO(data), encoding="bytes").load()
    array = batch[b"data"] if b"data" in batch else batch["data"]
    _, shape, dtype, fortran_order, pixels = array.state
    count, length = shape
    if dtype.arguments[0] not in ("u1", b"u1") or not isinstance(pixels, bytes):
        raise ValueError("its data are no bytes")
    if type(count) is not int or length != _PIXELS or len(pixels) != count * _PIXELS:
        raise ValueError("its data have another size")
    return np.frombuffer(pixels, np.uint8).reshape((count, length), order="F" if fortran_order else "C")


def _split(data: bytes) -> NDArray[np.uint8]:
    """A batch of the binary form: a byte for the class before each picture's."""
    if len(data) % (1 + _PIXELS):
        raise ValueError(f"{len(data):,} bytes are no whole number of pictures")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)
    if (records[:, 0] >= _CLASSES).any():
        raise ValueError(f"it has {_CLASSES} classes only")
    return records[:, 1:]


_FORMS = (
    _Form(archive="cifar-10-python.tar.gz", folder="cifar-10-batches-py", ending="", planes=_unpickled),
    _Form(archive="cifar-10-binary.tar.gz", folder="cifar-10-batches-bin", ending=".bin", planes=_split),
)


def _find(folder: Path) -> _Place | None:
    """Unpacked before packed, which takes longer to read."""
    for form in _FORMS:
        for place in (folder / form.folder, folder):
            if (place / form.files[0]).exists():
                return _Place(place, form)
    archives = (_Place(folder / form.archive, form) for form in _FORMS)
    return next((place for place in archives if place.path.is_file()), None)


def _download(folder: Path) -> _Place:
    """Fetch the archive into a folder; nothing half done is left there."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    form = _FORMS[0]
    target = folder / form.archive
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished, contextlib.redirect_stdout(io.StringIO()):
            download_url(CIFAR10.url, unfinished, filename=target.name, md5=CIFAR10.tgz_md5)
            (Path(unfinished) / target.name).replace(target)
    except (OSError, RuntimeError, HTTPException) as error:
        raise ValueError(
            f"CIFAR-10 could not be downloaded; put {target.name} into {printable(folder)}, "
            f"or name the folder that holds it"
        ) from error
    return _Place(target, form)


def _in_short(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)[:120]
