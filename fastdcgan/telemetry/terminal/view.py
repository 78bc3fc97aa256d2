"""The live view of a run on a terminal: progress bars, figures with their curves, the latest samples."""

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

from fastdcgan.gan.architecture import Size
from fastdcgan.limits.memory import memory_in_use
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.terminal.half_blocks import grid_layout, half_blocks, thumbnails, tiled
from fastdcgan.telemetry.terminal.sparkline import DownsampledSeries, sparkline

REFRESHES_PER_SECOND = 1
"""A refresh holds the GIL, for which the next step waits."""

MIN_WIDE_COLUMNS = 64
"""From so many columns on there is room beside the curves."""

MIN_FIGURE_LINES = 4
"""For figures with curves; with fewer lines the figures are one line of text."""

MAX_PICTURE_LINES = 24
"""So that messages stay visible on a large screen."""

_CURVES = {"loss_d": ("loss D", "#1b9e77"), "loss_g": ("loss G", "#d95f02"), "images_per_sec": ("img/s", "cyan")}
_COLOURS = {"256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}


class LiveView(Progress):
    """Adapts to the size of the terminal, also while it changes."""

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
        self._series = {name: DownsampledSeries() for name in _CURVES}
        self._images: list[Image.Image] = []
        self._caption = ""
        self._drawn: tuple[object, _RenderedLines] | None = None
        self._messages: deque[str] = deque(maxlen=100)
        self._terminal, self._size = console, console.size  # rich asks for what to draw before `console` is there
        super().__init__(
            *self._wide, console=console, disable=disable, expand=True, refresh_per_second=REFRESHES_PER_SECOND
        )

    def say(self, text: str) -> None:
        """Print a message above the view."""
        self._messages.append(text)
        self._terminal.print(text, markup=False)

    def add(self, record: Record) -> None:
        """Show new figures."""
        if self.disable:
            return
        for name, series in self._series.items():
            series.add(getattr(record, name))
        self._record, self._memory = record, memory_in_use()

    def show_samples(self, pictures_BCHW: Tensor, caption: str, columns: int | None = None) -> None:
        """As `View.show_samples`; the first ones that fit, of all classes in turn."""
        if not self.disable and self._colours is not None:
            if columns is not None:
                pictures_BCHW = pictures_BCHW.unflatten(0, (-1, columns)).transpose(0, 1).flatten(0, 1)
            self._images, self._caption = thumbnails(pictures_BCHW), caption
            self.refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        """What rich draws, from top to bottom; never more lines than the terminal has."""
        self._redraw_if_resized()
        width, height = self._terminal.size
        self.columns = self._wide if width >= MIN_WIDE_COLUMNS else self._narrow
        yield from super().get_renderables()
        left = height - 1 - sum(task.visible for task in self.tasks)
        if self._record is None:
            return
        lines = self._figures(width, left)
        yield from lines
        left = min(left - len(lines) - 1, MAX_PICTURE_LINES)
        if self._images and (pictures := self._pictures(width, left)):
            yield Text(self._caption, style="dim", overflow="ellipsis", no_wrap=True)
            yield pictures

    @property
    def _colours(self) -> ColorSystem | None:
        """The colour system for pictures; None if the terminal has no colours or no block characters."""
        if self._terminal.no_color or self._only_ascii:
            return None
        return _COLOURS.get(self._terminal.color_system or "")

    @property
    def _only_ascii(self) -> bool:
        return self._terminal.options.ascii_only or self._terminal.legacy_windows

    def _figures(self, width: int, height: int) -> list[Text]:
        """The figures in at most `height` lines."""
        record = self._record
        assert record is not None
        probabilities = [f"D(x) {record.d_real:.2f}", f"D(G(z)) {record.d_fake:.2f}"]
        memory = "  ".join(f"{name} {size}" for name, size in self._memory.items())
        if height < MIN_FIGURE_LINES:
            values = f"{record.images_per_sec:,.0f} img/s  D {record.loss_d:.2f}  G {record.loss_g:.2f}  "
            return [_line(Text(values + "  ".join(probabilities), style="cyan"))][: max(0, height)]
        beside = [*probabilities, memory] if width >= MIN_WIDE_COLUMNS else [""] * len(_CURVES)
        room = max(map(len, beside))
        lines = []
        for (name, (label, colour)), remark in zip(_CURVES.items(), beside, strict=True):
            value = getattr(record, name)
            figure = f"{value:,.0f}" if name == "images_per_sec" else f"{value:.3f}"
            line = Text.assemble((f"{label:7}", "bold"), f"{figure:>7} ")
            space = width - len(line.plain) - (room + 2 if room else 0)
            curve = "" if self._only_ascii else sparkline(self._series[name].points, space)
            line.append(curve.ljust(space), style=colour)
            if remark:
                line.append("  " + remark)
            lines.append(_line(line))
        if not room:
            lines.append(_line(Text("  ".join([*probabilities, memory]))))
        return lines

    def _pictures(self, width: int, height: int) -> "_RenderedLines | None":
        """The samples, rendered again only for new ones or another size of the terminal."""
        first = self._images[0]
        layout = grid_layout(len(self._images), Size(first.height, first.width), width, height)
        colours = self._colours
        if layout is None or colours is None:
            return None
        key = (self._images, layout, colours)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, _RenderedLines(half_blocks(tiled(self._images, layout), colours))
        return self._drawn[1]

    def _redraw_if_resized(self) -> None:
        """After a resize, clear the screen and print the messages again: rewrapped lines can't be overwritten."""
        size = self._terminal.size
        if size == self._size:
            return
        self._size = size
        if self.live.is_started:
            self._terminal.clear()
            for text in list(self._messages)[-size.height :]:
                self._terminal.print(text, markup=False)


class _RenderedLines:
    """Prepared lines with escape codes."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            # As control codes, because rich would take milliseconds to measure and style them.
            yield Segment(line, None, [(ControlType.CARRIAGE_RETURN,)])
            yield Segment.line()


def _line(text: Text) -> Text:
    text.overflow, text.no_wrap = "ellipsis", True
    return text
