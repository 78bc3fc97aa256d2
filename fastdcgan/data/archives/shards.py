"""WebDataset tar shards: pictures read at random from where they lie in tar files, which are never unpacked.

As WebDataset has it, a member's ending is what follows the first dot of its name: "a/07.jpg" is a picture, and
"a/07.seg.png" is not. The headers of a shard are read once and its pictures checked; that is kept in the cache folder.
"""

import hashlib
import itertools
import json
import os
import stat
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from fastdcgan.data.archives.shard_names import absolute, expand
from fastdcgan.data.archives.tar_headers import list_members
from fastdcgan.data.decoding.ahead import Item, Result, work_ahead
from fastdcgan.data.decoding.picture import MAX_PIXELS, Examined, examine
from fastdcgan.data.folder import ENDINGS, MAX_BYTES, NoneUsableError, OnProgress, reason_of, refuse_huge
from fastdcgan.data.source import Skipped
from fastdcgan.storage import strict_json
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached
from fastdcgan.storage.printable import printable

PICTURE = np.dtype(
    [("offset", "<i8"), ("bytes", "<u4"), ("width", "<u4"), ("height", "<u4"), ("kind", "<u2"), ("plain", "?")]
)
"""What is kept of a picture, in 23 bytes. `kind` counts the shard's kinds."""

_FORMAT = f"fastdcgan shard 2, Pillow {PIL.__version__}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """A tar file, as it was when it was checked."""

    path: str
    size: int
    """In bytes."""

    mtime_ns: int
    pictures: NDArray[np.void]
    """`PICTURE` [N]: the usable ones."""

    kinds: tuple[str, ...]
    names: bytes
    """Of the usable pictures, in JSON, one a line, compressed: they are wanted in complaints alone."""

    skipped: tuple[tuple[str, str], ...]
    """Members ("" for the shard itself) and reasons."""

    others: int
    """Members that don't claim to be pictures."""

    example: str
    """One of those."""

    def name_of(self, picture: int) -> str:
        """A picture, for people."""
        return self.member(json.loads(_lines(self.names)[picture]))

    def member(self, name: str) -> str:
        """A member, for people."""
        return f"{printable(self.path)}: {printable(name)}" if name else printable(self.path)

    def read(self, picture: int) -> bytes:
        """The bytes of a picture.

        Raises:
            OSError: they can't be read.
            ValueError: the shard is no longer the one that was checked; the message is the reason alone.
        """
        offset, length, *_ = self.pictures[picture].item()
        # Opened for every read: that is soon done, threads have nothing to share, and descriptors can't run out.
        with open(self.path, "rb") as file:  # noqa: PTH123 (a Path per read costs a third of the read)
            file.seek(offset)
            data = file.read(length)
            now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns) or len(data) != length:
            raise ValueError("the shard was changed since it was checked; start again")
        return data


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex:
    """`EncodedPictures` of tar shards, in the order of the shards and of their members."""

    origin: str
    shards: tuple[Shard, ...]

    @cached_property
    def skipped(self) -> Sequence[Skipped]:
        """See `EncodedPictures.skipped`."""
        return tuple(
            Skipped(path=shard.member(name), reason=reason) for shard in self.shards for name, reason in shard.skipped
        )

    @cached_property
    def fingerprint(self) -> str:
        """See `EncodedPictures.fingerprint`."""
        digest = hashlib.sha256()
        for shard in self.shards:
            name = os.fsencode(Path(shard.path).name)
            digest.update(b"%s\0%d\0%d\0%d\0" % (name, shard.size, shard.mtime_ns, len(shard.pictures)))
        return digest.hexdigest()

    def __len__(self) -> int:
        """How many usable pictures there are."""
        return self._starts[-1]

    def examined(self, number: int) -> Examined:
        """See `EncodedPictures.examined`."""
        shard, picture = self._find(number)
        _, size, width, height, kind, plain = shard.pictures[picture].item()
        return Examined(width, height, plain, shard.kinds[kind], size)

    def read_bytes(self, number: int) -> bytes:
        """See `EncodedPictures.read_bytes`."""
        shard, picture = self._find(number)
        try:
            return shard.read(picture)
        except OSError as error:
            raise ValueError(f"{shard.name_of(picture)}: {reason_of(error)}") from error
        except ValueError as error:
            raise ValueError(f"{shard.name_of(picture)}: {error}") from error

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((len(shard.pictures) for shard in self.shards), initial=0))

    def _find(self, number: int) -> tuple[Shard, int]:
        shard = bisect_right(self._starts, number) - 1
        return self.shards[shard], number - self._starts[shard]


def open_shards(spec: str, on_progress: OnProgress | None = None) -> ShardIndex:
    """Find the pictures in tar shards, and check each by decoding it in full.

    What was found is kept in the cache folder, shard by shard, so that next time only new and changed shards (by size
    and time of change) are read; an interrupted check keeps the shards that it has finished.

    Args:
        spec: see `expand`.
        on_progress: called with ("listing shards", done, total), then with ("checking images", done, total), where
            there is something to do.

    Raises:
        ValueError: a shard is missing or no tar file, or there is not one usable picture in them.
    """
    report = on_progress or (lambda what, done, total: None)
    stamps = {path: _stamp(path) for path in expand(spec)}
    shards = {path: shard for path, stamp in stamps.items() if (shard := _load(path, *stamp)) is not None}
    new = [path for path in stamps if path not in shards]
    unchecked = []
    with closing(_in_threads(lambda path: _list(path, *stamps[path]), new)) as listed:
        for shard in listed:
            unchecked.append(shard)
            report("listing shards", len(unchecked), len(new))
    shards |= {shard.path: shard for shard in _check(unchecked, report)}
    index = ShardIndex(origin=printable(absolute(spec)), shards=tuple(shards[path] for path in stamps))
    if not len(index):
        message = _nothing_in(index)
        raise NoneUsableError(message, tuple(index.skipped)) if index.skipped else ValueError(message)
    return index


def _in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    threads = os.cpu_count() or 1
    return work_ahead(work, items, threads=threads, ahead=4 * threads)


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of change. Raises ValueError."""
    try:
        info = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise ValueError(f"{printable(path)}: {reason_of(error)}") from error
    if stat.S_ISDIR(info.st_mode):
        raise ValueError(f"{printable(path)}: a folder, not a tar file")
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"{printable(path)}: not a regular file")
    return info.st_size, info.st_mtime_ns


def _list(path: str, size: int, mtime_ns: int) -> Shard:
    """A shard with all members that claim to be pictures, not yet checked. Raises ValueError."""
    offsets, sizes, names = array("q"), array("q"), _Names()
    skipped = []
    others, example = 0, ""
    try:
        for name, offset, length, flaw in list_members(path, size):
            if name and not _claims_to_be_picture(name):
                others, example = others + 1, example or name
                continue
            try:
                refuse_huge(length)
            except ValueError as error:
                flaw = str(error)
            if flaw:
                skipped.append((name, flaw))
                continue
            offsets.append(offset)
            sizes.append(length)
            names.add(json.dumps(name).encode())
    except OSError as error:
        raise ValueError(f"{printable(path)}: {reason_of(error)}") from error
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from error
    pictures = np.zeros(len(offsets), PICTURE)
    pictures["offset"], pictures["bytes"] = offsets, sizes
    return Shard(
        path=path,
        size=size,
        mtime_ns=mtime_ns,
        pictures=pictures,
        kinds=(),
        names=names.finish(),
        skipped=tuple(skipped),
        others=others,
        example=example,
    )


def _claims_to_be_picture(name: str) -> bool:
    key, dot, ending = name.rpartition("/")[2].partition(".")
    return bool(key) and (dot + ending).lower() in ENDINGS


class _Names:
    """Lines, compressed as they come: those of a shard with millions of pictures would fill much memory."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self.compressor = zlib.compressobj()
        self.parts: list[bytes] = []
        for line in lines:
            self.add(line)

    def add(self, line: bytes) -> None:
        self.parts.append(self.compressor.compress(line + b"\n"))

    def finish(self) -> bytes:
        return b"".join(self.parts) + self.compressor.flush()


def _lines(names: bytes) -> list[bytes]:
    return zlib.decompress(names).split(b"\n")[:-1]


def _check(unchecked: Sequence[Shard], report: OnProgress) -> Generator[Shard]:
    """Decode every picture, and remember each shard as soon as it is done. Raises ValueError where one has changed."""
    total = sum(len(shard.pictures) for shard in unchecked)
    every = ((shard, picture) for shard in unchecked for picture in range(len(shard.pictures)))
    checked = itertools.count(1)
    with closing(_in_threads(_examine, every)) as results:
        for shard in unchecked:
            kinds: dict[str, int] = {}
            bad: dict[int, Exception] = {}
            for picture, found in enumerate(itertools.islice(results, len(shard.pictures))):
                if isinstance(found, Examined):
                    offset, size, *_ = shard.pictures[picture].item()
                    kind = kinds.setdefault(found.kind, len(kinds))
                    shard.pictures[picture] = (offset, size, found.width, found.height, kind, found.plain)
                else:
                    bad[picture] = found
                report("checking images", next(checked), total)
            done = _without(replace(shard, kinds=tuple(kinds)), bad)
            # Causes that are not in the file may be gone next time.
            if not any(isinstance(error, OSError) for error in bad.values()):
                _save(done)
            yield done


def _examine(where: tuple[Shard, int]) -> Examined | OSError | ValueError:
    shard, picture = where
    try:
        data = shard.read(picture)
    except OSError as error:
        return error
    except ValueError as error:
        raise ValueError(f"{printable(shard.path)}: {error}") from error
    try:
        return examine(data)
    except ValueError as error:
        return error


def _without(shard: Shard, bad: dict[int, Exception]) -> Shard:
    """A shard whose bad pictures are among those skipped."""
    if not bad:
        return shard
    lines = _lines(shard.names)
    reasons = [
        (json.loads(lines[picture]), reason_of(error) if isinstance(error, OSError) else str(error))
        for picture, error in bad.items()
    ]
    return replace(
        shard,
        pictures=np.delete(shard.pictures, list(bad)),
        names=_Names(line for picture, line in enumerate(lines) if picture not in bad).finish(),
        skipped=(*reasons, *shard.skipped),
    )


def _nothing_in(index: ShardIndex) -> str:
    others = sum(shard.others for shard in index.shards)
    if index.skipped and (not others or any(name for shard in index.shards for name, _ in shard.skipped)):
        first, more = index.skipped[0], len(index.skipped) - 1
        return f"no usable picture in {index.origin}; {first.path}: {first.reason}" + more * f" (and {more:,} more)"
    seen = "; nothing is in there"
    if others:
        example = next(shard.member(shard.example) for shard in index.shards if shard.others)
        seen = f", but {others:,} other member{'s' * (others != 1)}, as {example}"
    return f"no pictures ({', '.join(ENDINGS)}) in {index.origin}{seen}"


def _cache_path(shard: str) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(shard))).hexdigest()[:24]
    return cache_folder() / "shards" / name


def _load(path: str, size: int, mtime_ns: int) -> Shard | None:
    """What an earlier run found; None where that is missing, damaged, of another version or of an older shard."""
    line, _, body = (read_cached(_cache_path(path)) or b"{}").partition(b"\n")
    try:
        found = strict_json.parse(line)
        if found.get("format") != _FORMAT or found["stamp"] != [size, mtime_ns]:
            return None
        pictures = np.frombuffer(body, PICTURE, found["pictures"])
        _check_index(found, pictures, size)
        return _shard(path, size, mtime_ns, found, pictures, body[pictures.nbytes :])
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return None


def _check_index(found: dict[str, Any], pictures: NDArray[np.void], size: int) -> None:
    """Raises ValueError where what was kept can't be of a shard of this size."""
    ends = pictures["offset"] + pictures["bytes"]
    sides = (pictures["width"], pictures["height"])
    texts = (found["example"], *found["kinds"], *itertools.chain.from_iterable(found["skipped"]))
    if (
        (pictures["offset"] < 0).any()
        or (ends > size).any()
        or any((side < 1).any() or (side > MAX_PIXELS).any() for side in sides)
        or (pictures["bytes"] > MAX_BYTES).any()
        or (pictures["kind"] >= len(found["kinds"])).any()
        or type(found["others"]) is not int
        or not all(isinstance(text, str) for text in texts)
    ):
        raise ValueError("not an index of this shard")


def _shard(
    path: str, size: int, mtime_ns: int, found: dict[str, Any], pictures: NDArray[np.void], names: bytes
) -> Shard:
    return Shard(
        path=path,
        size=size,
        mtime_ns=mtime_ns,
        pictures=pictures,
        kinds=tuple(found["kinds"]),
        names=names,
        skipped=tuple((name, reason) for name, reason in found["skipped"]),
        others=found["others"],
        example=found["example"],
    )


def _save(shard: Shard) -> None:
    """A line of JSON, the array, the names."""
    found = {
        "format": _FORMAT,
        "stamp": [shard.size, shard.mtime_ns],
        "pictures": len(shard.pictures),
        "kinds": shard.kinds,
        "skipped": shard.skipped,
        "others": shard.others,
        "example": shard.example,
    }
    body = json.dumps(found).encode("ascii") + b"\n" + shard.pictures.tobytes() + shard.names
    write_cached(_cache_path(shard.path), body)
