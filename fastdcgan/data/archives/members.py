"""The files in an archive, tar or zip, as its headers name them. Nothing is unpacked."""

from typing import NamedTuple


class Member(NamedTuple):
    """A file in an archive, stored from `offset` on."""

    name: str
    """As stored; empty where `problem` is of the archive as a whole."""

    offset: int
    bytes: int
    """Once inflated."""

    problem: str
    """Why it can't be read; empty where it can."""

    deflated: int = 0
    """Bytes that it takes in the archive where it is compressed by deflate; 0 where it is stored as it is."""

    checksum: int | None = None
    """CRC-32, where the archive has one."""
