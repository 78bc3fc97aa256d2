"""A run in a notebook: one output that is updated in place, of plain HTML, which needs no widgets and no JavaScript."""

import base64
import html
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.progress import TaskID
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from fastdcgan.runs.sampling import grid
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.report.grids import downscaled, encode_webp
from fastdcgan.telemetry.terminal.sparkline import DownsampledSeries

SECONDS_BETWEEN_UPDATES = 1.0
"""Each one is sent to the browser and kept in the notebook's output until the next."""

CURVE_POINTS = 120

_CURVES = {"loss_d": ("loss D", "#1b9e77"), "loss_g": ("loss G", "#d95f02"), "images_per_sec": ("img/s", "#7570b3")}


class DisplayHandle(Protocol):
    """IPython's handle of an output."""

    def update(self, data: object) -> None:
        """Show something else in its place."""


class Html:
    """What IPython shows as HTML, and as text where there is no HTML."""

    def __init__(self, page: str, text: str) -> None:
        self._page, self._text = page, text

    def _repr_html_(self) -> str:
        return self._page

    def __repr__(self) -> str:
        return self._text


@dataclass
class _Task:
    name: str
    total: float
    done: float
    visible: bool = True
    began: float = field(default_factory=time.monotonic)
    done_then: float = 0.0


class NotebookView:
    """A `View` of a run in a notebook. Nothing is shown before `start`."""

    def __init__(self, display: Callable[..., DisplayHandle]) -> None:
        """Show it by a function like `IPython.display.display`."""
        self._display = display
        self._handle: DisplayHandle | None = None
        self._updated = 0.0
        self._tasks: list[_Task] = []
        self._messages: list[str] = []
        self._series = {name: DownsampledSeries(CURVE_POINTS) for name in _CURVES}
        self._record: Record | None = None
        self._grid, self._caption = "", ""

    def start(self) -> None:
        """Begin to show it."""
        self._handle = self._display(self._page(), display_id=True)

    def stop(self) -> None:
        """Show the last of it. What is said later still appears."""
        self.refresh()

    def say(self, text: str) -> None:
        """Show a message of one or more lines, below all."""
        self._messages.append(text)
        self.refresh()

    def add_task(self, description: str, *, total: float | None) -> TaskID:
        """A bar."""
        self._tasks.append(_Task(description, total or 0, 0))
        return TaskID(len(self._tasks) - 1)

    def update(
        self,
        task_id: TaskID,
        *,
        completed: float | None = None,
        total: float | None = None,
        visible: bool | None = None,
    ) -> None:
        """Another state of a bar."""
        task = self._tasks[task_id]
        if completed is not None:
            if not task.done and completed:
                task.began, task.done_then = time.monotonic(), completed  # a run that goes on begins in its middle
            task.done = completed
        task.total = task.total if total is None else total
        task.visible = task.visible if visible is None else visible
        self._refresh_if_due()

    def add(self, record: Record) -> None:
        """Show new figures."""
        self._record = record
        for name, series in self._series.items():
            series.add(getattr(record, name))
        self._refresh_if_due()

    def show_samples(self, pictures_BCHW: Tensor, caption: str, columns: int | None = None) -> None:
        """As `View.show_samples`."""
        picture = downscaled(to_pil_image(grid(pictures_BCHW, columns)))
        self._grid = base64.b64encode(encode_webp(picture)).decode()
        self._caption = caption
        self.refresh()

    def refresh(self) -> None:
        """Show all that is new now."""
        self._updated = time.monotonic()
        if self._handle is not None:
            self._handle.update(self._page())

    def _refresh_if_due(self) -> None:
        if time.monotonic() - self._updated >= SECONDS_BETWEEN_UPDATES:
            self.refresh()

    def _page(self) -> Html:
        parts = [_bar(task) for task in self._tasks if task.visible]
        if self._record is not None:
            parts.append(_figures(self._record, self._series))
        if self._grid:
            parts.append(
                f'<figure style="margin:.8em 0"><img alt="{self._caption}" style="max-width:100%;height:auto" '
                f'src="data:image/webp;base64,{self._grid}">'
                f'<figcaption style="opacity:.7">{self._caption}</figcaption></figure>'
            )
        messages = "\n".join(self._messages)
        parts.append(f'<pre style="white-space:pre-wrap;margin:.5em 0">{html.escape(messages)}</pre>')
        return Html(f'<div style="max-width:46em">{"".join(parts)}</div>', messages)


def notebook_display() -> Callable[..., DisplayHandle] | None:
    """IPython's `display` in a notebook's kernel; None in any other program, where IPython isn't even imported."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import display

    shell: Any = get_ipython()
    found: Callable[..., DisplayHandle] = display
    return found if getattr(shell, "kernel", None) is not None else None


def _bar(task: _Task) -> str:
    elapsed, done = time.monotonic() - task.began, task.done - task.done_then
    left = ""
    if done > 0 and task.done < task.total:
        minutes, seconds = divmod(round(elapsed * (task.total - task.done) / done), 60)
        left = f", {minutes}:{seconds:02d} left"
    return (
        f'<div style="display:flex;gap:.8em;align-items:center"><span>{html.escape(task.name)}</span>'
        f'<progress style="flex:1" value="{task.done:.0f}" max="{task.total:.0f}"></progress>'
        f"<span>{task.done:,.0f} of {task.total:,.0f}{left}</span></div>"
    )


def _figures(record: Record, series: dict[str, DownsampledSeries]) -> str:
    cells = []
    for name, (label, colour) in _CURVES.items():
        value = getattr(record, name)
        shown = f"{value:,.0f}" if name == "images_per_sec" else f"{value:.3f}"
        cells.append(f'<div style="flex:1">{label} <b>{shown}</b>{_curve(series[name].points, colour)}</div>')
    probabilities = f"D(x)&nbsp;<b>{record.d_real:.2f}</b><br>D(G(z))&nbsp;<b>{record.d_fake:.2f}</b>"
    return f'<div style="display:flex;gap:1em;margin-top:.5em">{"".join(cells)}<div>{probabilities}</div></div>'


def _curve(values: Sequence[float], colour: str) -> str:
    """A line of the values, from their minimum to their maximum."""
    if len(values) < 2:
        return ""
    least, span = min(values), (max(values) - min(values)) or 1.0
    points = " ".join(
        f"{x * 100 / (len(values) - 1):.1f},{28 - 26 * (y - least) / span:.1f}" for x, y in enumerate(values)
    )
    style = 'preserveAspectRatio="none" style="width:100%;height:2em;display:block"'
    line = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"'
    return f'<svg viewBox="0 0 100 30" {style}>{line} vector-effect="non-scaling-stroke"/></svg>'
