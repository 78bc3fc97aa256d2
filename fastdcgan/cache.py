"""Where this package keeps what it can make again."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """$FASTDCGAN_CACHE, or the user's cache folder; it may not be there yet."""
    chosen = os.environ.get("FASTDCGAN_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("fastdcgan")
