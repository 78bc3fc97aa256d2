"""What ranks other than the first say: kept in a file a rank, out of the way of the first one's progress."""

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
    """Append all that this process prints, from C too, to `folder`/rank-N.log; rank 0's goes where it always does.

    What is raised is written there in full, and raised on with the rank's name.
    """
    who = f"rank {rank} of {world_size} on {socket.gethostname()}, process {os.getpid()}"
    if rank == 0:
        with naming(who if world_size > 1 else ""):
            yield
        return
    with _opened(folder, f"rank-{rank}.log") as log:
        log.write(f"== {datetime.now().isoformat(timespec='seconds')} {who}\n")
        log.flush()
        with said_into(log.fileno()), naming(who):
            try:
                yield
            except Stopped as stop:
                print(stop.args[0])
                raise
            except BaseException:
                traceback.print_exc()
                raise


def _opened(folder: Path, name: str) -> IO[str]:
    """Raises ValueError."""
    try:
        make_folder(folder)
        return open_to_append(folder / name)
    except OSError as error:
        raise ValueError(f"can't write to {folder / name}: {error.strerror or error}") from error


@contextmanager
def naming(who: str) -> Iterator[None]:
    """Add to what is raised whose it is."""
    try:
        yield
    except BaseException as error:
        if who:
            error.add_note(f"This was {who}.")
        raise


@contextmanager
def said_into(target: int) -> Iterator[None]:
    """Lead this process's standard output and error to an open file."""
    streams = (sys.stdout, sys.stderr)
    numbers = (1, 2)
    kept = [os.dup(number) for number in numbers]
    try:
        for number in numbers:
            os.dup2(target, number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, before in zip(numbers, kept, strict=True):
            os.dup2(before, number)
            os.close(before)
