"""What a run tells its user: a live view on a terminal, plain lines anywhere else, and all of it in a file."""

import shlex
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import TaskID
from torch import Tensor

from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.run_log import RunLog, in_words
from fastdcgan.telemetry.terminal.view import View

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where there is no terminal to draw on, and in the file."""


class Display:
    """Progress of one run. On ranks other than the first it shows nothing."""

    def __init__(
        self, *, visible: bool = True, quiet: bool = False, log: RunLog | None = None, console: Console | None = None
    ) -> None:
        """Begin, without showing anything yet.

        Args:
            visible: whether anything at all is shown.
            quiet: whether only that is shown which is always said.
            log: where all of it is kept too.
            console: what is written to. Default: standard output.
        """
        self._console = console or Console(highlight=False, emoji=False, soft_wrap=True)
        self._console.quiet = not visible
        self._quiet, self._log = quiet, log
        self._live = visible and not quiet and self._console.is_terminal and not self._console.is_dumb_terminal
        self._view = View(self._console, disable=not self._live)
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._last_plain_line = time.monotonic()

    def __enter__(self) -> Self:
        self._keep(f"$ {shlex.join(sys.argv)}")
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()
        if error is not None:
            self._keep(in_words(error))
        if self._log is not None:
            self._log.close()

    def say(self, text: str, *, always: bool = False) -> None:
        """A line that stays; `always`, even if quiet."""
        text = "\n".join(map(printable, text.split("\n")))
        self._keep(text)
        if always or not self._quiet:
            self._view.say(text)
            sys.stdout.flush()

    def refresh(self) -> None:
        """Draw now what is drawn a little later anyway."""
        self._view.refresh()

    def settle(self) -> None:
        """Leave bars and figures as they are: what is said from now on comes below them."""
        self._view.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        """Progress of a preparation, such as "drawing faces"."""
        self._update(what, done, total)
        began, done_then = self._begun.setdefault(what, (time.monotonic(), done))
        if done == total or self._due():
            line = f"{what}: {done:,} of {total:,}"
            if done_then < done < total:
                line += f", {_clock((time.monotonic() - began) * (total - done) / (done - done_then))} left"
            self._plainly(line)
        if done == total:
            self._view.update(self._tasks[what], visible=False)

    def train(self, record: Record | None, step: int, total: int) -> None:
        """Progress of the training; `record` holds the newest figures, if they are new."""
        self._update("training", step, total)
        if record is None:
            return
        self._view.add(record)
        if step == total or self._due():
            self._plainly(
                f"step {step:,}/{total:,}  {record.images_per_sec:,.0f} img/s  "
                f"D {record.loss_d:.2f}  G {record.loss_g:.2f}  D(x) {record.d_real:.2f}  D(G(z)) {record.d_fake:.2f}  "
                f"{self._seconds_left(record, step, total)}"
            )

    def show(self, pictures_BCHW: Tensor, step: int) -> None:
        """A new sample grid: pictures in [-1, 1] on the CPU. Drawn on terminals that can."""
        self._view.show(pictures_BCHW, f"samples after step {step:,}")

    def _plainly(self, line: str) -> None:
        """Progress where there are no bars."""
        if self._live:
            self._keep(line)
        else:
            self.say(line)

    def _keep(self, text: str) -> None:
        if self._log is None:
            return
        try:
            self._log.write(text)
        except OSError as error:
            self._log = None
            self.say(f"run.log ends here: {error.strerror or error}", always=True)

    def _update(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._view.add_task(what, total=total)
        self._view.update(self._tasks[what], completed=done, total=total)

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._last_plain_line >= PLAIN_INTERVAL
        if due:
            self._last_plain_line = now
        return due

    @staticmethod
    def _seconds_left(record: Record, step: int, total: int) -> str:
        if step == 0 or record.images_per_sec == 0:
            return ""
        seconds = (total - step) * (record.images / step) / record.images_per_sec
        return f"{_clock(seconds)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
