"""A process of its own for libraries that may crash or hang on a damaged file: its start, its output, how it ended."""

import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import IO

from fastdcgan.data.tables import row_reader
from fastdcgan.data.tables.row_reader import LENGTH
from fastdcgan.storage.printable import printable

PATIENCE = 60.0
"""Seconds that a row may take."""


class EndedEarlyError(Exception):
    """The process ended before its output did."""


class Reader:
    """`row_reader.py` in a process, which ends with this object.

    Args:
        kind: as `row_reader.py` names it.
        path: of the table.
        more: its further arguments.
    """

    def __init__(self, kind: str, path: Path, *more: str) -> None:
        # -P: no module beside the program is taken for another one.
        command = [sys.executable, "-P", row_reader.__file__, kind, str(path), *more]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        self._watched = _Watched(self._process)
        threading.Thread(target=self._watched.watch, daemon=True).start()
        self.close = weakref.finalize(self, _end, self._process, self._watched)

    def read_length(self, what: str) -> int:
        """A length of the output; `what` as for `read`."""
        return int(LENGTH.unpack(self.read(LENGTH.size, what))[0])

    def read(self, length: int, what: str) -> bytes:
        """Bytes of the output. `what` differs from read to read. Raises EndedEarlyError."""
        self._watched.waiting_for = what
        data = self._output.read(length)
        self._watched.waiting_for = ""
        if len(data) != length:
            raise EndedEarlyError
        return data

    def how_it_ended(self) -> str:
        """What its last words or its signal say, once it gives no more output."""
        self._watched.ended.set()
        _, said = self._process.communicate()
        code = self._process.returncode
        if self._watched.hangs:
            return "its library does not come to an end"
        if code < 0:
            return f"its library crashes: {Signals(-code).name}"
        return printable(" ".join(said.decode("utf-8", "replace").split()))[-120:]


class _Watched:
    """What the thread knows that ends a process which comes to no end: not the `Reader`, which it would keep alive."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.waiting_for, self.hangs, self.ended = "", False, threading.Event()

    def watch(self) -> None:
        """Kill the process where it has let its reader wait for the same for `PATIENCE` seconds."""
        before = ""
        while not self.ended.wait(PATIENCE):
            if self.waiting_for and self.waiting_for == before:
                self.hangs = True
                self._process.kill()
                return
            before = self.waiting_for


def _end(process: "subprocess.Popen[bytes]", watched: _Watched) -> None:
    watched.ended.set()
    process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):  # of what was still to be written to it
                stream.close()
    process.wait()
