"""run.log: the output of a run, each line with its time."""

import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO

from fastdcgan.storage.files import open_to_append
from fastdcgan.storage.printable import printable
from fastdcgan.storage.signals import Stopped


class RunLog:
    """Appends to a file once it may be created; until then lines are kept in memory."""

    def __init__(self, path: Path, *, may_create: Callable[[], bool] = lambda: True) -> None:
        """Log to `path`, which is created at the first line for which `may_create` returns True."""
        self._path, self._may_create = path, may_create
        self._pending: list[str] = []
        self._file: IO[str] | None = None

    def write(self, text: str) -> None:
        """Append one or more lines. Raises OSError if they can't be written."""
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        self._pending += [f"{now}  {printable(line)}".rstrip() + "\n" for line in text.splitlines() or [""]]
        if self._file is None:
            if not self._may_create():
                return
            self._file = open_to_append(self._path)
        self._file.writelines(self._pending)
        self._file.flush()
        self._pending.clear()

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def describe_error(error: BaseException) -> str:
    """An exception that ended a run, for the log: one line if it is meant for the user, else the traceback."""
    match error:
        case KeyboardInterrupt():
            return "interrupted"
        case Stopped():
            return str(error.args[0])
        case ValueError():
            return f"error: {error}"
        case _:
            return "".join(traceback.format_exception(error)).rstrip()
