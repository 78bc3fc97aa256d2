"""What is drawn on a terminal while a run is under way: bars, the figures with their curves, the latest sample grid."""

from collections import deque
from collections.abc import Iterable

from PIL import Image
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import ControlType, Segment
from rich.text import Text
from torch import Tensor

from fastdcgan.limits.memory import memory_in_use
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.terminal.half_blocks import half_blocks, sheet, thumbnails, tiled
from fastdcgan.telemetry.terminal.sparkline import Trace, sparkline

REFRESHES_PER_SECOND = 1
"""A refresh holds Python's lock, which the next step waits for."""

WIDE = 64
"""Columns from which there is room beside the curves."""

LEAST_LINES = 4
"""For figures with their curves; below, they are a line of text."""

MOST_PICTURE_LINES = 24
"""So that what was said stays in sight on a large screen."""

_CURVES = {"loss_d": ("loss D", "#1b9e77"), "loss_g": ("loss G", "#d95f02"), "images_per_sec": ("img/s", "cyan")}
_COLOURS = {"256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}


class View(Progress):
    """Fits itself to the terminal, whatever its size becomes."""

    def __init__(self, console: Console, *, disable: bool) -> None:
        self._wide: tuple[ProgressColumn, ...] = (
            SpinnerColumn("line" if console.options.ascii_only else "dots"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(compact=True),
        )
        self._narrow: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
        )
        self._record: Record | None = None
        self._memory: dict[str, str] = {}
        self._traces = {name: Trace() for name in _CURVES}
        self._images: list[Image.Image] = []
        self._caption = ""
        self._drawn: tuple[object, _Ready] | None = None
        self._said: deque[str] = deque(maxlen=100)
        self._terminal, self._size = console, console.size  # rich asks for what to draw before `console` is there
        super().__init__(
            *self._wide, console=console, disable=disable, expand=True, refresh_per_second=REFRESHES_PER_SECOND
        )

    def say(self, text: str) -> None:
        """A line above, which stays."""
        self._said.append(text)
        self._terminal.print(text, markup=False)

    def add(self, record: Record) -> None:
        """The newest figures."""
        if self.disable:
            return
        for name, trace in self._traces.items():
            trace.add(getattr(record, name))
        self._record, self._memory = record, memory_in_use()

    def show(self, pictures_BCHW: Tensor, caption: str) -> None:
        """The newest sample grid: pictures in [-1, 1] on the CPU."""
        if not self.disable and self._colours is not None:
            self._images, self._caption = thumbnails(pictures_BCHW), caption
            self.refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn now, from top to bottom; never more lines than the terminal has."""
        self._begin_anew_if_resized()
        width, height = self._terminal.size
        self.columns = self._wide if width >= WIDE else self._narrow
        yield from super().get_renderables()
        left = height - 1 - sum(task.visible for task in self.tasks)
        if self._record is None:
            return
        lines = self._figures(width, left)
        yield from lines
        left = min(left - len(lines) - 1, MOST_PICTURE_LINES)
        if self._images and (pictures := self._pictures(width, left)):
            yield Text(self._caption, style="dim", overflow="ellipsis", no_wrap=True)
            yield pictures

    @property
    def _colours(self) -> ColorSystem | None:
        """Those that pictures can be drawn in; None if the terminal shows none, or no block characters."""
        if self._terminal.no_color or self._only_ascii:
            return None
        return _COLOURS.get(self._terminal.color_system or "")

    @property
    def _only_ascii(self) -> bool:
        return self._terminal.options.ascii_only or self._terminal.legacy_windows

    def _figures(self, width: int, height: int) -> list[Text]:
        """At most `height` lines."""
        record = self._record
        assert record is not None
        probabilities = [f"D(x) {record.d_real:.2f}", f"D(G(z)) {record.d_fake:.2f}"]
        memory = "  ".join(f"{name} {size}" for name, size in self._memory.items())
        if height < LEAST_LINES:
            values = f"{record.images_per_sec:,.0f} img/s  D {record.loss_d:.2f}  G {record.loss_g:.2f}  "
            return [_line(Text(values + "  ".join(probabilities), style="cyan"))][: max(0, height)]
        beside = [*probabilities, memory] if width >= WIDE else [""] * len(_CURVES)
        room = max(map(len, beside))
        lines = []
        for (name, (label, colour)), remark in zip(_CURVES.items(), beside, strict=True):
            value = getattr(record, name)
            figure = f"{value:,.0f}" if name == "images_per_sec" else f"{value:.3f}"
            line = Text.assemble((f"{label:7}", "bold"), f"{figure:>7} ")
            space = width - len(line.plain) - (room + 2 if room else 0)
            curve = "" if self._only_ascii else sparkline(self._traces[name].points, space)
            line.append(curve.ljust(space), style=colour)
            if remark:
                line.append("  " + remark)
            lines.append(_line(line))
        if not room:
            lines.append(_line(Text("  ".join([*probabilities, memory]))))
        return lines

    def _pictures(self, width: int, height: int) -> "_Ready | None":
        """Drawn once, and kept until there are others or the terminal's size changes."""
        layout = sheet(len(self._images), self._images[0].width, width, height)
        colours = self._colours
        if layout is None or colours is None:
            return None
        key = (self._images, layout, colours)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, _Ready(half_blocks(tiled(self._images, layout), colours))
        return self._drawn[1]

    def _begin_anew_if_resized(self) -> None:
        """Lines that the terminal has wrapped anew can't be found again: clear the screen, and say again what was."""
        size = self._terminal.size
        if size == self._size:
            return
        self._size = size
        if self.live.is_started:
            self._terminal.clear()
            for text in list(self._said)[-size.height :]:
                self._terminal.print(text, markup=False)


class _Ready:
    """Lines with escape codes in them, as they are written."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            # As control codes they are neither measured nor coloured by rich, which would take milliseconds.
            yield Segment(line, None, [(ControlType.CARRIAGE_RETURN,)])
            yield Segment.line()


def _line(text: Text) -> Text:
    text.overflow, text.no_wrap = "ellipsis", True
    return text
