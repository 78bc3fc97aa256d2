"""A run's output: a live view on a terminal, plain lines anywhere else, and all of it in run.log."""

import shlex
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import TaskID
from torch import Tensor

from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.run_log import RunLog, describe_error
from fastdcgan.telemetry.terminal.view import LiveView

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where there is no terminal, and in run.log."""


class View(Protocol):
    """What shows a run while it goes on: `LiveView` on a terminal, another one in a notebook."""

    def start(self) -> None:
        """Begin to show it."""

    def stop(self) -> None:
        """Leave the last of it; what is said later comes below."""

    def refresh(self) -> None:
        """Show all that is new now."""

    def say(self, text: str) -> None:
        """Show a message of one or more lines."""

    def add_task(self, description: str, *, total: float | None) -> TaskID:
        """A new bar."""
        ...

    def update(
        self,
        task_id: TaskID,
        *,
        completed: float | None = None,
        total: float | None = None,
        visible: bool | None = None,
    ) -> None:
        """Another state of a bar; None: as it was."""

    def add(self, record: Record) -> None:
        """Show new figures."""

    def show_samples(self, pictures_BCHW: Tensor, caption: str, columns: int | None = None) -> None:
        """Show new samples: pictures in [-1, 1] on the CPU; with a row of so many for each class, if not None."""


class Display:
    """Messages and progress of a run."""

    def __init__(
        self,
        *,
        visible: bool = True,
        quiet: bool = False,
        log: RunLog | None = None,
        console: Console | None = None,
        view: View | None = None,
    ) -> None:
        """Nothing is shown before `__enter__`.

        Args:
            visible: whether anything is shown; False on ranks other than 0.
            quiet: show only messages with `always`.
            log: gets all messages and progress lines, whatever is shown.
            console: to write to. Default: standard output.
            view: shows all that is visible, instead of the console.
        """
        self._console = console or Console(highlight=False, emoji=False, soft_wrap=True)
        self._console.quiet = not visible
        self._quiet, self._log = quiet, log
        on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = visible and not quiet and (view is not None or on_terminal)
        terminal = LiveView(self._console, disable=view is not None or not self._live)
        self._view: View = view if view is not None and visible else terminal
        self._tasks: dict[str, TaskID] = {}
        self._started_at: dict[str, tuple[float, int]] = {}
        self._last_plain_line = time.monotonic()
        self.on_record: Callable[[Record, int], None] | None = None
        """Called with new figures and the number of steps of the run, once they are shown."""

    def __enter__(self) -> Self:
        self._log_line(f"$ {shlex.join(sys.argv)}")
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_drawing()
        if error is not None:
            self._log_line(describe_error(error))
        if self._log is not None:
            self._log.close()

    def say(self, text: str, *, always: bool = False) -> None:
        """Print a message of one or more lines; `always`: even if quiet."""
        text = "\n".join(map(printable, text.split("\n")))
        self._log_line(text)
        if always or not self._quiet:
            self._view.say(text)
            sys.stdout.flush()

    def refresh(self) -> None:
        """Redraw the live view now, and not at its next refresh."""
        self._view.refresh()

    def stop_drawing(self) -> None:
        """Stop the live view and leave it on the screen; later messages come below it."""
        self._view.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        """Show the progress of a preparation, such as "drawing faces"."""
        self._update(what, done, total)
        began, done_then = self._started_at.setdefault(what, (time.monotonic(), done))
        if done == total or self._due():
            line = f"{what}: {done:,} of {total:,}"
            if done_then < done < total:
                line += f", {_minutes_seconds((time.monotonic() - began) * (total - done) / (done - done_then))} left"
            self._progress_line(line)
        if done == total:
            self._view.update(self._tasks[what], visible=False)

    def train(self, record: Record | None, step: int, total: int) -> None:
        """Show the progress of training; `record`: new figures, if there are any."""
        self._update("training", step, total)
        if record is None:
            return
        self._view.add(record)
        if step == total or self._due():
            self._progress_line(
                f"step {step:,}/{total:,}  {record.images_per_sec:,.0f} img/s  "
                f"D {record.loss_d:.2f}  G {record.loss_g:.2f}  D(x) {record.d_real:.2f}  D(G(z)) {record.d_fake:.2f}  "
                f"{self._seconds_left(record, step, total)}"
            )
        if self.on_record is not None:
            self.on_record(record, total)

    def show_samples(self, pictures_BCHW: Tensor, step: int, columns: int | None = None) -> None:
        """Show new samples, in [-1, 1] on the CPU, on terminals with colours; as `View.show_samples`."""
        self._view.show_samples(pictures_BCHW, f"samples after step {step:,}", columns)

    def _progress_line(self, line: str) -> None:
        """A line of progress: on the terminal without a live view, else in the log alone."""
        if self._live:
            self._log_line(line)
        else:
            self.say(line)

    def _log_line(self, text: str) -> None:
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
        return f"{_minutes_seconds(seconds)} left"


def _minutes_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
