"""Locks on files that several processes would make at once; network mounts may have none."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["Timeout", "held"]

NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}
"""How a disk without locks answers."""


@contextmanager
def held(path: Path, *, blocking: bool = True) -> Iterator[bool]:
    """Hold the lock of a lock file, which the system releases when the process ends.

    Yields:
        whether it is held: False where the disk has no locks.

    Raises:
        Timeout: not `blocking`, and another process holds it.
        OSError: the file can't be opened.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=blocking)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
