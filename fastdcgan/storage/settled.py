"""Times of modification that tell one version of a file from the next, also where they are of 2 seconds (FAT).

Who remembers a file's size and time takes it for unchanged as long as both are the same. Where times are whole seconds,
a file can be replaced within them by one of the same size; so they are waited out before the time is remembered.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

_SECOND = 10**9
COARSEST = 2 * _SECOND
"""Nanoseconds: FAT's. NFS 2, ext3 and HFS+ have whole seconds."""


def wait_out(times_ns: Iterable[int]) -> bool:
    """Wait until a change would show in each of these times, 2 seconds at most; whether there was a need.

    Fine times are never whole seconds, and never waited for. Times to come are taken for those of another clock.
    """
    now = time.time_ns()
    young = [at for at in times_ns if at % _SECOND == 0 and now - COARSEST < at <= now]
    if young:
        time.sleep((max(young) + COARSEST - now) / _SECOND)
    return bool(young)


def settled_stat(path: str | Path) -> os.stat_result:
    """What `os.stat` says once a later change of the file would show in it. Raises OSError."""
    info = os.stat(path)  # noqa: PTH116
    return os.stat(path) if wait_out([info.st_mtime_ns]) else info  # noqa: PTH116
