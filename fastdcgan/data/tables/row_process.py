"""Rows of tables whose libraries may crash or hang on a damaged file, from a process of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from signal import Signals
from typing import IO

from fastdcgan.data.tables import row_reader
from fastdcgan.data.tables.row_reader import END, LENGTH
from fastdcgan.storage.printable import printable

PATIENCE = 60.0
"""Seconds that a row may take."""


class _EndedEarlyError(Exception):
    """The process ended before its output did."""


class RowProcess:
    """The rows of a table.

    Args:
        kind: as `row_reader.py` names it.
        path: of the table.
        more: its further arguments.

    Raises:
        ValueError: it can't be read.
    """

    def __init__(self, kind: str, path: Path, *more: str) -> None:
        self._name = printable(path)
        # -P: no module beside the program is taken for another one.
        command = [sys.executable, "-P", row_reader.__file__, kind, str(path), *more]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout
        self._waiting, self._hangs, self._ended = "", False, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self.length = self._read_length("the first")
        except _EndedEarlyError as error:
            raise ValueError(f"{self._name}: damaged, or of another kind ({self._how_it_ended()})") from error

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of key and value, once. Raises ValueError where the table is damaged."""
        number = 0
        try:
            while (length := self._read_length(f"key {number}")) != END:
                value_length = self._read_length(f"length {number}")
                yield self._read(length, f"name {number}"), self._read(value_length, f"value {number}")
                number += 1
        except _EndedEarlyError as error:
            raise ValueError(f"{self._name}: damaged: row {number:,} can't be read ({self._how_it_ended()})") from error
        finally:
            self._ended.set()
            self._process.kill()
            self._process.communicate()

    def _read_length(self, what: str) -> int:
        return int(LENGTH.unpack(self._read(LENGTH.size, what))[0])

    def _read(self, length: int, what: str) -> bytes:
        """Bytes of the output. `what` differs from read to read."""
        self._waiting = what
        data = self._output.read(length)
        self._waiting = ""
        if len(data) != length:
            raise _EndedEarlyError
        return data

    def _watch(self) -> None:
        """Kill the process where it has let its reader wait for the same for `PATIENCE` seconds."""
        before = ""
        while not self._ended.wait(PATIENCE):
            if self._waiting and self._waiting == before:
                self._hangs = True
                self._process.kill()
                return
            before = self._waiting

    def _how_it_ended(self) -> str:
        self._ended.set()
        _, said = self._process.communicate()
        code = self._process.returncode
        if self._hangs:
            return "its library does not come to an end"
        if code < 0:
            return f"its library crashes: {Signals(-code).name}"
        return printable(" ".join(said.decode("utf-8", "replace").split()))[-120:]
