"""A folder of pictures: which files are usable, checked once and cached."""

import hashlib
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from fastdcgan.data.decoding.formats import (
    FORMAT_NAMES,
    SIGNATURE_BYTES,
    decoder_versions,
    has_picture_suffix,
    may_be_picture,
)
from fastdcgan.data.decoding.picture import (
    MAX_PIXELS,
    NOT_AN_IMAGE,
    PictureInfo,
    examine,
    lock_if_large,
)
from fastdcgan.data.decoding.prefetch import prefetch_map
from fastdcgan.data.hidden import is_hidden, why_hidden
from fastdcgan.data.labels import (
    DATASET_JSON,
    MAX_DATASET_JSON,
    Labels,
    labels_from_numbers,
    labels_from_paths,
    read_dataset_json,
)
from fastdcgan.data.source import Skipped, SkippedCount, common_suffixes, describe_hidden
from fastdcgan.limits.cores import usable_cores
from fastdcgan.storage import strict_json
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached
from fastdcgan.storage.files import read_limited
from fastdcgan.storage.printable import printable
from fastdcgan.storage.settled import wait_out
from fastdcgan.storage.wording import counted

MAX_BYTES = 2**30
"""Larger files are not read."""

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, the total)."""

_FORMAT_3 = f"fastdcgan folder index 3, Pillow {PIL.__version__}"

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class NoUsablePictureError(ValueError):
    """Not one of the pictures can be used. `skipped` lists all with reasons, the message names the first."""

    def __init__(self, message: str, skipped: tuple[Skipped, ...]) -> None:
        super().__init__(message)
        self.skipped = skipped


class PictureFile(NamedTuple):
    """A usable picture file, as it was when it was checked. Fields as of `PictureInfo`."""

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
    pictures: tuple[PictureFile, ...]
    skipped: tuple[Skipped, ...]

    @cached_property
    def origin(self) -> str:
        """See `EncodedPictures.origin`."""
        return printable(self.folder.resolve())

    @cached_property
    def labels(self) -> Labels | None:
        """See `EncodedPictures.labels`."""
        start = len(f"{self.folder}{os.sep}")
        names = [picture.path[start:].replace(os.sep, "/") for picture in self.pictures]
        with suppress(OSError, ValueError):
            numbers_N = read_dataset_json(read_limited(self.folder / DATASET_JSON, MAX_DATASET_JSON), names)
            if numbers_N is not None:
                return labels_from_numbers(numbers_N)
        return labels_from_paths(names)

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

    def info(self, number: int) -> PictureInfo:
        """See `EncodedPictures.info`."""
        picture = self.pictures[number]
        return PictureInfo(*picture[1:6])

    def name(self, number: int) -> str:
        """See `EncodedPictures.name`."""
        return printable(self.pictures[number].path)

    def read_bytes(self, number: int) -> bytes:
        """See `EncodedPictures.read_bytes`."""
        picture = self.pictures[number]
        try:
            data = _read(picture.path, (picture.bytes, picture.mtime_ns))
        except OSError as error:
            raise ValueError(f"{printable(picture.path)}: {os_error_reason(error)}") from error
        if data is None:
            raise ValueError(f"{printable(picture.path)}: the file was changed since it was checked; start again")
        return data


def scan_folder(folder: str | Path, on_progress: OnProgress | None = None) -> FolderIndex:
    """Find the pictures in a folder and its subfolders, and check each by decoding it.

    A file's content decides whether it is a picture, not its name (but see `may_be_picture`). Hidden files and those of
    tools are left out (see `hidden.py`), and counted by kind. Files that can't be used are listed with reasons, those
    that are no pictures by name nor content last. Only regular files are opened. Links to folders are followed; every
    folder is visited once.

    The result is cached, so that next time only new and changed files (by size and time of modification) are checked.
    An interrupted check continues where it was.

    Args:
        folder: where to look.
        on_progress: called with ("checking images", done, total) after each file that had to be checked.

    Raises:
        ValueError: there is no such folder, or not one usable picture in it (NoUsablePictureError).
    """
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"no such folder: {printable(folder)}")
    if not folder.is_dir():
        raise ValueError(f"not a folder but a file: {printable(folder)}")
    files, skipped, hidden = list_files(folder)
    root = f"{folder}{os.sep}"
    entries = _check_files(folder, root, files, skipped, on_progress)
    pictures = []
    for name in sorted(entries):
        entry = entries[name]
        if entry.reason:
            skipped[name] = entry.reason
        else:
            pictures.append(PictureFile(root + name, *entry[:-1]))
    named = [_skipped_file(folder, name, skipped[name]) for name in sorted(skipped)]
    named.sort(key=lambda skip: skip.not_a_picture)
    named += [hidden_files(printable(folder / name), name, reason, count) for name, reason, count in hidden]
    index = FolderIndex(folder=folder, pictures=tuple(pictures), skipped=tuple(named))
    if not pictures:
        message = _no_pictures_message(index)
        raise NoUsablePictureError(message, index.skipped) if index.skipped else ValueError(message)
    return index


def _check_files(
    folder: Path,
    root: str,
    files: dict[str, tuple[int, int]],
    skipped: dict[str, str],
    on_progress: OnProgress | None,
) -> dict[str, "_IndexEntry"]:
    """Check the files that the cached index doesn't know, and update it. Unreadable ones are added to `skipped`."""
    cache_path = _cache_path(folder)
    known = _load(cache_path)
    entries = {name: known[name] for name, stamp in files.items() if name in known and known[name].stamp == stamp}
    missing = [name for name in files if name not in entries]
    checked = 0

    def check(name: str) -> _IndexEntry | OSError:
        size, mtime_ns = files[name]
        try:
            return _check_file(root + name, size, mtime_ns)
        except OSError as error:
            return error  # not cached: the cause is not in the file, so it may be gone next time

    threads = usable_cores()
    results = prefetch_map(check, missing, threads=threads, depth=4 * threads)
    try:
        for checked, (name, entry) in enumerate(zip(missing, results, strict=True), start=1):
            if isinstance(entry, OSError):
                skipped[name] = os_error_reason(entry)
            else:
                entries[name] = entry
            if on_progress is not None:
                on_progress("checking images", checked, len(missing))
    finally:
        if checked or len(known) != len(entries):
            _save(cache_path, entries)
    return entries


def os_error_reason(error: OSError) -> str:
    """The file system's reason, in lower case, for a list."""
    return (error.strerror or str(error)).lower()


def refuse_oversized(size: int) -> None:
    """Raises ValueError where a file has more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise ValueError(f"{size / 2**30:.1f} GiB is more than the limit of {MAX_BYTES / 2**30:.0f} GiB")


class _IndexEntry(NamedTuple):
    """A file in the cached index. `reason` is empty for usable pictures."""

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


def hidden_files(path: str, name: str, reason: str, count: int) -> Skipped:
    """Files left out for a kind of name; `name` is the first's, relative to what the user gave, and `path` says it."""
    _, kind = why_hidden(name)
    return Skipped(path=path, reason=reason, not_a_picture=True, count=count, hidden=kind)


def _skipped_file(folder: Path, name: str, reason: str) -> Skipped:
    not_a_picture = reason == NOT_AN_IMAGE and not has_picture_suffix(name)
    return Skipped(path=printable(folder / name), reason=reason, not_a_picture=not_a_picture)


def _no_pictures_message(index: FolderIndex) -> str:
    """The error message for a folder without a usable picture."""
    folder = printable(index.folder)
    others = [skip for skip in index.skipped if skip.not_a_picture and not skip.hidden]
    hidden = describe_hidden(index.skipped)
    damaged = sum(not skip.not_a_picture for skip in index.skipped)
    if damaged:
        more = f" (and {damaged - 1:,} more)" if damaged > 1 else ""
        return f"no usable picture in {folder}; {index.skipped[0].path}: {index.skipped[0].reason}{more}"
    left_out = f"; left out: {hidden}" if hidden else ""
    if not others:
        if hidden:
            return f"no pictures ({FORMAT_NAMES}) in {folder}{left_out}"
        return f"no pictures ({FORMAT_NAMES}) in {folder}; it is empty"
    names = f" ({common_suffixes(others)})" if common_suffixes(others) else ""
    files = counted(len(others), "other file")
    return f"no pictures ({FORMAT_NAMES}) in {folder}; it holds {files}{names}{left_out}"


def list_files(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str], SkippedCount]:
    """Size (bytes) and time of modification (ns) of each regular file by relative path, and why others are skipped.

    Hidden files and those in hidden folders are only counted. Later changes show in the times (see `settled`).
    """
    listed = _list_files(folder)
    return _list_files(folder) if wait_out(mtime_ns for _, mtime_ns in listed[0].values()) else listed


def _list_files(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str], SkippedCount]:
    hidden = SkippedCount()
    files: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    visited: set[tuple[int, int]] = set()
    for prefix in (queue := _FolderQueue()):
        try:
            info = os.stat(folder / prefix)  # noqa: PTH116
            if (info.st_dev, info.st_ino) in visited:
                continue
            visited.add((info.st_dev, info.st_ino))
            entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
        except OSError as error:
            skipped[prefix] = os_error_reason(error)
            continue
        for entry in entries:
            name = prefix + entry.name
            if is_hidden(entry.name):
                for file in _files_below(folder, name, entry):
                    hidden.add(file, *why_hidden(file))
                continue
            try:
                if entry.is_dir():
                    queue.add(name + "/", is_link=entry.is_symlink())
                elif stat.S_ISREG((info := entry.stat()).st_mode):
                    files[name] = (info.st_size, info.st_mtime_ns)
                else:
                    skipped[name] = "not a regular file"
            except FileNotFoundError:
                skipped[name] = "a link to a file that does not exist"
            except OSError as error:
                skipped[name] = os_error_reason(error)
    return files, skipped, hidden


def _files_below(folder: Path, name: str, entry: os.DirEntry[str]) -> Iterator[str]:
    """The files in a hidden folder, or the one hidden file: relative paths. Links aren't followed."""
    if not entry.is_dir(follow_symlinks=False):
        yield name
        return
    root = f"{folder}{os.sep}"
    for path, folders, files in os.walk(root + name):
        folders.sort()
        for file in sorted(files):
            yield f"{path.removeprefix(root)}/{file}"


class _FolderQueue:
    """Folders still to be visited. Links come last, so that a folder is named by its real path where it has one."""

    def __init__(self) -> None:
        self.real = deque([""])
        self.links: deque[str] = deque()

    def add(self, name: str, *, is_link: bool) -> None:
        (self.links if is_link else self.real).append(name)

    def __iter__(self) -> Iterator[str]:
        while self.real or self.links:
            yield (self.real or self.links).popleft()


def _check_file(path: str, size: int, mtime_ns: int) -> _IndexEntry:
    """Check one file by decoding it. Raises OSError where it can't be read."""
    try:
        if not has_picture_suffix(path) and not may_be_picture(_read(path, max_bytes=SIGNATURE_BYTES) or b""):
            raise ValueError(NOT_AN_IMAGE)
        refuse_oversized(size)
        with lock_if_large(size):
            data = _read(path, (size, mtime_ns))
            if data is None:
                raise OSError("changed while it was checked")
            return _IndexEntry(*examine(data), mtime_ns, reason="")
    except ValueError as error:
        return _IndexEntry(0, 0, False, "", size, mtime_ns, reason=str(error))


def _read(path: str, stamp: tuple[int, int] | None = None, max_bytes: int = -1) -> bytes | None:
    """Read a file, or its first `max_bytes` bytes; None where it isn't regular, or its size and time are not `stamp`.

    A file that was listed may be a pipe by now, so it is opened without waiting for a writer (O_NONBLOCK).
    """
    # Not a file object, which would take three times as long for files of 10 kB.
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or (stamp and stamp != (info.st_size, info.st_mtime_ns)):
            return None
        wanted = info.st_size if max_bytes < 0 else min(max_bytes, info.st_size)
        data = os.read(descriptor, wanted)
        while len(data) < wanted and (more := os.read(descriptor, wanted - len(data))):
            data += more
    finally:
        os.close(descriptor)
    return data if stamp is None or len(data) == stamp[0] else None


def _cache_path(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    return cache_folder() / "folders" / f"{name}.json"


def _format() -> str:
    return f"fastdcgan folder index 4, {decoder_versions()}"


def _load(path: Path) -> dict[str, _IndexEntry]:
    """The cached index; empty where it is missing, damaged or of another version."""
    try:
        index = strict_json.parse(read_cached(path) or b"{}")
        format = index.get("format")
        if format not in (_format(), _FORMAT_3):
            return {}
        entries = {name: _checked_entry(*entry) for name, entry in index["files"].items()}
        # Version 3 read fewer kinds of files: what it found usable is so still.
        return {name: entry for name, entry in entries.items() if format != _FORMAT_3 or not entry.reason}
    except (ValueError, TypeError, LookupError, AttributeError):
        return {}


def _checked_entry(
    width: Any, height: Any, plain: Any, kind: Any, size: Any, mtime_ns: Any, reason: Any
) -> _IndexEntry:
    """An entry of the cached index. Raises ValueError or TypeError where it is invalid."""
    if not (isinstance(kind, str) and isinstance(reason, str) and size >= 0 and type(mtime_ns) is int):
        raise ValueError(kind)
    if not (kind.isprintable() and reason.isprintable()):  # which both are shown
        raise ValueError(kind)
    if not (reason or (0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS)):
        raise ValueError(width)
    return _IndexEntry(width, height, plain is True, kind, size, mtime_ns, reason)


def _save(path: Path, entries: dict[str, _IndexEntry]) -> None:
    # ASCII escapes preserve names that are not UTF-8 (lone surrogates).
    body = json.dumps({"format": _format(), "files": entries}, separators=(",", ":"))
    write_cached(path, body.encode("ascii"))
