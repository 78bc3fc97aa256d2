"""WebDataset tar shards: pictures read at random positions of tar files, which are never unpacked.

Which members are pictures their names say (`samples.py`). A shard's headers are read and its pictures checked once; the
result is cached.
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
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from fastdcgan.data.archives.samples import count_sharing, second_pictures
from fastdcgan.data.archives.shard_names import expand_shards, make_absolute
from fastdcgan.data.archives.tar_headers import list_members
from fastdcgan.data.decoding.picture import MAX_PIXELS, PictureInfo, examine
from fastdcgan.data.decoding.prefetch import Item, Result, prefetch_map
from fastdcgan.data.folder import (
    MAX_BYTES,
    PICTURE_SUFFIXES,
    NoUsablePictureError,
    OnProgress,
    has_picture_suffix,
    hidden_files,
    os_error_reason,
    refuse_oversized,
)
from fastdcgan.data.hidden import HIDDEN_FILE, IN_HIDDEN_FOLDER, why_hidden
from fastdcgan.data.source import Skipped, SkippedCount, count_files, describe_hidden
from fastdcgan.limits.cores import usable_cores
from fastdcgan.storage import strict_json
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached
from fastdcgan.storage.printable import printable

PICTURE_DTYPE = np.dtype(
    [("offset", "<i8"), ("bytes", "<u4"), ("width", "<u4"), ("height", "<u4"), ("kind", "<u2"), ("plain", "?")]
)
"""A picture in the index of a shard, 23 bytes. `kind` is an index into `Shard.kinds`."""

_FORMAT = f"fastdcgan shard 4, Pillow {PIL.__version__}"

SECOND_PICTURE = "continues the name of another picture, as x.seg.png that of x.jpg, so it is no second one"
NO_PICTURE = "no picture by its name"


class PassedOver(NamedTuple):
    """Members of one suffix, or kind of hidden name, that are left out for what they are called."""

    name: str
    """Of the first."""

    reason: str
    members: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """A tar file, as it was when it was checked."""

    path: str
    size: int
    """In bytes."""

    mtime_ns: int
    pictures: NDArray[np.void]
    """`PICTURE_DTYPE` [N]: the usable ones."""

    kinds: tuple[str, ...]
    names: bytes
    """Of the usable pictures: lines of JSON, compressed, as only error messages need them."""

    skipped: tuple[tuple[str, str], ...]
    """Names of members ("" for the shard itself) and reasons."""

    passed_over: tuple[PassedOver, ...]
    """Members that aren't pictures of their own, by their names: `SECOND_PICTURE`, `NO_PICTURE` and hidden ones."""

    sharing: int
    """How many pictures have the same WebDataset key as another: all are used."""

    def describe_picture(self, picture: int) -> str:
        """A usable picture's shard and name, for the user."""
        return self.describe_member(json.loads(_decompress_lines(self.names)[picture]))

    def describe_member(self, name: str) -> str:
        """The shard and the name of a member, for the user."""
        return f"{printable(self.path)}: {printable(name)}" if name else printable(self.path)

    def describe_passed_over(self, passed: PassedOver) -> Skipped:
        """Members that are left out for what they are called, for the user."""
        path = self.describe_member(passed.name)
        if passed.reason in (HIDDEN_FILE, IN_HIDDEN_FOLDER):
            return hidden_files(path, *passed)
        not_a_picture = passed.reason == NO_PICTURE
        return Skipped(path=path, reason=passed.reason, not_a_picture=not_a_picture, count=passed.members)

    def read(self, picture: int) -> bytes:
        """The bytes of a picture.

        Raises:
            OSError: they can't be read.
            ValueError: the shard was changed since it was checked; the message is the reason without the path.
        """
        offset, length, *_ = self.pictures[picture].item()
        # Opened for every read: that is fast, threads share no position, and descriptors can't run out.
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
        bad = [
            Skipped(path=shard.describe_member(name), reason=reason)
            for shard in self.shards
            for name, reason in shard.skipped
        ]
        named = [shard.describe_passed_over(passed) for shard in self.shards for passed in shard.passed_over]
        return tuple(bad + sorted(named, key=lambda skip: (skip.not_a_picture, bool(skip.hidden))))

    @property
    def remark(self) -> str:
        """How keys with several pictures were read, for the user; "" where there are none."""
        sharing = sum(shard.sharing for shard in self.shards)
        return f"; {sharing:,} share their name up to the first dot with another, and each is used" if sharing else ""

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

    def info(self, number: int) -> PictureInfo:
        """See `EncodedPictures.info`."""
        shard, picture = self._find(number)
        _, size, width, height, kind, plain = shard.pictures[picture].item()
        return PictureInfo(width, height, plain, shard.kinds[kind], size)

    def read_bytes(self, number: int) -> bytes:
        """See `EncodedPictures.read_bytes`."""
        shard, picture = self._find(number)
        try:
            return shard.read(picture)
        except OSError as error:
            raise ValueError(f"{shard.describe_picture(picture)}: {os_error_reason(error)}") from error
        except ValueError as error:
            raise ValueError(f"{shard.describe_picture(picture)}: {error}") from error

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((len(shard.pictures) for shard in self.shards), initial=0))

    def _find(self, number: int) -> tuple[Shard, int]:
        shard = bisect_right(self._starts, number) - 1
        return self.shards[shard], number - self._starts[shard]


def open_shards(spec: str, on_progress: OnProgress | None = None) -> ShardIndex:
    """Find the pictures in tar shards, and check each by decoding it.

    The result is cached shard by shard, so that next time only new and changed shards (by size and time of
    modification) are read; an interrupted check keeps the shards that it has finished.

    Args:
        spec: see `expand_shards`.
        on_progress: called with ("listing shards", done, total), then with ("checking images", done, total), unless
            all is cached.

    Raises:
        ValueError: a shard is missing or no tar file, or there is not one usable picture in them.
    """
    report = on_progress or (lambda what, done, total: None)
    stamps = {path: _stamp(path) for path in expand_shards(spec)}
    shards = {path: shard for path, stamp in stamps.items() if (shard := _load_cached(path, *stamp)) is not None}
    new = [path for path in stamps if path not in shards]
    unchecked = []
    with closing(_map_in_threads(lambda path: _list_shard(path, *stamps[path]), new)) as listed:
        for shard in listed:
            unchecked.append(shard)
            report("listing shards", len(unchecked), len(new))
    shards |= {shard.path: shard for shard in _check_shards(unchecked, report)}
    index = ShardIndex(origin=printable(make_absolute(spec)), shards=tuple(shards[path] for path in stamps))
    if not len(index):
        message = _no_pictures_message(index)
        raise NoUsablePictureError(message, tuple(index.skipped)) if index.skipped else ValueError(message)
    return index


def _map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    threads = usable_cores()
    return prefetch_map(work, items, threads=threads, depth=4 * threads)


def _stamp(path: str) -> tuple[int, int]:
    """Size (bytes) and time of modification (ns) of a regular file. Raises ValueError."""
    try:
        info = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise ValueError(f"{printable(path)}: {os_error_reason(error)}") from error
    if stat.S_ISDIR(info.st_mode):
        raise ValueError(f"{printable(path)}: a folder, not a tar file")
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"{printable(path)}: not a regular file")
    return info.st_size, info.st_mtime_ns


def _list_shard(path: str, size: int, mtime_ns: int) -> Shard:
    """A shard with all members that have a picture's suffix, not yet checked. Raises ValueError."""
    offsets, sizes, names = array("q"), array("q"), list[str]()
    skipped = []
    passed_over = SkippedCount()
    try:
        for name, offset, length, problem in list_members(path, size):
            reason, kind = why_hidden(name)
            if name and not reason and not has_picture_suffix(name):
                reason, kind = NO_PICTURE, _suffix(name)
            if reason:
                passed_over.add(name, reason, kind)
                continue
            try:
                refuse_oversized(length)
            except ValueError as error:
                problem = str(error)
            if problem:
                skipped.append((name, problem))
                continue
            offsets.append(offset)
            sizes.append(length)
            names.append(name)
    except OSError as error:
        raise ValueError(f"{printable(path)}: {os_error_reason(error)}") from error
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from error
    pictures = np.zeros(len(offsets), PICTURE_DTYPE)
    pictures["offset"], pictures["bytes"] = offsets, sizes
    seconds = second_pictures(names, (name for name, _ in skipped))
    for second in seconds:
        passed_over.add(names[second], SECOND_PICTURE, _suffix(names[second]))
    left_out = set(seconds)
    names = [name for place, name in enumerate(names) if place not in left_out]
    return Shard(
        path=path,
        size=size,
        mtime_ns=mtime_ns,
        pictures=np.delete(pictures, seconds),
        kinds=(),
        names=_CompressedLines(json.dumps(name).encode() for name in names).finish(),
        skipped=tuple(skipped),
        passed_over=tuple(PassedOver(*passed) for passed in passed_over),
        sharing=count_sharing(names),
    )


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


class _CompressedLines:
    """Lines, compressed as they are added: the names of millions of pictures would take much memory."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self.compressor = zlib.compressobj()
        self.parts: list[bytes] = []
        for line in lines:
            self.add(line)

    def add(self, line: bytes) -> None:
        self.parts.append(self.compressor.compress(line + b"\n"))

    def finish(self) -> bytes:
        return b"".join(self.parts) + self.compressor.flush()


def _decompress_lines(names: bytes) -> list[bytes]:
    return zlib.decompress(names).split(b"\n")[:-1]


def _check_shards(unchecked: Sequence[Shard], report: OnProgress) -> Generator[Shard]:
    """Check every picture, and cache each shard as soon as it is done. Raises ValueError where one has changed."""
    total = sum(len(shard.pictures) for shard in unchecked)
    all_pictures = ((shard, picture) for shard in unchecked for picture in range(len(shard.pictures)))
    checked = itertools.count(1)
    with closing(_map_in_threads(_examine_picture, all_pictures)) as results:
        for shard in unchecked:
            kinds: dict[str, int] = {}
            bad: dict[int, Exception] = {}
            for picture, found in enumerate(itertools.islice(results, len(shard.pictures))):
                if isinstance(found, PictureInfo):
                    offset, size, *_ = shard.pictures[picture].item()
                    kind = kinds.setdefault(found.kind, len(kinds))
                    shard.pictures[picture] = (offset, size, found.width, found.height, kind, found.plain)
                else:
                    bad[picture] = found
                report("checking images", next(checked), total)
            done = _without_bad(replace(shard, kinds=tuple(kinds)), bad)
            # Not cached after an OSError, whose cause may be gone next time.
            if not any(isinstance(error, OSError) for error in bad.values()):
                _save_cached(done)
            yield done


def _examine_picture(where: tuple[Shard, int]) -> PictureInfo | OSError | ValueError:
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


def _without_bad(shard: Shard, bad: dict[int, Exception]) -> Shard:
    """The shard with its bad pictures moved to `skipped`."""
    if not bad:
        return shard
    lines = _decompress_lines(shard.names)
    reasons = [
        (json.loads(lines[picture]), os_error_reason(error) if isinstance(error, OSError) else str(error))
        for picture, error in bad.items()
    ]
    return replace(
        shard,
        pictures=np.delete(shard.pictures, list(bad)),
        names=_CompressedLines(line for picture, line in enumerate(lines) if picture not in bad).finish(),
        skipped=(*reasons, *shard.skipped),
    )


def _no_pictures_message(index: ShardIndex) -> str:
    others = [skip for skip in index.skipped if skip.not_a_picture and not skip.hidden]
    hidden = describe_hidden(index.skipped)
    bad = [skip for skip in index.skipped if not skip.not_a_picture]
    if bad and (not others or any(name for shard in index.shards for name, _ in shard.skipped)):
        first, more = bad[0], count_files(bad) - 1
        tail = f" (and {more:,} more)" if more else ""
        return f"no usable picture in {index.origin}; {first.path}: {first.reason}{tail}"
    seen = "" if hidden else "; nothing is in there"
    left_out = f"; left out: {hidden}" if hidden else ""
    if others:
        count = count_files(others)
        seen = f", but {count:,} other member{'s' * (count != 1)}, as {others[0].path}"
    return f"no pictures ({', '.join(PICTURE_SUFFIXES)}) in {index.origin}{seen}{left_out}"


def _cache_path(shard: str) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(shard))).hexdigest()[:24]
    return cache_folder() / "shards" / name


def _load_cached(path: str, size: int, mtime_ns: int) -> Shard | None:
    """The cached index of a shard; None where it is missing, damaged, of another version or of a changed shard."""
    line, _, body = (read_cached(_cache_path(path)) or b"{}").partition(b"\n")
    try:
        found = strict_json.parse(line)
        if found.get("format") != _FORMAT or found["stamp"] != [size, mtime_ns]:
            return None
        pictures = np.frombuffer(body, PICTURE_DTYPE, found["pictures"])
        _check_cached(found, pictures, size)
        return _shard_from_cache(path, size, mtime_ns, found, pictures, body[pictures.nbytes :])
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return None


def _check_cached(found: dict[str, Any], pictures: NDArray[np.void], size: int) -> None:
    """Raises ValueError where a cached index can't be of a shard of `size` bytes."""
    ends = pictures["offset"] + pictures["bytes"]
    sides = (pictures["width"], pictures["height"])
    passed_over = [PassedOver(*passed) for passed in found["passed_over"]]
    named = (text for passed in passed_over for text in (passed.name, passed.reason))
    texts = (*found["kinds"], *itertools.chain.from_iterable(found["skipped"]), *named)
    counts = (found["sharing"], *(passed.members for passed in passed_over))
    if (
        (pictures["offset"] < 0).any()
        or (ends > size).any()
        or any((side < 1).any() or (side > MAX_PIXELS).any() for side in sides)
        or (pictures["bytes"] > MAX_BYTES).any()
        or (pictures["kind"] >= len(found["kinds"])).any()
        or not all(type(count) is int and 0 <= count <= size for count in counts)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise ValueError("not an index of this shard")


def _shard_from_cache(
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
        passed_over=tuple(PassedOver(*passed) for passed in found["passed_over"]),
        sharing=found["sharing"],
    )


def _save_cached(shard: Shard) -> None:
    """Cache a shard's index: a line of JSON, the array, the names."""
    found = {
        "format": _FORMAT,
        "stamp": [shard.size, shard.mtime_ns],
        "pictures": len(shard.pictures),
        "kinds": shard.kinds,
        "skipped": shard.skipped,
        "passed_over": shard.passed_over,
        "sharing": shard.sharing,
    }
    body = json.dumps(found).encode("ascii") + b"\n" + shard.pictures.tobytes() + shard.names
    write_cached(_cache_path(shard.path), body)
