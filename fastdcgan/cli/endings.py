"""How a command ends: with which exit code, and what it says of it."""

import errno
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from fastdcgan.storage.printable import printable
from fastdcgan.storage.signals import EndedTogetherError, Stopped

_LONGEST = 4_000
"""Characters of an error."""

_UNREAD = 128 + 13
"""As of a program that SIGPIPE has ended, which other systems than POSIX don't know."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Of a disk, a quota, a file, a terminal that is gone."""


@contextmanager
def reported() -> Iterator[None]:
    """Run a command in here: the process ends as its user expects.

    What the user can fix is one line and exit code 2; a stop is 128 and its signal. Where nobody reads what is printed,
    the command ends without a word; where it can't be written, with exit code 2.
    """
    with _readers(), _complaints():
        yield


@contextmanager
def _complaints() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        if os.environ.get("FASTDCGAN_TRACEBACK") or (isinstance(error, OSError) and not _is_of_a_name(error)):
            raise
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        message = _in_one_line(message)
        if (who := _speaker(error)) is not None:
            print(f"fastdcgan: error: {who}{message}", file=sys.stderr)
        _tell_launcher(message)
        sys.exit(2)
    except Stopped as stop:
        message, number = stop.args
        # All is saved. When the first rank has left, the launcher ends the others, which are just leaving too.
        for name in {signal.SIGTERM, signal.Signals(number)}:
            signal.signal(name, signal.SIG_IGN)
        if os.environ.get("RANK", "0") == "0":
            print(f"fastdcgan: {message}", file=sys.stderr)
        sys.exit(128 + number)
    except KeyboardInterrupt:
        print("fastdcgan: interrupted", file=sys.stderr)
        sys.exit(130)


def _speaker(error: Exception) -> str | None:
    """What an error is said to be of, if this process is to say it: of what all end with, one a machine speaks."""
    rank = os.environ.get("RANK", "0")
    if isinstance(error, EndedTogetherError):
        speaks = os.environ.get("LOCAL_RANK", "0") == "0" if error.speaks is None else error.speaks
        return "" if speaks else None
    return f"rank {rank}: " if rank != "0" else ""


@contextmanager
def _readers() -> Iterator[None]:
    """Output that was closed goes nowhere; a reader that leaves ends the command quietly, a full disk in one line."""
    _open_what_is_closed()
    _escape_what_cannot_be_shown()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (OSError, SystemExit) as end:
        code = _code_of_lost_output(end)
        if code is None:
            raise
        for descriptor in (1, 2):  # what is still to be written when Python ends would be an error once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        sys.exit(code)


def _code_of_lost_output(end: OSError | SystemExit) -> int | None:
    """The exit code, if this is an end because what was printed could not be written; a full disk is told."""
    if isinstance(end, SystemExit):
        return _UNREAD if isinstance(end.__context__, BrokenPipeError) else None  # rich's
    if not isinstance(end, BrokenPipeError) and end.errno not in _FULL:
        return None
    error = _write_error(sys.stdout) or _write_error(sys.stderr)
    if error is None:
        return None  # it was another file
    if isinstance(error, BrokenPipeError):
        return _UNREAD
    with suppress(OSError):  # stderr may be on the same disk
        print(f"fastdcgan: error: can't write the output: {error.strerror}", file=sys.stderr, flush=True)
    return 2


def _write_error(stream: TextIO) -> OSError | None:
    """Why nothing can be written to it; None if it can."""
    try:
        print(file=stream, flush=True)
    except OSError as error:
        return error
    return None


def _is_of_a_name(error: OSError) -> bool:
    """Whether it says of a path that it can't be looked at, which comes of what the user has named."""
    return error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES) and isinstance(error.filename, str)


def _open_what_is_closed() -> None:
    """Else the next file that is opened would get its number, and what libraries print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


def _escape_what_cannot_be_shown() -> None:
    """Consoles of Windows that aren't Unicode can't show every path: it is escaped, as on stderr, and no error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _in_one_line(message: str) -> str:
    """What any terminal can print, of a bounded length: files that others made have a say in it."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return printable(message)


def _tell_launcher(error: str) -> None:
    """Leave the line where torchrun and accelerate look for it, so that the summary they end with says why."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        more = {"py_callstack": error, "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps({"message": {"message": error, "extraInfo": more}}), encoding="utf-8")
