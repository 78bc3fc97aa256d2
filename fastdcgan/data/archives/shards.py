"""Archives of pictures, tar and zip: read at random positions, and never unpacked.

Which members are pictures their names say (`samples.py`). An archive's headers are read and its pictures checked once;
the result is cached.
"""

import hashlib
import itertools
import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fastdcgan.data.archives.listing import NESTED, check_shards, list_shard, map_in_threads
from fastdcgan.data.archives.shard import Shard
from fastdcgan.data.archives.shard_cache import load_cached
from fastdcgan.data.archives.shard_names import expand_shards, make_absolute
from fastdcgan.data.decoding.formats import FORMAT_NAMES
from fastdcgan.data.decoding.picture import PictureInfo
from fastdcgan.data.folder import NoUsablePictureError, OnProgress, os_error_reason
from fastdcgan.data.labels import Labels, labels_from_numbers, labels_from_paths
from fastdcgan.data.source import Skipped, count_files, describe_hidden
from fastdcgan.storage.printable import printable
from fastdcgan.storage.settled import settled_stat
from fastdcgan.storage.wording import counted


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex:
    """`EncodedPictures` of archives, in the order of the shards and of their members."""

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
        _, size, _, width, height, kind, plain = shard.pictures[picture].item()
        return PictureInfo(width, height, plain, shard.kinds[kind], size)

    def name(self, number: int) -> str:
        """See `EncodedPictures.name`."""
        shard, picture = self._find(number)
        return shard.describe_picture(picture)

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
    def labels(self) -> Labels | None:
        """See `EncodedPictures.labels`."""
        labels = [shard.labels for shard in self.shards if shard.labels is not None]
        if len(labels) == len(self.shards):
            return labels_from_numbers(np.concatenate(labels))
        return labels_from_paths(name for shard in self.shards for name in shard.picture_names())

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((len(shard.pictures) for shard in self.shards), initial=0))

    def _find(self, number: int) -> tuple[Shard, int]:
        shard = bisect_right(self._starts, number) - 1
        return self.shards[shard], number - self._starts[shard]


def open_shards(spec: str, on_progress: OnProgress | None = None) -> ShardIndex:
    """Find the pictures in tar or zip files, and check each by decoding it.

    The result is cached shard by shard, so that next time only new and changed shards (by size and time of
    modification) are read; an interrupted check keeps the shards that it has finished.

    Args:
        spec: see `expand_shards`.
        on_progress: called with ("listing shards", done, total), then with ("checking images", done, total), unless
            all is cached.

    Raises:
        ValueError: a shard is missing or no archive, or there is not one usable picture in them.
    """
    report = on_progress or (lambda what, done, total: None)
    stamps = {path: _stamp(path) for path in expand_shards(spec)}
    shards = {path: shard for path, stamp in stamps.items() if (shard := load_cached(path, *stamp)) is not None}
    new = [path for path in stamps if path not in shards]
    listed = []
    with closing(map_in_threads(lambda path: list_shard(path, *stamps[path]), new)) as results:
        for one in results:
            listed.append(one)
            report("listing shards", len(listed), len(new))
    shards |= {shard.path: shard for shard in check_shards(listed, report)}
    index = ShardIndex(origin=printable(make_absolute(spec)), shards=tuple(shards[path] for path in stamps))
    if not len(index):
        message = _no_pictures_message(index)
        raise NoUsablePictureError(message, tuple(index.skipped)) if index.skipped else ValueError(message)
    return index


def _stamp(path: str) -> tuple[int, int]:
    """Size (bytes) and time of modification (ns) of a regular file. Raises ValueError."""
    try:
        info = settled_stat(path)
    except OSError as error:
        raise ValueError(f"{printable(path)}: {os_error_reason(error)}") from error
    if stat.S_ISDIR(info.st_mode):
        raise ValueError(f"{printable(path)}: a folder, not an archive")
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"{printable(path)}: not a regular file")
    return info.st_size, info.st_mtime_ns


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
        seen = f", but {counted(count, 'other member')}, as {others[0].path}"
        seen += f" ({NESTED})" * (others[0].reason == NESTED)
    return f"no pictures ({FORMAT_NAMES}) in {index.origin}{seen}{left_out}"
