"""The members of a tar file, read from its headers alone, also of damaged ones. Nothing is unpacked."""

import io
import tarfile
from collections.abc import Generator
from typing import Any

from fastdcgan.data.archives.members import Member
from fastdcgan.storage.printable import printable

MAX_HEADER_BYTES = 2**15
"""Limit of the headers of one member, with long names; damaged ones would ask for any amount."""

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
TAR_ERRORS = (
    tarfile.TarError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    EOFError,
)
"""What `tarfile` raises on damaged headers."""


def list_tar_members(path: str, size: int) -> Generator[Member]:
    """Yield every member of a tar file but folders, in order, up to where it is damaged or truncated.

    Args:
        path: of the tar file.
        size: its size in bytes.

    Raises:
        ValueError: it is no tar file, or compressed; the message is the reason without the path.
        OSError: it can't be read.
    """
    with _LimitedFile(path) as file:
        tar = _open(file)
        tar.offset = 0
        while True:
            start = tar.offset
            tar.pax_headers = {}  # global headers: not needed, and copied for each member
            file.seek(start)
            file.left = tarfile.BLOCKSIZE + MAX_HEADER_BYTES
            block = file.read(tarfile.BLOCKSIZE)
            if not block:
                yield Member("", 0, 0, "it has no end mark, so it may have been cut off")
                return
            if block == bytes(tarfile.BLOCKSIZE):
                return
            file.seek(start)
            try:
                # Not tar.next(), which takes damaged headers for the end and keeps every member in memory.
                info = tarfile.TarInfo.fromtarfile(tar)
            except TAR_ERRORS:
                info = None
            if info is None or tar.offset <= start:
                cut = "cut off in the middle of a header"
                damaged = f"damaged at byte {start:,}; what comes after that is lost"
                yield Member("", 0, 0, cut if file.tell() >= size else damaged)
                return
            if tar.offset > size and info.offset_data + info.size > size:
                yield Member("", 0, 0, f"cut off in the middle of {printable(info.name)}")
                return
            if not info.isdir():
                yield Member(info.name, info.offset_data, info.size, _problem(info))


class _LimitedFile(io.FileIO):
    """A tar file of which no more than `left` bytes can be read."""

    left = tarfile.BLOCKSIZE + MAX_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> Any:
        """Raises tarfile.HeaderError."""
        if size is None or not 0 <= size <= self.left:
            raise tarfile.HeaderError("header too long")
        self.left -= size
        return super().read(size)


def _open(file: _LimitedFile) -> tarfile.TarFile:
    """Raises ValueError."""
    magic = file.read(8)
    if not magic:
        raise ValueError("an empty file, not a tar file")
    for begin, program in _COMPRESSED.items():
        if magic.startswith(begin):
            raise ValueError(f"compressed by {program}: unpack it to a plain .tar, because pictures are read at random")
    file.seek(0)
    try:
        return tarfile.TarFile(fileobj=file, mode="r", encoding="utf-8")
    except TAR_ERRORS as error:
        raise ValueError("not a tar file, or damaged from the beginning") from error


def _problem(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "a link, not a file"
    if not info.isreg():
        return "not a regular file"
    return "a sparse file" if info.issparse() else ""
