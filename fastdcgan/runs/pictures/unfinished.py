"""A large file that grows beside its place, across several goes, and is renamed when it is whole.

While `pictures.npy` is written there are

    .pictures.npy.unfinished        its first bytes
    .pictures.npy.journal           JSON: what was asked for, and how much of it is on the disk

so that a killed process loses what it wrote in the last second, and no more.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fastdcgan.runs.checkpoints.record import shortened
from fastdcgan.storage.checksummed import flush
from fastdcgan.storage.files import open_to_update, read_json, write_replacing
from fastdcgan.storage.locks import Timeout, held
from fastdcgan.storage.printable import printable

SECONDS_BETWEEN_FLUSHES = 1.0

MAX_JOURNAL_BYTES = 2**20


class UnfinishedFile:
    """See the module. Made by `unfinished`."""

    def __init__(self, path: Path, request: dict[str, Any], count: int, batch: int) -> None:
        self._path, self._request, self._count, self._batch = path, request, count, batch
        self._partial, self._journal = (path.with_name(f".{path.name}.{what}") for what in ("unfinished", "journal"))
        self._flushed_at = time.monotonic()
        self.done, self._length = self._read_journal()
        """How many pictures are in it, and in how many bytes."""

        self.file: BinaryIO = open_to_update(self._partial)
        """Positioned behind these pictures."""

        if os.fstat(self.file.fileno()).st_size < self._length:  # somebody has cut it
            self.done = self._length = 0
        self.file.truncate(self._length)
        self.file.seek(self._length)

    def mark(self, done: int) -> None:
        """Say that `done` pictures are written, all that is in the file by now."""
        self.done, self._length = done, self.file.tell()
        if time.monotonic() - self._flushed_at >= SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Bring what is written to the disk, and then note it in the journal."""
        self.file.flush()
        os.fsync(self.file.fileno())
        journal = {"request": self._request, "done": self.done, "bytes": self._length}
        write_replacing(self._journal, json.dumps(journal) + "\n")
        self._flushed_at = time.monotonic()

    def finish(self) -> None:
        """Rename the file into its place. It is whole, and is closed."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._partial.replace(self._path)
        flush(self._path.parent)
        self._journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Close and remove it: what it holds was put elsewhere."""
        self.file.close()
        self._journal.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)

    def _read_journal(self) -> tuple[int, int]:
        """Pictures and bytes that are on the disk. Raises ValueError where they are another request's."""
        try:
            journal = read_json(self._journal, MAX_JOURNAL_BYTES)
            found, done, length = journal["request"], journal["done"], journal["bytes"]
            usable = isinstance(found, dict) and all(type(n) is int and n >= 0 for n in (done, length))
            # Pictures are made a batch at a time, from its beginning on.
            usable = usable and (done == self._count or (done < self._count and done % self._batch == 0))
        except (OSError, ValueError, TypeError, KeyError):
            usable = False
        if not usable or not self._partial.is_file():
            return 0, 0
        refuse_another_request(self._partial, found, self._request, done)
        return done, length


@contextmanager
def unfinished(path: Path, request: dict[str, Any], count: int, batch: int) -> Iterator[UnfinishedFile]:
    """Go on with a file, or begin it. On an exception what was marked is flushed, and stays.

    Args:
        path: where it goes; its folder is made.
        request: what it is a function of, as JSON has it.
        count: the number of pictures.
        batch: how many of them are written at a time.

    Raises:
        ValueError: another process writes it, or it was begun for another request.
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, path.with_name(f".{path.name}.lock")):
        growing = UnfinishedFile(path, request, count, batch)
        try:
            yield growing
        except BaseException:
            with suppress(OSError):  # of a full disk, which is told by what was raised
                growing.flush()
            raise
        finally:
            with suppress(OSError):
                growing.file.close()


@contextmanager
def locked(path: Path, lock_file: Path) -> Iterator[None]:
    """One process at a time writes `path`. Raises ValueError where another one does."""
    try:
        with held(lock_file, blocking=False):
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes no file that is open
                    lock_file.unlink()
    except Timeout as error:
        raise ValueError(f"another process is writing {path}: wait for it, or choose another --out") from error


def refuse_another_request(place: Path, found: dict[str, Any], wanted: dict[str, Any], done: int) -> None:
    """Raises ValueError where what was begun is not what is wanted now, with the option that would go on with it."""
    differing = [name for name in wanted | found if found.get(name) != wanted.get(name)]
    if not differing:
        return
    named = "; ".join(
        f"{printable(name)} {shortened(found.get(name))}, now {shortened(wanted.get(name))}" for name in differing
    )
    step = found.get("step")
    only_another_step = set(differing) <= {"step", "weights"} and type(step) is int
    goes_on = f"--checkpoint {step} goes" if only_another_step else "the same options go"
    raise ValueError(
        f"{place} holds {done:,} pictures of another request ({named}): {goes_on} on with it; "
        "or remove it, or choose another --out"
    )
