"""CIFAR-10: 50,000 colour pictures of 32x32 pixels, from the published archives or unpacked.

The batches for Python are pickles. Unpickling them runs no code: NumPy's classes are replaced by stand-ins that only
record their arguments, and any other name is refused.
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

from fastdcgan.data.archives.tar_headers import TAR_ERRORS as TAR_ERRORS
from fastdcgan.data.array import make_array_source
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.labels import labels_from_numbers
from fastdcgan.data.source import ImageSource
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.printable import printable

BATCHES = 5
PER_BATCH = 10_000

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

MAX_ARCHIVE = 2**28
"""Limit of an unpacked archive; the published ones have 186 million bytes."""

MAX_BATCH = 2**26
"""Limit of a batch's file; the published ones have 31 million bytes."""

_SIDE = 32
_PIXELS = 3 * _SIDE**2
_NUMPY_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
# What unpickling raises on damaged files.
_BATCH_ERRORS = (
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
    """Whether a folder holds CIFAR-10: an archive, an unpacked archive, or the batches themselves."""
    return _find(folder) is not None


def open_cifar10(folder: Path | None, *, frame: Frame, channels: int, threads: int) -> ImageSource:
    """CIFAR-10's 50,000 training pictures, in memory.

    Args:
        folder: where it is, as an archive or unpacked; None for the cache folder, into which it is downloaded if
            missing.
        frame: what the pictures given out are brought to.
        channels: 1, 3 or 4.
        threads: for resizing, where the pictures have another size.

    Raises:
        ValueError: files are missing or damaged, or can't be downloaded.
    """
    found = _find(folder or cache_folder())
    if found is None and folder is not None:
        raise ValueError(f"no {_LAYOUTS[0].archive} and no {_LAYOUTS[0].folder} in {printable(folder)}")
    location = found or _download(cache_folder())
    pictures, labels_N = read_cifar10(location)
    return make_array_source(
        pictures,
        frame=frame,
        channels=channels,
        threads=threads,
        description=f"{len(pictures):,} pictures of {_SIDE}x{_SIDE} from {printable(location.path)}, in memory",
        origin=printable(location.path.resolve()),
        find_labels=lambda: None if labels_N is None else labels_from_numbers(labels_N, CLASSES),
    )


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """One of the ways in which CIFAR-10 is published."""

    archive: str
    folder: str
    ending: str
    read_batch: Callable[[bytes], "_Batch"]
    """A batch from its file. Raises any of `_BATCH_ERRORS`."""

    @property
    def files(self) -> list[str]:
        return [f"data_batch_{number}{self.ending}" for number in range(1, BATCHES + 1)]


class _Batch(NamedTuple):
    """One of the five parts."""

    pixels: NDArray[np.uint8]
    """uint8 [N, 3 * 32 * 32]."""

    labels: NDArray[np.uint8] | None
    """uint8 [N]; None where the file has none that fit."""


class _Location(NamedTuple):
    """An archive or a folder with batches of one layout."""

    path: Path
    layout: _Layout


def read_cifar10(location: _Location) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Read all training batches.

    Returns:
        uint8 [50000, 32, 32, 3], and the labels, uint8 [50000]; None where a batch has none.

    Raises:
        ValueError: a file is missing or damaged.
    """
    pictures_NHWC = np.empty((BATCHES * PER_BATCH, _SIDE, _SIDE, 3), np.uint8)
    labels: list[NDArray[np.uint8] | None] = []
    files = _files_in_folder(location) if location.path.is_dir() else _files_in_archive(location)
    for number, (name, data) in enumerate(files):
        try:
            batch = location.layout.read_batch(data)
        except _BATCH_ERRORS as error:
            raise ValueError(f"{name}: damaged, or not a batch of CIFAR-10 ({_short_reason(error)})") from error
        if len(batch.pixels) != PER_BATCH:
            raise ValueError(f"{name}: damaged; {len(batch.pixels):,} pictures where {PER_BATCH:,} belong")
        labels.append(batch.labels)
        batch_NHWC = batch.pixels.reshape(PER_BATCH, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        pictures_NHWC[number * PER_BATCH : (number + 1) * PER_BATCH] = batch_NHWC
    found = [one for one in labels if one is not None]
    return pictures_NHWC, np.concatenate(found) if len(found) == len(labels) else None


def _files_in_folder(location: _Location) -> Iterator[tuple[str, bytes]]:
    for file_name in location.layout.files:
        path = location.path / file_name
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


def _files_in_archive(location: _Location) -> Iterator[tuple[str, bytes]]:
    name = printable(location.path)
    try:
        with gzip.open(location.path) as compressed:
            # All at once: the checksum is compared before anything is parsed, and a zip bomb ends at the limit.
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
    except TAR_ERRORS as error:
        raise ValueError(f"{name}: damaged, or not a .tar.gz") from error
    for file_name in location.layout.files:
        member = members.get(f"{location.layout.folder}/{file_name}")
        if member is None:
            raise ValueError(f"{name}: it holds no {location.layout.folder}/{file_name}")
        if member.size > MAX_BATCH:
            raise ValueError(f"{name}: {file_name} is larger than any batch of CIFAR-10")
        try:
            file = archive.extractfile(member)
            assert file is not None, member
            batch = file.read()
        except (*TAR_ERRORS, OSError) as error:
            raise ValueError(f"{name}: {file_name} is damaged or cut off") from error
        yield f"{name}: {file_name}", batch


class _StandIn:
    """Stands in for a NumPy object in a pickle: records the constructor's arguments and the state."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _SafeUnpickler(pickle._Unpickler):
    """Builds plain data and `_StandIn`, and calls nothing else.

    Not the unpickler in C, which takes gigabytes where a few bytes name a large index of its memo.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[object]

    def find_class(self, module_name: str, global_name: str) -> type[_StandIn]:
        if (module_name, global_name) not in _NUMPY_NAMES:
            raise pickle.UnpicklingError(f"it asks for {printable(f'{module_name}.{global_name}')[:80]}")
        return _StandIn


def _refuse(unpickler: _SafeUnpickler) -> None:
    raise pickle.UnpicklingError("it asks for what no batch has")


def _with_checked_keys(load: Callable[[_SafeUnpickler], None], keys: slice) -> Callable[[_SafeUnpickler], None]:
    def checked(unpickler: _SafeUnpickler) -> None:
        if not all(isinstance(key, str | bytes) for key in unpickler.stack[keys]):
            _refuse(unpickler)
        load(unpickler)

    return checked


# A key that is a deeply nested tuple with shared parts takes exponential time to hash. A bytearray takes as much memory
# as its length says.
for _code in (pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS, pickle.BYTEARRAY8):
    _SafeUnpickler.dispatch[_code[0]] = _refuse
for _code, _keys in (
    (pickle.SETITEM, slice(-2, -1)),
    (pickle.SETITEMS, slice(0, None, 2)),
    (pickle.DICT, slice(0, None, 2)),
):
    _SafeUnpickler.dispatch[_code[0]] = _with_checked_keys(_SafeUnpickler.dispatch[_code[0]], _keys)


def _batch_from_pickle(data: bytes) -> _Batch:
    """A pickled batch, of any version of Python and NumPy."""
    batch = _SafeUnpickler(io.BytesIO(data), encoding="bytes").load()
    array = batch[b"data"] if b"data" in batch else batch["data"]
    _, shape, dtype, fortran_order, pixels = array.state
    count, length = shape
    if dtype.arguments[0] not in ("u1", b"u1") or not isinstance(pixels, bytes):
        raise ValueError("its data are no bytes")
    if type(count) is not int or length != _PIXELS or len(pixels) != count * _PIXELS:
        raise ValueError("its data have another size")
    read = np.frombuffer(pixels, np.uint8).reshape((count, length), order="F" if fortran_order else "C")
    labels = batch.get(b"labels", batch.get("labels"))
    fit = isinstance(labels, list) and len(labels) == count
    fit = fit and all(type(label) is int and 0 <= label < len(CLASSES) for label in labels)
    return _Batch(read, np.array(labels, np.uint8) if fit else None)


def _batch_from_binary(data: bytes) -> _Batch:
    """A binary batch, in which a byte for the class precedes each picture."""
    if len(data) % (1 + _PIXELS):
        raise ValueError(f"{len(data):,} bytes are no whole number of pictures")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)
    if (records[:, 0] >= len(CLASSES)).any():
        raise ValueError(f"it has {len(CLASSES)} classes only")
    return _Batch(records[:, 1:], records[:, 0].copy())


_LAYOUTS = (
    _Layout(archive="cifar-10-python.tar.gz", folder="cifar-10-batches-py", ending="", read_batch=_batch_from_pickle),
    _Layout(
        archive="cifar-10-binary.tar.gz", folder="cifar-10-batches-bin", ending=".bin", read_batch=_batch_from_binary
    ),
)


def _find(folder: Path) -> _Location | None:
    """Where a folder holds CIFAR-10: unpacked, or else an archive, which takes longer to read; None if nowhere."""
    for layout in _LAYOUTS:
        for location in (folder / layout.folder, folder):
            if (location / layout.files[0]).exists():
                return _Location(location, layout)
    archives = (_Location(folder / layout.archive, layout) for layout in _LAYOUTS)
    return next((location for location in archives if location.path.is_file()), None)


def _download(folder: Path) -> _Location:
    """Download the archive into a folder, in one step. Raises ValueError."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    layout = _LAYOUTS[0]
    target = folder / layout.archive
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
    return _Location(target, layout)


def _short_reason(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)[:120]
