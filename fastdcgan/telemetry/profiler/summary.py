"""The summary of a profile: the costliest operators and the machine's ceilings, the named ranges, the bottleneck."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.ranges import ALL_REDUCE, DATA_WAIT
from fastdcgan.limits.hardware import describe_hardware
from fastdcgan.limits.roofline import Ceilings
from fastdcgan.storage.files import write_replacing
from fastdcgan.telemetry.profiler.memory_timeline import peak
from fastdcgan.telemetry.profiler.trace import OperatorTotal, Window, phases

MAX_OPERATORS = 10
_WIDTH = 110

Binding = Literal["data", "communication", "arithmetic", "memory", "launches", "overhead"]


@dataclass(frozen=True, kw_only=True)
class ProfiledRun:
    """The run that is profiled."""

    arch: Architecture
    batch: int
    """Global batch size."""

    plan: str
    device: torch.device
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True, kw_only=True)
class OperatorShare:
    """A row of the table: means over a step."""

    name: str
    calls: float
    seconds: float
    share: float
    """Of the step."""

    unit: Literal["FLOP/s", "B/s"] | None
    achieved: float | None
    ceiling: float | None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A named range: means over a step."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """What takes most of the step."""

    by: Binding
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The summary of a profile, as summary.json has it."""

    subject: ProfiledRun
    steps: int
    step_seconds: float
    """Including the profiler's overhead."""

    operators: Sequence[OperatorShare]
    phases: Sequence[Phase]
    verdict: Bottleneck
    ceilings: Ceilings | None
    peak_bytes: int | None
    peak_range: str


def summarise(window: Window, subject: ProfiledRun, machine: Ceilings | None) -> Summary:
    """Summarise a window.

    Args:
        window: as recorded.
        subject: the profiled run.
        machine: its ceilings; None if unknown.
    """
    most = peak(window)
    return Summary(
        subject=subject,
        steps=window.steps,
        step_seconds=window.seconds / window.steps,
        operators=[_share(row, window, machine) for row in window.rows[:MAX_OPERATORS]],
        phases=[
            Phase(name=name, seconds=seconds / window.steps, share=seconds / window.seconds)
            for name, seconds in phases(window).items()
        ],
        verdict=find_bottleneck(window, machine),
        ceilings=machine,
        peak_bytes=most[0].bytes if most else None,
        peak_range=most[1] if most else "",
    )


def find_bottleneck(window: Window, machine: Ceilings | None) -> Bottleneck:
    """The largest part of the step, with a sentence about it."""
    named = phases(window)
    data, crossing = named.get(DATA_WAIT, 0.0), named.get(ALL_REDUCE, 0.0)
    arithmetic = sum(row.seconds for row in window.rows if row.flops)
    memory = sum(row.seconds for row in window.rows if row.bytes and not row.flops)
    parts: dict[Binding, float] = {"arithmetic": arithmetic, "memory": memory, "communication": crossing}
    if window.device_busy is not None:
        idle = max(0.0, window.seconds - window.device_busy)
        parts |= {
            "data": min(data, idle),
            "launches": max(0.0, idle - data),
        }  # waits that the device hides are free
    else:
        parts |= {"data": data, "overhead": max(0.0, window.seconds - data - crossing - arithmetic - memory)}
    by = max(parts, key=lambda part: parts[part])
    share = f"{min(1.0, parts[by] / window.seconds):.0%}"
    match by:
        case "data":
            sentence = f"Data binds the step: for {share} of it there is nothing to do but wait for pictures"
        case "communication":
            sentence = f"The link between processes binds the step: {share} of it goes by in all-reduce"
        case "launches":
            sentence = (
                f"Launching binds the step: for {share} of it the device waits for Python and PyTorch to name its "
                "next operator; --compile step replays the step without"
            )
        case "overhead":
            sentence = (
                f"Overhead binds the step: {share} of it is Python, PyTorch and operators too small to name; larger "
                "batches have less of it"
            )
        case "arithmetic":
            of_it = _reached([row for row in window.rows if row.flops], machine)
            sentence = f"Arithmetic binds the step: convolutions and products take {share} of it{of_it}"
        case "memory":
            of_it = _reached([row for row in window.rows if row.bytes and not row.flops], machine)
            sentence = f"Memory binds the step: operators that only move numbers take {share} of it{of_it}"
    return Bottleneck(by=by, sentence=f"{sentence}.")


def as_text(summary: Summary) -> str:
    """The summary as text: tables and the sentence, 110 columns wide."""
    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False, color_system=None)
    subject = summary.subject
    ranks = f", rank {subject.rank} of {subject.world_size}" if subject.world_size > 1 else ""
    console.print(
        f"{subject.arch.name}, width {subject.arch.width}, batch {subject.batch}{ranks}, {subject.plan}: "
        f"{1e3 * summary.step_seconds:.1f} ms a step, mean of {summary.steps}, slowed by the profiler itself",
        soft_wrap=True,
    )
    console.print(_operators_table(summary))
    console.print(
        "Times are a step's. Convolutions and products count with all that they call. The ceiling is that of "
        + (summary.ceilings.name if summary.ceilings else "a machine unknown here")
        + ". More than 100 % of it: numbers that never left a cache, or Winograd's kernels, which multiply less than "
        "the convolutions that they stand for."
    )
    console.print(_phases_table(summary))
    if any(phase.name == ALL_REDUCE for phase in summary.phases):
        console.print(f"{ALL_REDUCE} lies within the other ranges, or beside them in a thread of its own.")
    if summary.peak_bytes is not None:
        within = f", in {summary.peak_range}" if summary.peak_range else ""
        # A replayed step allocated what it needs when it was recorded, before the window.
        keeps = subject.device.type == "cpu" and "replayed" in subject.plan
        beside = ", beside what a replayed step keeps: --compile off shows it" if keeps else ""
        console.print(f"Memory: {summary.peak_bytes / 2**20:,.1f} MiB at most{within}{beside}.")
    console.print(summary.verdict.sentence, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())
    return "\n".join(lines) + "\n"


def as_data(summary: Summary) -> dict[str, Any]:
    """The summary as JSON-serialisable data: seconds, bytes, FLOP/s and B/s."""
    subject = summary.subject
    return {
        **asdict(summary),
        "subject": {
            **{"arch": subject.arch.name, "width": subject.arch.width, "batch": subject.batch, "plan": subject.plan},
            **{"device": str(subject.device), "rank": subject.rank, "world_size": subject.world_size},
        },
        "machine": describe_hardware(subject.device),
        "torch": torch.__version__,
    }


def write_summary(summary: Summary, path: Path, files: Sequence[str]) -> None:
    """Write summary.json, with the names of the other files. Raises OSError."""
    write_replacing(path, json.dumps({**as_data(summary), "files": list(files)}, indent=2) + "\n")


def _share(row: OperatorTotal, window: Window, machine: Ceilings | None) -> OperatorShare:
    amount = row.flops or row.bytes
    return OperatorShare(
        name=row.name.removeprefix("autograd::engine::evaluate_function: "),
        calls=row.calls / window.steps,
        seconds=row.seconds / window.steps,
        share=row.seconds / window.seconds,
        unit=("FLOP/s" if row.flops else "B/s") if amount else None,
        achieved=amount / row.seconds if amount else None,
        ceiling=_ceiling(row, machine) if amount and machine else None,
    )


def _ceiling(row: OperatorTotal, machine: Ceilings) -> float:
    if not row.flops:
        return machine.bytes
    return machine.flops[row.precision if row.precision in machine.flops else "bf16"]  # fp16 is as fast


def _reached(rows: Sequence[OperatorTotal], machine: Ceilings | None) -> str:
    if machine is None:
        return ""
    least = sum((row.flops or row.bytes) / _ceiling(row, machine) for row in rows)
    share = least / sum(row.seconds for row in rows)
    what = "the best rate" if rows[0].flops else "the bandwidth"
    return f", at {share:.0%} of {what} that {machine.name} is known to reach"


def _operators_table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("operator", overflow="fold")
    for heading in ("calls", "ms", "share", "achieved", "ceiling", "reached"):
        table.add_column(heading, justify="right", no_wrap=True)
    for operator in summary.operators:
        reached = operator.achieved / operator.ceiling if operator.achieved and operator.ceiling else None
        table.add_row(
            operator.name,
            f"{operator.calls:g}",
            f"{1e3 * operator.seconds:.2f}",
            f"{operator.share:.1%}",
            _rate(operator.achieved, operator.unit),
            _rate(operator.ceiling, operator.unit),
            f"{reached:.0%}" if reached is not None else "",
        )
    return table


def _phases_table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("range")
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right")
    for phase in summary.phases:
        table.add_row(phase.name, f"{1e3 * phase.seconds:.2f}", f"{phase.share:.1%}")
    return table


def _rate(per_second: float | None, unit: str | None) -> str:
    return f"{per_second / 1e9:,.1f} G{unit}" if per_second is not None else ""
