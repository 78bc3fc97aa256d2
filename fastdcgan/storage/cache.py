"""The cache folder: files that can be made again."""

import os
import zlib
from pathlib import Path

import platformdirs

from fastdcgan.storage.files import read_limited, write_replacing

MAX_BYTES = 2**32
"""Limit of a file that `read_cached` reads; the index of ten million pictures has 1 GiB."""


def cache_folder() -> Path:
    """$FASTDCGAN_CACHE, or the user's cache folder; it need not exist yet."""
    chosen = os.environ.get("FASTDCGAN_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("fastdcgan")


def read_cached(path: Path) -> bytes | None:
    """The bytes that `write_cached` wrote; None where the file is missing or damaged."""
    try:
        checksum, _, body = read_limited(path, MAX_BYTES).partition(b"\n")
        return body if int(checksum, 16) == zlib.crc32(body) else None
    except (OSError, ValueError):
        return None


def write_cached(path: Path, body: bytes) -> None:
    """Replace a file in one step, with a checksum. Where that fails, nothing is cached and nothing raised."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_replacing(path, b"%08x\n%s" % (zlib.crc32(body), body))
    except OSError:
        return
