"""A lock on a run's folder: one process at a time trains there. It ends with its process, however that ends."""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from fastdcgan.runs.folder import RunFolder, converting_write_errors
from fastdcgan.storage.checksummed import can_flush

_MAX_HOLDER_BYTES = 4096
"""Limit of what is read from the lock file, which names the holder."""

_LOOKS, _SECONDS_BETWEEN_LOOKS = 20, 0.05
"""How often the lock file is read until it names one."""


@contextmanager
def locked(folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock. At the end a folder that was made here and has nothing else in it is removed.

    The kernel releases the lock (flock) when the last process that has the file open ends, so that a killed process
    leaves no stale lock. Not filelock: where there is no flock it makes a file that stays.

    Args:
        folder: of the run; it is made here.
        say: told, in a line, where the system or disk has no locks.

    Raises:
        ValueError: another process holds it, or the folder can't be written.
    """
    missing = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    with converting_write_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        # A link is not followed, and the file not truncated yet: it names the process that holds the lock.
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if _acquire(descriptor, folder, say):
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
            with converting_write_errors(folder.lock):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        with converting_write_errors(folder.path):
            flushes = can_flush(folder.path)
        if os.name != "nt" and not flushes:
            say("disk      it can't flush folders: a loss of power may take the newest checkpoint, not those before it")
        yield
    finally:
        if os.name == "nt":  # it removes no file that is open, and nothing is locked there
            os.close(descriptor)
            _remove_if_empty(folder, missing)
        else:
            _remove_if_empty(folder, missing)
            os.close(descriptor)


def _acquire(descriptor: int, folder: RunFolder, say: Callable[[str], None]) -> bool:
    """True if locked, False where there are no locks. Raises ValueError where another process holds it."""
    if os.name == "nt":
        say("lock      none on this system: see to it that no other run writes to this folder")
        return False
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise ValueError(
                f"{folder.path} is in use by {_holder(descriptor)}: wait until it has ended, or choose another --out"
            ) from error
        say(f"lock      none on this disk ({error.strerror}): see to it that no other run writes to this folder")
        return False
    return True


def _holder(descriptor: int) -> str:
    """Who holds the lock. A process writes that once it has it, so one that has just begun is given a moment."""
    for _ in range(_LOOKS):
        try:
            holder = json.loads(os.pread(descriptor, _MAX_HOLDER_BYTES, 0))
            return f"process {holder['pid']} on {holder['host']}, which has been training there since {holder['since']}"
        except (OSError, ValueError, TypeError, KeyError):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    return "another process, which trains there"


def _remove_if_empty(folder: RunFolder, missing: list[Path]) -> None:
    """Remove the folders that were made here (`missing`), if there is nothing but the lock file in them."""
    if folder.path in missing and [path.name for path in folder.path.iterdir()] == [folder.lock.name]:
        folder.lock.unlink(missing_ok=True)
        for path in missing:
            try:
                path.rmdir()
            except OSError:
                return
