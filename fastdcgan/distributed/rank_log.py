"""Log files of the ranks other than rank 0, whose progress is on the terminal."""

import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from fastdcgan.storage.files import make_folder, open_to_append
from fastdcgan.storage.signals import Stopped


@contextmanager
def rank_log(folder: Path, rank: int, world_size: int) -> Iterator[None]:
    """Append this process's output, from C too, to `folder`/rank-N.log; rank 0's goes to the terminal.

    An exception is logged with its traceback, and raised with a note that names the rank.

    Raises:
        ValueError: if the file can't be written.
    """
    description = f"rank {rank} of {world_size} on {socket.gethostname()}, process {os.getpid()}"
    if rank == 0:
        with note_rank(description if world_size > 1 else ""):
            yield
        return
    with _open_log(folder, f"rank-{rank}.log") as log:
        log.write(f"== {datetime.now().isoformat(timespec='seconds')} {description}\n")
        log.flush()
        with output_redirected_to(log.fileno()), note_rank(description):
            try:
                yield
            except Stopped as stop:
                print(stop.args[0])
                raise
            except BaseException:
                traceback.print_exc()
                raise


def _open_log(folder: Path, name: str) -> IO[str]:
    """Open a log to append. Raises ValueError if it can't be written."""
    try:
        make_folder(folder)
        return open_to_append(folder / name)
    except OSError as error:
        raise ValueError(f"can't write to {folder / name}: {error.strerror or error}") from error


@contextmanager
def note_rank(description: str) -> Iterator[None]:
    """Add a note to an exception that says which rank raised it; none if the description is empty."""
    try:
        yield
    except BaseException as error:
        if description:
            error.add_note(f"This was {description}.")
        raise


@contextmanager
def output_redirected_to(descriptor: int) -> Iterator[None]:
    """Redirect this process's standard output and error to a file descriptor."""
    streams = (sys.stdout, sys.stderr)
    numbers = (1, 2)
    originals = [os.dup(number) for number in numbers]
    try:
        for number in numbers:
            os.dup2(descriptor, number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, original in zip(numbers, originals, strict=True):
            os.dup2(original, number)
            os.close(original)
