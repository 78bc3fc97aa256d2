"""The results of a run for a terminal of 80 columns. `report.py` has all figures."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.report import count, grouped, microseconds, percent, spread
from benchmarks.suites import SUITES, in_order

Info = dict[str, Any]

Columns = dict[str, tuple[int, Callable[[Info], str]]]
"""Heading -> width and cell, right of what names the row."""

WIDTH = 80

THROUGHPUT: Columns = {
    "ours": (9, lambda info: count(info["images_per_sec"])),
    "reference": (9, lambda info: count(info["reference_images_per_sec"])),
    "ratio (quartiles)": (22, lambda info: spread(info["speedup"], info["speedup_quartiles"])),
    "ceiling": (7, lambda info: percent(info.get("ceiling_fraction"))),
}
TECHNIQUES: Columns = {
    "ours": (9, lambda info: count(info["images_per_sec"])),
    "ratio": (9, lambda info: f"{info['speedup']:.2f}"),
    "gain (quartiles)": (22, lambda info: spread(info["measured_gain"], info["measured_gain_quartiles"])),
    "ceiling": (7, lambda info: percent(info.get("ceiling_fraction"))),
}
SECONDS: Columns = {"seconds (quartiles)": (24, lambda info: spread(info["seconds"], info["seconds_quartiles"]))}
MEMORY: Columns = SECONDS | {"MiB": (7, lambda info: count(info.get("peak_memory_mib")))}
OVERHEAD: Columns = {
    "us (quartiles)": (25, lambda info: microseconds(info, "microseconds")),
    "with pictures": (25, lambda info: microseconds(info, "microseconds_in_all")),
}

LEGEND = (
    "ours, reference: images/s. ratio: the median over pairs of turns. gain: over the line above. "
    "ceiling: share of what this machine's arithmetic allows."
)


def tables(infos: Iterable[Info]) -> RenderableType:
    """A table for each suite, headline first, and what the columns say; nothing is cut."""
    parts: list[RenderableType] = []
    for suite, these in grouped(in_order(infos), "suite").items():
        if suite == "technique":
            for rows in grouped(these, "arch").values():
                rows = sorted(rows, key=lambda info: info["technique_number"])
                title = f"{SUITES[suite]}: {rows[0]['case'].partition(', +')[0]}"
                parts.append(_table(title, TECHNIQUES, rows, lambda info: f"+ {info['technique']}"))
        else:
            parts.append(_table(SUITES[suite], _columns(these[0]), these, lambda info: info["case"]))
    return Group(*parts, Text(LEGEND, style="dim"))


def figure(info: Info) -> str:
    """A result in a line, as soon as it is there."""
    if "speedup" in info:
        return f"{info['case']}: {spread(info['speedup'], info['speedup_quartiles'])} times"
    if "microseconds" in info:
        return f"{info['case']}: {microseconds(info, 'microseconds')} us"
    return f"{info['case']}: {spread(info['seconds'], info['seconds_quartiles'])} s"


def _columns(info: Info) -> Columns:
    """Those of a result's kind."""
    for name, columns in (("speedup", THROUGHPUT), ("microseconds", OVERHEAD), ("peak_memory_mib", MEMORY)):
        if name in info:
            return columns
    return SECONDS


def _table(title: str, columns: Columns, infos: Sequence[Info], name: Callable[[Info], str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        width=WIDTH,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column(ratio=1, overflow="fold")
    for heading, (width, _) in columns.items():
        table.add_column(heading, justify="right", width=width)
    for info in infos:
        table.add_row(Text(name(info)), *(Text(cell(info)) for _, cell in columns.values()))
    table.add_row()
    return table
