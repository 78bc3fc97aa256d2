"""A folder of pictures: which files are usable, checked once and remembered between runs."""

import hashlib
import json
import os
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import PIL

from fastdcgan.cache import cache_folder
from fastdcgan.data.ahead import work_ahead
from fastdcgan.data.picture import Examined, examine
from fastdcgan.data.source import Skipped

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Files that are taken for pictures, in upper or lower case."""

MAX_BYTES = 2**30
"""Larger files are not read at all."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_FORMAT = f"fastdcgan folder index 2, Pillow {PIL.__version__}"


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

    @property
    def total_bytes(self) -> int:
        """Of the usable files together."""
        return sum(picture.bytes for picture in self.pictures)

    def examined(self, number: int) -> Examined:
        """See `EncodedPictures.examined`."""
        picture = self.pictures[number]
        return Examined(picture.width, picture.height, picture.plain, picture.kind)

    def read_bytes(self, number: int) -> bytes:
        """See `EncodedPictures.read_bytes`."""
        picture = self.pictures[number]
        try:
            with open(picture.path, "rb") as file:  # noqa: PTH123 (a Path per read costs a third of the read)
                data = file.read()
                now = os.fstat(file.fileno())
        except OSError as error:
            raise ValueError(f"{printable(picture.path)}: {_reason(error)}") from error
        if (now.st_size, now.st_mtime_ns) != (picture.bytes, picture.mtime_ns):
            raise ValueError(f"{printable(picture.path)}: the file was changed since it was checked; start again")
        return data


def scan_folder(folder: str | Path, on_progress: OnProgress | None = None) -> FolderIndex:
    """Find the pictures in a folder and its subfolders, and check each by decoding it in full.

    Links to folders are followed, every folder is visited once. What was found is kept in the cache folder, so that
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
    files, skipped, others = _list_files(folder)
    if not files and not skipped:
        seen = f"; it holds {others:,} other file{'s' * (others != 1)}" if others else "; it is empty"
        raise ValueError(f"no pictures ({', '.join(ENDINGS)}) in {printable(folder)}{seen}")

    cache_path = _cache_path(folder)
    known = _load(cache_path)
    entries = {name: known[name] for name, stamp in files.items() if name in known and known[name].stamp == stamp}
    missing = [name for name in files if name not in entries]
    checked = 0

    def check(name: str) -> _Entry | OSError:
        size, mtime_ns = files[name]
        try:
            return _check(folder / name, size, mtime_ns)
        except OSError as error:
            return error  # not remembered: the cause is not in the file, so it may be gone next time

    threads = os.cpu_count() or 1
    results = work_ahead(check, missing, threads=threads, ahead=4 * threads)
    try:
        for checked, (name, entry) in enumerate(zip(missing, results, strict=True), start=1):
            if isinstance(entry, OSError):
                skipped[name] = _reason(entry)
            else:
                entries[name] = entry
            if on_progress is not None:
                on_progress("checking images", checked, len(missing))
    finally:
        if checked or len(known) != len(entries):
            _save(cache_path, entries)

    pictures = []
    root = f"{folder}{os.sep}"
    for name in sorted(entries):
        entry = entries[name]
        if entry.reason:
            skipped[name] = entry.reason
        else:
            pictures.append(Picture(root + name, *entry[:-1]))
    reasons = tuple(Skipped(path=printable(folder / name), reason=skipped[name]) for name in sorted(skipped))
    if not pictures:
        more = f" (and {len(reasons) - 1:,} more)" if len(reasons) > 1 else ""
        raise NoneUsableError(
            f"no usable picture in {printable(folder)}; {reasons[0].path}: {reasons[0].reason}{more}", reasons
        )
    return FolderIndex(folder=folder, pictures=tuple(pictures), skipped=reasons)


def printable(path: str | Path) -> str:
    """A path as one line that any terminal can print, whatever bytes it is made of."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c >= " " and c != "\x7f" else c.encode("unicode_escape").decode() for c in text)


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


def _list_files(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str], int]:
    """Size and time of change of each picture, reasons for those that are no files, and how many files else."""
    files: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    others = 0
    visited: set[tuple[int, int]] = set()
    for prefix in (waiting := _Waiting()):
        try:
            info = os.stat(folder / prefix)  # noqa: PTH116
            if (info.st_dev, info.st_ino) in visited:
                continue
            visited.add((info.st_dev, info.st_ino))
            entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
        except OSError as error:
            skipped[prefix] = _reason(error)
            continue
        for entry in entries:
            name = prefix + entry.name
            try:
                if entry.is_dir():
                    waiting.add(name + "/", is_link=entry.is_symlink())
                elif not name.lower().endswith(ENDINGS):
                    others += 1
                elif stat.S_ISREG((info := entry.stat()).st_mode):
                    files[name] = (info.st_size, info.st_mtime_ns)
                else:
                    skipped[name] = "not a regular file"
            except FileNotFoundError:
                skipped[name] = "a link to a file that does not exist"
            except OSError as error:
                skipped[name] = _reason(error)
    return files, skipped, others


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


def _check(path: Path, size: int, mtime_ns: int) -> _Entry:
    """Decode one file. Raises OSError where the file can't be read at all."""
    try:
        if size > MAX_BYTES:
            raise ValueError(f"{size / 2**30:.1f} GiB is more than the limit of {MAX_BYTES / 2**30:.0f} GiB")
        return _Entry(*examine(path.read_bytes()), size, mtime_ns, reason="")
    except ValueError as error:
        return _Entry(0, 0, False, "", size, mtime_ns, reason=str(error))


def _cache_path(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    return cache_folder() / "folders" / f"{name}.json"


def _load(path: Path) -> dict[str, _Entry]:
    """What an earlier run found; nothing where that is missing, damaged or of another version."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
        if int(checksum, 16) != zlib.crc32(body):
            return {}
        index = json.loads(body)
    except (OSError, ValueError):
        return {}
    return {name: _Entry(*entry) for name, entry in index["files"].items()} if index["format"] == _FORMAT else {}


def _save(path: Path, entries: dict[str, _Entry]) -> None:
    """Replace the index in one step. A cache that can't be written is done without."""
    # ASCII escapes carry names that are not UTF-8 (lone surrogates) there and back.
    body = json.dumps({"format": _FORMAT, "files": entries}, separators=(",", ":")).encode("ascii")
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"%08x\n%s" % (zlib.crc32(body), body))
        unfinished.replace(path)
    except OSError:
        return


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
