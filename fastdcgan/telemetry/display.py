"""What a run shows while it runs: a live bar on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fastdcgan.printable import printable
from fastdcgan.telemetry.metrics import Record

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where there is no terminal to draw on."""


class Display:
    """Progress of one run. On ranks other than the first it shows nothing."""

    def __init__(self, *, visible: bool = True) -> None:
        self._console = Console(quiet=not visible, highlight=False, emoji=False, soft_wrap=True)
        self._live = visible and self._console.is_terminal
        self._progress = _Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._live,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._last_plain_line = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print("\n".join(map(printable, text.split("\n"))), markup=False)
        sys.stdout.flush()

    def advance(self, what: str, done: int, total: int) -> None:
        """Progress of a preparation, such as "drawing faces"."""
        self._update(what, done, total)
        began, done_then = self._begun.setdefault(what, (time.monotonic(), done))
        if not self._live and (done == total or self._due()):
            line = f"{what}: {done:,} of {total:,}"
            if done_then < done < total:
                line += f", {_clock((time.monotonic() - began) * (total - done) / (done - done_then))} left"
            self.say(line)
        if done == total:
            self._progress.update(self._tasks[what], visible=False)

    def train(self, record: Record | None, step: int, total: int) -> None:
        """Progress of the training; `record` holds the newest figures, if they are new."""
        figures = None
        if record is not None:
            figures = (
                f"{record.images_per_sec:,.0f} img/s  D {record.loss_d:.2f}  G {record.loss_g:.2f}  "
                f"D(x) {record.d_real:.2f}  D(G(z)) {record.d_fake:.2f}"
            )
        self._update("training", step, total)
        self._progress.figures = figures or self._progress.figures
        if not self._live and figures is not None and (step == total or self._due()):
            left = self._seconds_left(record, step, total)
            self.say(f"step {step:,}/{total:,}  {figures}  {left}")

    def _update(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._last_plain_line >= PLAIN_INTERVAL
        if due:
            self._last_plain_line = now
        return due

    @staticmethod
    def _seconds_left(record: Record | None, step: int, total: int) -> str:
        if record is None or step == 0 or record.images_per_sec == 0:
            return ""
        seconds = (total - step) * (record.images / step) / record.images_per_sec
        return f"{_clock(seconds)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class _Bars(Progress):
    """Bars with the newest figures on a line of their own below, which fits narrow terminals too."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.figures:
            yield Text(self.figures, style="cyan", overflow="ellipsis", no_wrap=True)
