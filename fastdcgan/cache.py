"""Where this package keeps what it can make again."""

import os
import zlib
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """$FASTDCGAN_CACHE, or the user's cache folder; it may not be there yet."""
    chosen = os.environ.get("FASTDCGAN_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("fastdcgan")


def read_whole(path: Path) -> bytes | None:
    """What `write_whole` wrote; None where that is missing or damaged."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
        return body if int(checksum, 16) == zlib.crc32(body) else None
    except (OSError, ValueError):
        return None


def write_whole(path: Path, body: bytes) -> None:
    """Replace a file in one step, with a checksum. A cache that can't be written is done without."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"%08x\n%s" % (zlib.crc32(body), body))
        unfinished.replace(path)
    except OSError:
        return
