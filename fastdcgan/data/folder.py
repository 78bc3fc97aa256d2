"""A folder of pictures: which files are usable, checked once and remembered between runs."""

import hashlib
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from fastdcgan.data.decoding.ahead import work_ahead
from fastdcgan.data.decoding.picture import (
    FORMAT_NAMES,
    MAX_PIXELS,
    NOT_AN_IMAGE,
    SIGNATURE_BYTES,
    Examined,
    alone_if_large,
    examine,
    may_be_picture,
)
from fastdcgan.data.source import Skipped, endings
from fastdcgan.storage import strict_json
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached
from fastdcgan.storage.printable import printable

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif")
"""Files that claim to be pictures, in upper or lower case. Others are pictures if they begin like one."""

MAX_BYTES = 2**30
"""Larger files are not read at all."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_AT_ONCE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

_FORMAT = f"fastdcgan folder index 3, Pillow {PIL.__version__}"


class NoneUsableError(ValueError):
    """There are pictures, and not one can be used: `skipped` says why, the message so of the first."""

    def __init__(self, message: str, skipped: tuple[Skipped, ...]) -> None:
        super().__init__(message)
        self.skipped = skipped


class Picture(NamedTuple):
    """A usable picture file, as it was when it was checked."""

    path: str
    width: int
    height: int
    plain: bool
    kind: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class FolderIndex:
    """`EncodedPictures` of a folder and its subfolders, ordered by their path relative to it."""

    folder: Path
    pictures: tuple[Picture, ...]
    skipped: tuple[Skipped, ...]

    @cached_property
    def origin(self) -> str:
        """See `EncodedPictures.origin`."""
        return printable(self.folder.resolve())

    @cached_property
    def fingerprint(self) -> str:
        """See `EncodedPictures.fingerprint`."""
        digest = hashlib.sha256()
        skip = len(os.fsencode(self.folder))
        for picture in self.pictures:
            digest.update(b"%s\0%d\0%d\0" % (os.fsencode(picture.path)[skip:], picture.bytes, picture.mtime_ns))
        return digest.hexdigest()

    def __len__(self) -> int:
        """How many usable pictures there are."""
        return len(self.pictures)

    def examined(self, number: int) -> Examined:
        """See `EncodedPictures.examined`."""
        picture = self.pictures[number]
        return Examined(*picture[1:6])

    def read_bytes(self, number: int) -> bytes:
        """See `EncodedPictures.read_bytes`."""
        picture = self.pictures[number]
        try:
            data = _read(picture.path, (picture.bytes, picture.mtime_ns))
        except OSError as error:
            raise ValueError(f"{printable(picture.path)}: {reason_of(error)}") from error
        if data is None:
            raise ValueError(f"{printable(picture.path)}: the file was changed since it was checked; start again")
        return data


def scan_folder(folder: str | Path, on_progress: OnProgress | None = None) -> FolderIndex:
    """Find the pictures in a folder and its subfolders, and check each by decoding it in full.

    What is in a file decides, not what it is called. Whatever isn't used is named with a reason; files that are no
    pictures, and don't claim to be by their ending, come last. Only regular files are opened. Links to folders are
    followed, every folder is visited once. What was found is kept in the cache folder, so that
    next time only new and changed files (by size and time of change) are checked; an interrupted check goes on where
    it was.

    Args:
        folder: where to look.
        on_progress: called after each file checked, with the number of files that need checking as the total.

    Raises:
        ValueError: there is no such folder, or not one usable picture in it (NoneUsableError).
    """
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"no such folder: {printable(folder)}")
    if not folder.is_dir():
        raise ValueError(f"not a folder but a file: {printable(folder)}")
    files, skipped = _list_files(folder)

    root = f"{folder}{os.sep}"
    cache_path = _cache_path(folder)
    known = _load(cache_path)
    entries = {name: known[name] for name, stamp in files.items() if name in known and known[name].stamp == stamp}
    missing = [name for name in files if name not in entries]
    checked = 0

    def check(name: str) -> _Entry | OSError:
        size, mtime_ns = files[name]
        try:
            return _check(root + name, size, mtime_ns)
        except OSError as error:
            return error  # not remembered: the cause is not in the file, so it may be gone next time

    threads = os.cpu_count() or 1
    results = work_ahead(check, missing, threads=threads, ahead=4 * threads)
    try:
        for checked, (name, entry) in enumerate(zip(missing, results, strict=True), start=1):
            if isinstance(entry, OSError):
                skipped[name] = reason_of(entry)
            else:
                entries[name] = entry
            if on_progress is not None:
                on_progress("checking images", checked, len(missing))
    finally:
        if checked or len(known) != len(entries):
            _save(cache_path, entries)

    pictures = []
    for name in sorted(entries):
        entry = entries[name]
        if entry.reason:
            skipped[name] = entry.reason
        else:
            pictures.append(Picture(root + name, *entry[:-1]))
    named = [_skipped(folder, name, skipped[name]) for name in sorted(skipped)]
    index = FolderIndex(
        folder=folder, pictures=tuple(pictures), skipped=tuple(sorted(named, key=lambda skip: skip.foreign))
    )
    if not pictures:
        message = _nothing_in(index)
        raise NoneUsableError(message, index.skipped) if index.skipped else ValueError(message)
    return index


def reason_of(error: OSError) -> str:
    """What the file system said, for a list."""
    return (error.strerror or str(error)).lower()


def refuse_huge(size: int) -> None:
    """Raises ValueError where a file has more bytes than are read at all."""
    if size > MAX_BYTES:
        raise ValueError(f"{size / 2**30:.1f} GiB is more than the limit of {MAX_BYTES / 2**30:.0f} GiB")


class _Entry(NamedTuple):
    """What the index remembers of a file. `reason` is empty for usable pictures."""

    width: int
    height: int
    plain: bool
    kind: str
    bytes: int
    mtime_ns: int
    reason: str

    @property
    def stamp(self) -> tuple[int, int]:
        return self.bytes, self.mtime_ns


def _skipped(folder: Path, name: str, reason: str) -> Skipped:
    foreign = reason == NOT_AN_IMAGE and not name.lower().endswith(ENDINGS)
    return Skipped(path=printable(folder / name), reason=reason, foreign=foreign)


def _nothing_in(index: FolderIndex) -> str:
    """What is wrong with a folder without pictures."""
    folder = printable(index.folder)
    foreign = [skip for skip in index.skipped if skip.foreign]
    damaged = len(index.skipped) - len(foreign)
    if damaged:
        more = f" (and {damaged - 1:,} more)" if damaged > 1 else ""
        return f"no usable picture in {folder}; {index.skipped[0].path}: {index.skipped[0].reason}{more}"
    if not foreign:
        return f"no pictures ({FORMAT_NAMES}) in {folder}; it is empty"
    names = f" ({endings(foreign)})" if endings(foreign) else ""
    files = f"{len(foreign):,} other file{'s' * (len(foreign) != 1)}"
    return f"no pictures ({FORMAT_NAMES}) in {folder}; it holds {files}{names}"


def _list_files(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Size and time of change of each regular file, and reasons for what else there is."""
    files: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    visited: set[tuple[int, int]] = set()
    for prefix in (waiting := _Waiting()):
        try:
            info = os.stat(folder / prefix)  # noqa: PTH116
            if (info.st_dev, info.st_ino) in visited:
                continue
            visited.add((info.st_dev, info.st_ino))
            entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
        except OSError as error:
            skipped[prefix] = reason_of(error)
            continue
        for entry in entries:
            name = prefix + entry.name
            try:
                if entry.is_dir():
                    waiting.add(name + "/", is_link=entry.is_symlink())
                elif stat.S_ISREG((info := entry.stat()).st_mode):
                    files[name] = (info.st_size, info.st_mtime_ns)
                else:
                    skipped[name] = "not a regular file"
            except FileNotFoundError:
                skipped[name] = "a link to a file that does not exist"
            except OSError as error:
                skipped[name] = reason_of(error)
    return files, skipped


class _Waiting:
    """Folders still to be visited. Links come last, so that a folder goes by its own name where it has one."""

    def __init__(self) -> None:
        self.own = deque([""])
        self.links: deque[str] = deque()

    def add(self, name: str, *, is_link: bool) -> None:
        (self.links if is_link else self.own).append(name)

    def __iter__(self) -> Iterator[str]:
        while self.own or self.links:
            yield (self.own or self.links).popleft()


def _check(path: str, size: int, mtime_ns: int) -> _Entry:
    """Decode one file. Raises OSError where the file can't be read at all."""
    try:
        claims = path.lower().endswith(ENDINGS)
        if not claims and not may_be_picture(_read(path, most=SIGNATURE_BYTES) or b""):
            raise ValueError(NOT_AN_IMAGE)
        refuse_huge(size)
        with alone_if_large(size):
            data = _read(path, (size, mtime_ns))
            if data is None:
                raise OSError("changed while it was checked")
            return _Entry(*examine(data), mtime_ns, reason="")
    except ValueError as error:
        return _Entry(0, 0, False, "", size, mtime_ns, reason=str(error))


def _read(path: str, stamp: tuple[int, int] | None = None, most: int = -1) -> bytes | None:
    """At most so many bytes of a file; None where its size and time are not these, or it is no regular file.

    What was a file when it was listed may be a pipe by now: it is opened without waiting for a writer.
    """
    # Not a file object, which would take three times as long for files of 10 kB.
    descriptor = os.open(path, _AT_ONCE)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or (stamp and stamp != (info.st_size, info.st_mtime_ns)):
            return None
        wanted = info.st_size if most < 0 else min(most, info.st_size)
        data = os.read(descriptor, wanted)
        while len(data) < wanted and (more := os.read(descriptor, wanted - len(data))):
            data += more
    finally:
        os.close(descriptor)
    return data if stamp is None or len(data) == stamp[0] else None


def _cache_path(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    return cache_folder() / "folders" / f"{name}.json"


def _load(path: Path) -> dict[str, _Entry]:
    """What an earlier run found; nothing where that is missing, damaged or of another version."""
    try:
        index = strict_json.parse(read_cached(path) or b"{}")
        return (
            {name: _entry(*entry) for name, entry in index["files"].items()} if index.get("format") == _FORMAT else {}
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        return {}


def _entry(width: Any, height: Any, plain: Any, kind: Any, size: Any, mtime_ns: Any, reason: Any) -> _Entry:
    """What the index says of a file. Raises ValueError or TypeError where it can't be."""
    if not (isinstance(kind, str) and isinstance(reason, str) and size >= 0 and type(mtime_ns) is int):
        raise ValueError(kind)
    if not (reason or (0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS)):
        raise ValueError(width)
    return _Entry(width, height, plain is True, kind, size, mtime_ns, reason)


def _save(path: Path, entries: dict[str, _Entry]) -> None:
    # ASCII escapes carry names that are not UTF-8 (lone surrogates) there and back.
    body = json.dumps({"format": _FORMAT, "files": entries}, separators=(",", ":"))
    write_cached(path, body.encode("ascii"))
