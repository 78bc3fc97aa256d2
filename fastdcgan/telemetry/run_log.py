"""run.log: all that a run says, each line with its time."""

import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO

from fastdcgan.storage.files import open_to_append
from fastdcgan.storage.printable import printable
from fastdcgan.storage.signals import Stopped


class RunLog:
    """Appends to a file, once the run's folder is there: until then lines are kept, and lost if it never is."""

    def __init__(self, path: Path, *, begun: Callable[[], bool] = lambda: True) -> None:
        """Args: path: the file. begun: whether it may be made yet."""
        self._path, self._begun = path, begun
        self._kept: list[str] = []
        self._file: IO[str] | None = None

    def write(self, text: str) -> None:
        """One or more lines. Raises OSError if they can't be written."""
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        self._kept += [f"{now}  {printable(line)}".rstrip() + "\n" for line in text.splitlines() or [""]]
        if self._file is None:
            if not self._begun():
                return
            self._file = open_to_append(self._path)
        self._file.writelines(self._kept)
        self._file.flush()
        self._kept.clear()

    def close(self) -> None:
        """Done, until more is written."""
        if self._file is not None:
            self._file.close()
            self._file = None


def in_words(error: BaseException) -> str:
    """What a log says of what ended a run: a line where the user was meant to read it, else all that is known."""
    match error:
        case KeyboardInterrupt():
            return "interrupted"
        case Stopped():
            return str(error.args[0])
        case ValueError():
            return f"error: {error}"
        case _:
            return "".join(traceback.format_exception(error)).rstrip()
