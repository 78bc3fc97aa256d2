"""Files in folders that others may have filled: read up to a limit, and never written through a link.

Whoever hands somebody a run's folder can put a link in it under the name of a file that the run will write. So a file
is written beside its place under a temporary name and then renamed, which replaces a link and leaves its target alone.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

from fastdcgan.storage import strict_json

MAX_JSON_BYTES = 2**24
"""Limit of a JSON file; ours have a few thousand bytes."""

# Windows has none of these flags, nor links that any user may make.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_COMMON = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


def nearest_existing(path: Path) -> Path:
    """The path made absolute, or the nearest one above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def read_limited(path: Path, max_bytes: int) -> bytes:
    """All of a regular file.

    Raises:
        ValueError: it has more than `max_bytes` bytes; nothing of it was read.
        OSError: it can't be read, or isn't a regular file. (A pipe would block until somebody writes to it.)
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"{size:,} bytes, larger than the limit of {max_bytes:,}")
        return file.read(size)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | _NO_WAIT | _COMMON)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _os_error(path, "not a regular file")
    return os.fdopen(descriptor, "rb")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file. Raises ValueError if it can't be parsed or is too large, OSError as `read_limited`."""
    return strict_json.parse(read_limited(path, max_bytes))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when it is complete; on an exception the old one stays.

    Raises:
        OSError: it can't be written, or `path` exists and is neither a regular file nor a link to one.
    """
    if path.exists() and not path.is_file():  # both follow links: a link to a device isn't replaced either
        raise _os_error(path, "not a regular file")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with create(unfinished) as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_replacing(path: Path, data: bytes | str) -> None:
    """Replace a file in one step; text is written as UTF-8. Raises OSError as `replacing` does."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that killed processes have left from `replacing`. Raises OSError."""
    for path in folder.glob(".*.*"):
        if path.suffix[1:].isdecimal() and Path(path.stem).suffix and (path.is_symlink() or path.is_file()):
            path.unlink()


def create(path: Path) -> BinaryIO:
    """Open a new file for writing; a file or link that has its name is removed first. Raises OSError."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _COMMON
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def open_to_append(path: Path) -> IO[str]:
    """Open a text file (UTF-8) for appending, created if need be. Raises OSError where it is a link, hard ones too."""
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")


def open_to_update(path: Path) -> BinaryIO:
    """Open a file for reading and writing at its beginning, created if need be. Raises OSError where it is a link."""
    return os.fdopen(_open_own(path, os.O_RDWR), "r+b")


def _open_own(path: Path, flags: int) -> int:
    """A descriptor of a file that has this name alone. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CREAT | _NO_WAIT | _NO_FOLLOW | _COMMON, 0o666)
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
        os.close(descriptor)
        raise _os_error(path, "not a file of its own")
    return descriptor


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless it exists. Raises OSError where it is a link."""
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)


def refuse_link(path: Path) -> None:
    """Raises OSError where a path is a link."""
    if path.is_symlink():
        raise _os_error(path, f"{path.name} is a link, and nothing is written through links")


def _os_error(path: Path, reason: str) -> OSError:
    return OSError(errno.EEXIST, reason, str(path))
