"""What is being measured, and how much time is left: a live line on a terminal, else a line for each case."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REFRESHES_PER_SECOND = 1
"""A refresh takes a millisecond of one core, and comes in everybody's turn alike."""


def clock_face(seconds: float) -> str:
    """ "7:05" """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@dataclass
class Progress:
    """Shown while cases run.

    Args:
        console: where to. A terminal gets two lines that are drawn anew every second.
        cases: how many there are.
        passed: tells the seconds since the run began.
        left: tells how much time is left, in words.
    """

    console: Console
    cases: int
    passed: Callable[[], float]
    left: Callable[[], str]
    number: int = field(default=0, init=False)
    _name: str = field(default="", init=False)
    _doing: str = field(default="", init=False)
    _since: float = field(default=0.0, init=False)
    _live: Live | None = field(default=None, init=False)

    def begin(self, name: str) -> None:
        """The next case begins."""
        self.number += 1
        self._name, self._since = name, time.perf_counter()
        self.doing("beginning")
        if not self.console.is_terminal:
            self.tell(f"{clock_face(self.passed())}  case {self.number} of {self.cases}, {name} ({self.left()})")
        elif self._live is None:
            self._live = Live(
                get_renderable=self._lines,
                console=self.console,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def doing(self, what: str) -> None:
        """What the case is at. Shown by the next refresh."""
        self._doing = what

    def tell(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def end(self) -> None:
        """Of the run: the live lines vanish."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _lines(self) -> RenderableType:
        top = Table.grid(padding=(0, 2))
        top.add_row(
            f"case {self.number} of {self.cases}",
            ProgressBar(total=self.cases, completed=self.number - 1, width=20),
            f"{clock_face(self.passed())} passed, {self.left()}",
        )
        bottom = Text(f"{self._name}  ", no_wrap=True, overflow="ellipsis")
        bottom.append(f"{self._doing}, {clock_face(time.perf_counter() - self._since)}", style="dim")
        lines = Table.grid()
        lines.add_row(top)
        lines.add_row(bottom)
        return lines
