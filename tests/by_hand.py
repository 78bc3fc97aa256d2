"""Fuzzing by hand: for how long, and where what was found is kept, to be tried first the next time.

FASTDCGAN_FUZZ=600 FASTDCGAN_FUZZ_CORPUS=~/corpus pytest --all tests/fuzz tests/data/test_table_fuzz.py
"""

import hashlib
import os
from pathlib import Path

SECONDS = float(os.environ.get("FASTDCGAN_FUZZ", "0"))
"""For each door, and each kind of table."""

_CORPUS = os.environ.get("FASTDCGAN_FUZZ_CORPUS")


def keep(name: str, data: bytes) -> None:
    """Bytes that have broken a door, where a corpus is kept."""
    if _CORPUS:
        folder = Path(_CORPUS).expanduser() / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def kept(name: str) -> list[bytes]:
    """All that have ever broken it."""
    folder = Path(_CORPUS).expanduser() / name if _CORPUS else None
    return [file.read_bytes() for file in sorted(folder.iterdir())] if folder and folder.is_dir() else []
