"""Which members of an archive are pictures of their own, and whether each can be decoded."""

import itertools
import json
import zlib
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.archives.members import Member
from fastdcgan.data.archives.samples import count_sharing, second_pictures
from fastdcgan.data.archives.shard import PICTURE_DTYPE, CompressedLines, PassedOver, Shard, decompress_lines
from fastdcgan.data.archives.shard_cache import save_cached
from fastdcgan.data.archives.tar_headers import list_tar_members
from fastdcgan.data.archives.zip_headers import BEGINNINGS, list_zip_members
from fastdcgan.data.decoding.formats import has_picture_suffix
from fastdcgan.data.decoding.picture import PictureInfo, examine, lock_if_large
from fastdcgan.data.decoding.prefetch import Item, Result, prefetch_map
from fastdcgan.data.folder import OnProgress, os_error_reason, refuse_oversized
from fastdcgan.data.hidden import why_hidden
from fastdcgan.data.labels import DATASET_JSON, MAX_DATASET_JSON, read_dataset_json
from fastdcgan.data.source import SECOND_PICTURE, SkippedCount
from fastdcgan.limits.cores import usable_cores
from fastdcgan.storage.printable import printable

NO_PICTURE = "no picture by its name"
NESTED = "an archive in the archive, which is not looked into: unpack it"

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


@dataclass(frozen=True, kw_only=True)
class ListedShard:
    """An archive whose pictures are still to be checked."""

    shard: Shard
    """With all members that have a picture's suffix."""

    checksums: Sequence[int | None]
    """Of its pictures, where the archive has them."""


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """`prefetch_map` on all cores."""
    threads = usable_cores()
    return prefetch_map(work, items, threads=threads, depth=4 * threads)


def list_shard(path: str, size: int, mtime_ns: int) -> ListedShard:
    """The pictures of an archive by its headers and names. Raises ValueError."""
    pictures = _Pictures()
    skipped = []
    passed_over = SkippedCount()
    labels: Member | None = None
    try:
        for member in list_members(path, size):
            if member.name.removeprefix("./") == DATASET_JSON and not member.problem:
                labels = member
                continue
            reason, kind = why_hidden(member.name)
            if member.name and not reason and not has_picture_suffix(member.name):
                nested = member.name.lower().endswith(_ARCHIVE_SUFFIXES)
                reason, kind = NESTED if nested else NO_PICTURE, _suffix(member.name)
            if reason:
                passed_over.add(member.name, reason, kind)
            elif problem := _too_large(member) or member.problem:
                skipped.append((member.name, problem))
            else:
                pictures.add(member)
    except OSError as error:
        raise ValueError(f"{printable(path)}: {os_error_reason(error)}") from error
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from error
    for second in pictures.without_seconds(name for name, _ in skipped):
        passed_over.add(second, SECOND_PICTURE, _suffix(second))
    shard = Shard(
        path=path,
        size=size,
        mtime_ns=mtime_ns,
        pictures=pictures.as_array(),
        labels=None,
        kinds=(),
        names=CompressedLines(json.dumps(name).encode() for name in pictures.names).finish(),
        skipped=tuple(skipped),
        passed_over=tuple(PassedOver(*passed) for passed in passed_over),
        sharing=count_sharing(pictures.names),
    )
    if labels is not None:
        shard = _with_labels(shard, labels, pictures.names)
    return ListedShard(shard=shard, checksums=pictures.checksums)


def list_members(path: str, size: int) -> Generator[Member]:
    """Yield the members of a tar or zip file, but folders.

    Args:
        path: of the archive.
        size: its size in bytes.

    Raises:
        ValueError: it is neither, or damaged from the beginning; the message is the reason without the path.
        OSError: it can't be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        begins_like_a_zip = file.read(4) in BEGINNINGS
    if begins_like_a_zip or path.lower().endswith(".zip"):
        return list_zip_members(path)
    return list_tar_members(path, size)


def check_shards(listed: Sequence[ListedShard], report: OnProgress) -> Generator[Shard]:
    """Check every picture, and cache each shard as soon as it is done. Raises ValueError where one has changed."""
    total = sum(len(one.shard.pictures) for one in listed)
    all_pictures = ((one, picture) for one in listed for picture in range(len(one.shard.pictures)))
    checked = itertools.count(1)
    with closing(map_in_threads(_examine_picture, all_pictures)) as results:
        for one in listed:
            pictures = one.shard.pictures
            kinds: dict[str, int] = {}
            bad: dict[int, Exception] = {}
            for picture, found in enumerate(itertools.islice(results, len(pictures))):
                if isinstance(found, PictureInfo):
                    kind = kinds.setdefault(found.kind, len(kinds))
                    pictures[["width", "height", "kind", "plain"]][picture] = (
                        *(found.width, found.height, kind, found.plain),
                    )
                else:
                    bad[picture] = found
                report("checking images", next(checked), total)
            done = _without_bad(replace(one.shard, kinds=tuple(kinds)), bad)
            # Not cached after an OSError, whose cause may be gone next time.
            if not any(isinstance(error, OSError) for error in bad.values()):
                save_cached(done)
            yield done


class _Pictures:
    """The members that are pictures, collected in little memory."""

    def __init__(self) -> None:
        self.offsets, self.sizes, self.deflated = array("q"), array("q"), array("q")
        self.checksums: list[int | None] = []
        self.names: list[str] = []

    def add(self, member: Member) -> None:
        self.offsets.append(member.offset)
        self.sizes.append(member.bytes)
        self.deflated.append(member.deflated)
        self.checksums.append(member.checksum)
        self.names.append(member.name)

    def without_seconds(self, others: Iterable[str]) -> list[str]:
        """Take out the pictures that only continue another's name (see `samples.py`), and return their names."""
        seconds = second_pictures(self.names, others)
        names = [self.names[second] for second in seconds]
        for second in reversed(seconds):
            for values in (self.offsets, self.sizes, self.deflated, self.checksums, self.names):
                del values[second]
        return names

    def as_array(self) -> NDArray[np.void]:
        """`PICTURE_DTYPE` [N], without what only decoding tells."""
        pictures = np.zeros(len(self.names), PICTURE_DTYPE)
        pictures["offset"], pictures["bytes"], pictures["deflated"] = self.offsets, self.sizes, self.deflated
        return pictures


def _too_large(member: Member) -> str:
    try:
        refuse_oversized(max(member.bytes, member.deflated))
    except ValueError as error:
        return str(error)
    return ""


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _with_labels(shard: Shard, member: Member, names: Sequence[str]) -> Shard:
    """The shard with the labels of its `dataset.json`, where that has one for each picture."""
    entry = np.zeros(1, PICTURE_DTYPE)
    if max(member.bytes, member.deflated) <= MAX_DATASET_JSON:
        entry["offset"], entry["bytes"], entry["deflated"] = member.offset, member.bytes, member.deflated
        file = replace(shard, pictures=entry)
        try:
            return replace(shard, labels=read_dataset_json(file.read(0), names))
        except (OSError, ValueError):
            pass
    return shard


def _examine_picture(where: tuple[ListedShard, int]) -> PictureInfo | OSError | ValueError:
    one, picture = where
    shard = one.shard
    with lock_if_large(int(shard.pictures[picture]["bytes"])):
        try:
            stored = shard.read_stored(picture)
        except OSError as error:
            return error
        except ValueError as error:
            raise ValueError(f"{printable(shard.path)}: {error}") from error
        try:
            data = shard.inflate(picture, stored)
            if one.checksums[picture] not in (None, zlib.crc32(data)):
                raise ValueError("damaged in the archive: its checksum differs")
            return examine(data)
        except ValueError as error:
            return error


def _without_bad(shard: Shard, bad: dict[int, Exception]) -> Shard:
    """The shard with its bad pictures moved to `skipped`."""
    if not bad:
        return shard
    lines = decompress_lines(shard.names)
    reasons = [
        (json.loads(lines[picture]), os_error_reason(error) if isinstance(error, OSError) else str(error))
        for picture, error in bad.items()
    ]
    return replace(
        shard,
        pictures=np.delete(shard.pictures, list(bad)),
        labels=None if shard.labels is None else np.delete(shard.labels, list(bad)),
        names=CompressedLines(line for picture, line in enumerate(lines) if picture not in bad).finish(),
        skipped=(*reasons, *shard.skipped),
    )
