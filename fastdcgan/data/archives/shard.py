"""One archive of pictures: where they lie in it, and their bytes."""

import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.folder import hidden_files
from fastdcgan.data.hidden import HIDDEN_FILE, IN_HIDDEN_FOLDER
from fastdcgan.data.source import SECOND_PICTURE, Skipped
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.printable import printable

PICTURE_DTYPE = np.dtype(
    [
        ("offset", "<i8"),
        ("bytes", "<u4"),
        ("deflated", "<u4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("kind", "<u2"),
        ("plain", "?"),
    ]
)
"""A picture in the index of a shard, 27 bytes. `bytes`, `deflated`: see `Member`. `kind`: an index into `Shard.kinds`.
"""


class PassedOver(NamedTuple):
    """Members of one suffix, or kind of hidden name, that are left out for what they are called."""

    name: str
    """Of the first."""

    reason: str
    members: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """A tar or zip file, as it was when it was checked."""

    path: str
    size: int
    """In bytes."""

    mtime_ns: int
    pictures: NDArray[np.void]
    """`PICTURE_DTYPE` [N]: the usable ones."""

    labels: NDArray[np.int32] | None
    """int32 [N] of the usable pictures, by `dataset.json`; None where that gives none."""

    kinds: tuple[str, ...]
    names: bytes
    """Of the usable pictures: lines of JSON, compressed, as they are seldom needed."""

    skipped: tuple[tuple[str, str], ...]
    """Names of members ("" for the shard itself) and reasons."""

    passed_over: tuple[PassedOver, ...]
    """Members that aren't pictures of their own, by their names: second pictures, other files and hidden ones."""

    sharing: int
    """How many pictures have the same WebDataset key as another: all are used."""

    def picture_names(self) -> list[str]:
        """Names of the usable pictures. Raises ValueError where they were damaged in the cache."""
        try:
            names = [json.loads(line) for line in decompress_lines(self.names)]
        except (zlib.error, ValueError, RecursionError):
            names = []
        if len(names) != len(self.pictures) or not all(isinstance(name, str) for name in names):
            folder = printable(cache_folder() / "shards")
            raise ValueError(f"{printable(self.path)}: its index in the cache is damaged: remove the folder {folder}")
        return names

    def describe_picture(self, picture: int) -> str:
        """A usable picture's shard and name, for the user."""
        return self.describe_member(self.picture_names()[picture])

    def describe_member(self, name: str) -> str:
        """The shard and the name of a member, for the user."""
        return f"{printable(self.path)}: {printable(name)}" if name else printable(self.path)

    def describe_passed_over(self, passed: PassedOver) -> Skipped:
        """Members that are left out for what they are called, for the user."""
        path = self.describe_member(passed.name)
        if passed.reason in (HIDDEN_FILE, IN_HIDDEN_FOLDER):
            return hidden_files(path, *passed)
        not_a_picture = passed.reason != SECOND_PICTURE
        return Skipped(path=path, reason=passed.reason, not_a_picture=not_a_picture, count=passed.members)

    def read(self, picture: int) -> bytes:
        """The bytes of a picture. Raises OSError and ValueError as `read_stored` and `inflate`."""
        return self.inflate(picture, self.read_stored(picture))

    def read_stored(self, picture: int) -> bytes:
        """A picture's bytes as the archive has them.

        Raises:
            OSError: they can't be read.
            ValueError: the shard was changed since it was checked; the message is the reason without the path.
        """
        offset, size, deflated, *_ = self.pictures[picture].item()
        length = deflated or size
        # Opened for every read: that is fast, threads share no position, and descriptors can't run out.
        with open(self.path, "rb") as file:  # noqa: PTH123 (a Path per read costs a third of the read)
            file.seek(offset)
            data = file.read(length)
            now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns) or len(data) != length:
            raise ValueError("the shard was changed since it was checked; start again")
        return data

    def inflate(self, picture: int, stored: bytes) -> bytes:
        """What `read_stored` gave, uncompressed. Raises ValueError where it is damaged."""
        _, size, deflated, *_ = self.pictures[picture].item()
        return inflate(stored, size) if deflated else stored


def inflate(deflated: bytes, size: int) -> bytes:
    """Uncompress what inflates to `size` bytes, and no more than these. Raises ValueError where it doesn't."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = decompressor.decompress(deflated, size + 1)  # 0 would be no limit
    except zlib.error as error:
        raise ValueError("damaged in the archive") from error
    if len(data) != size or not decompressor.eof:
        raise ValueError("damaged in the archive: it doesn't have the size that is given for it")
    return data


class CompressedLines:
    """Lines, compressed as they are added: the names of millions of pictures would take much memory."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self.compressor = zlib.compressobj()
        self.parts: list[bytes] = []
        for line in lines:
            self.add(line)

    def add(self, line: bytes) -> None:
        """Add a line, without its end."""
        self.parts.append(self.compressor.compress(line + b"\n"))

    def finish(self) -> bytes:
        """All of them, compressed."""
        return b"".join(self.parts) + self.compressor.flush()


def decompress_lines(lines: bytes) -> list[bytes]:
    """The lines that `CompressedLines` was given."""
    return zlib.decompress(lines).split(b"\n")[:-1]
