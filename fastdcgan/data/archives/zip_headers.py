"""The members of a zip file, read from the list at its end and from their headers. Nothing is unpacked."""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Sequence
from io import FileIO
from typing import Any

from fastdcgan.data.archives.members import Member

BEGINNINGS = (b"PK\3\4", b"PK\5\6")
"""Of a zip file with members, and of one without."""

MAX_LIST_BYTES = 2**28
"""Limit of the list of members, which is read into memory: enough for three million."""

LEADS_OUT = "its name leads out of the archive"

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x2041  # traditional or strong encryption, or a masked list
_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    EOFError,
    NotImplementedError,
)
"""What `zipfile` raises on damaged lists."""


def list_zip_members(path: str) -> Generator[Member]:
    """Yield every member of a zip file but folders, in the order of its list.

    Raises:
        ValueError: it is no zip file, or cut off; the message is the reason without the path.
        OSError: it can't be read.
    """
    with _LimitedFile(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except _ERRORS as error:
            raise ValueError("not a zip file, or cut off: the list of its members is missing at its end") from error
        overlapping = _overlapping(members)
        for place, info in enumerate(members):
            if info.filename.endswith("/"):  # not is_dir, which fails on a name that is empty
                continue
            # Backslashes are what some programs on Windows write for slashes.
            name = info.filename.replace("\\", "/")
            deflated = info.compress_size if info.compress_type == zipfile.ZIP_DEFLATED else 0
            problem = "overlaps another member" if place in overlapping else _problem(info, name)
            offset = 0 if problem else _offset_of_data(file, info.header_offset)
            if offset is None:
                problem = "damaged: its header is missing"
            yield Member(name, offset or 0, info.file_size, problem, deflated, info.CRC)


class _LimitedFile(FileIO):
    """A zip file of which no more than `MAX_LIST_BYTES` bytes are read at a time."""

    def read(self, size: int | None = -1, /) -> Any:
        """Raises ValueError."""
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MAX_LIST_BYTES:
            raise ValueError("list too long")
        return super().read(size)


def _overlapping(members: Sequence[zipfile.ZipInfo]) -> set[int]:
    """Places of members that begin within another one. By these a small zip file could unpack to petabytes."""
    found = set()
    end = 0
    for place in sorted(range(len(members)), key=lambda place: members[place].header_offset):
        info = members[place]
        if info.header_offset < end:
            found.add(place)
        else:
            end = info.header_offset + _LOCAL_HEADER.size + info.compress_size
    return found


def _problem(info: zipfile.ZipInfo, name: str) -> str:
    if not name:
        return "damaged: a member of it has no name"
    # The format forbids such names; Windows' folders have no kind.
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        return LEADS_OUT
    if info.flag_bits & _ENCRYPTED or info.compress_type == 99:
        return "encrypted"
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was made on Windows
    if kind == stat.S_IFLNK:
        return "a link, not a file"
    if kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"compressed by {method}, which is not read; zip it anew as usual (deflate) or uncompressed"
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return "damaged: two sizes are given for it"
    return ""


def _offset_of_data(file: FileIO, header: int) -> int | None:
    """Where a member's data begin; None where there is no header. Raises OSError."""
    if header < 0:
        return None
    file.seek(header)
    data = file.read(_LOCAL_HEADER.size)
    if len(data) < _LOCAL_HEADER.size:
        return None
    mark, name, extra = _LOCAL_HEADER.unpack(data)
    return header + _LOCAL_HEADER.size + int(name) + int(extra) if mark == b"PK\3\4" else None
