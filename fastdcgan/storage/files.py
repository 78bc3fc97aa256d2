"""Files in folders that others may have filled: read up to a limit, and never written through a link.

Whoever hands somebody a run's folder can put a link in it under the name of a file that the run will write. So files
are written beside their place under a new name and then renamed, which replaces a link and leaves alone what it
points to.
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

MAX_JSON = 2**24
"""Bytes of a JSON file; ours have a few thousand."""

# Windows has no such flags, nor links that anybody may make.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)


def read_limited(path: Path, most: int) -> bytes:
    """All of a regular file.

    Raises:
        ValueError: it has more than `most` bytes; nothing of it was read.
        OSError: it can't be read, or is something else, such as a pipe, for whose writer we would wait.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{size:,} bytes, larger than the limit of {most:,}")
        return file.read(size)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | _AT_ONCE | (_NO_LINK & ~getattr(os, "O_NOFOLLOW", 0)))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refusal(path, "not a regular file")
    return os.fdopen(descriptor, "rb")


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """What a JSON file says. Raises ValueError where it can't be parsed or is too large, OSError as `read_limited`."""
    return strict_json.parse(read_limited(path, most))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes `path`'s place when it is complete; if something is raised, what was there stays.

    Raises:
        OSError: it can't be written, or `path` is something else than a file, or a link to one.
    """
    if path.exists() and not path.is_file():  # asked of what a link points to: not even a link to a device is replaced
        raise _refusal(path, "not a regular file")
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


def sweep(folder: Path) -> None:
    """Remove what killed processes have left of files that they were `replacing`. Raises OSError."""
    for left in folder.glob(".*.*"):
        if left.suffix[1:].isdecimal() and Path(left.stem).suffix and (left.is_symlink() or left.is_file()):
            left.unlink()


def create(path: Path) -> BinaryIO:
    """A new file, instead of a file or a link that has its name. Raises OSError."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666), "wb")


def open_to_append(path: Path) -> IO[str]:
    """A file, made if need be, for text at its end. Raises OSError where it is a link, or another name of a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _AT_ONCE | _NO_LINK, 0o666)
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
        os.close(descriptor)
        raise _refusal(path, "not a file of its own")
    return os.fdopen(descriptor, "a", encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there. Raises OSError where it is a link to one."""
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)


def refuse_link(path: Path) -> None:
    """Raises OSError where a path is a link."""
    if path.is_symlink():
        raise _refusal(path, f"{path.name} is a link, and nothing is written through links")


def _refusal(path: Path, why: str) -> OSError:
    return OSError(errno.EEXIST, why, str(path))
