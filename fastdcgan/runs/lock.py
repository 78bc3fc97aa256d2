"""One process at a time trains in a folder: a lock that ends with the process that holds it, whatever ends it."""

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from fastdcgan.runs.folder import RunFolder, writing

_MOST = 4096
"""Bytes that are read of what the holder says of itself."""


@contextmanager
def locked(folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a run's folder. A run that fails before it has anything to keep leaves no folder behind.

    The kernel gives up the lock with the last process that has the file open, so that a kill leaves nothing behind
    that blocks; nor does it look like held where it isn't. Not filelock: where there are no such locks it makes a file
    that stays.

    Raises:
        ValueError: another process holds it, or the folder can't be written.
    """
    missing = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        # Not followed where it is a link, and not emptied: it says who holds it.
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if _take(descriptor, folder, say):
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
            with writing(folder.lock):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        _leave_nothing(folder, missing)
        os.close(descriptor)


def _take(descriptor: int, folder: RunFolder, say: Callable[[str], None]) -> bool:
    """Whether there are locks. Raises ValueError where it is held."""
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
    try:
        said = json.loads(os.pread(descriptor, _MOST, 0))
        return f"process {said['pid']} on {said['host']}, which has been training there since {said['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process, which trains there"


def _leave_nothing(folder: RunFolder, missing: list[Path]) -> None:
    """Remove the folders that we made, where nothing else was put into them."""
    if folder.path in missing and [path.name for path in folder.path.iterdir()] == [folder.lock.name]:
        folder.lock.unlink(missing_ok=True)
        for path in missing:
            try:
                path.rmdir()
            except OSError:
                return
