"""From what was measured to what is shown: a row a contender and cell, with its prediction and why they differ."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.contenders import EXAMPLES, REFERENCE
from benchmarks.gpu.journal import Record
from benchmarks.gpu.matrix import Cell
from benchmarks.results import quartiles
from fastdcgan.limits.gpu_prediction import predict, step_kernels
from fastdcgan.limits.roofline import Ceilings, iteration_flops, pass_flops
from fastdcgan.tuning.paired import PairedTimes

BUSY_ENOUGH = 0.8
"""A device that works for this share of a step or more is what bounds it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A contender in a cell. Seconds are of a step."""

    cell: Cell
    contender: str
    ours: bool
    whole: bool
    """Launched as a whole, by its plan: replayed or captured."""

    computes_in: str
    seconds: float
    seconds_quartiles: tuple[float, float]
    turns: int
    against_reference: PairedTimes | None
    """None for the reference itself."""

    against_examples: PairedTimes | None
    """None for the loop itself, and where that was not timed in the same turns."""

    predicted_seconds: float | None
    """None where the machine's peaks are unknown."""

    captured_seconds: float | None
    """The same of a step without any launches, in this precision: the roofline, kernel by kernel."""

    flops_per_sec: float
    bytes_per_sec: float
    """By the model's count of a fused step's traffic."""

    host_seconds: float | None
    first_step_seconds: float
    peak_memory_mib: float | None
    counts: Record | None
    parity: Record | None

    @property
    def images_per_sec(self) -> float:
        """By the median."""
        return self.cell.batch / self.seconds

    @property
    def off(self) -> float | None:
        """Measured by predicted."""
        return self.seconds / self.predicted_seconds if self.predicted_seconds else None

    @property
    def roofline_share(self) -> float | None:
        """The captured step as predicted, by the step as measured."""
        return self.captured_seconds / self.seconds if self.captured_seconds else None


def rows(parts: Iterable[dict[str, Any]], machine: Ceilings | None) -> list[Row]:
    """All that was timed, cell by cell in the order of measuring; of what was timed twice in a cell the
    last is shown: the headline is timed with all contenders once all others are known.

    Args:
        parts: as `run_parts` reports them.
        machine: peaks; None where nobody knows them.
    """
    found = {part["name"]: part["records"] for part in parts}
    speeds = [each for each in found.get("speed", []) if each["kind"] == "speed"]
    counts = {each["item"]: each for each in found.get("launches", []) if each["kind"] == "launches"}
    checks = {each["item"]: each for each in found.get("parity", []) if each["kind"] == "parity"}
    by_visit = {(each["visit"], each["contender"]): each for each in speeds}
    once = {each["item"]: each for each in speeds}
    ordered = list(dict.fromkeys(each["item"] for each in speeds))
    cells = list(dict.fromkeys(name.partition(": ")[0] for name in ordered))
    ordered.sort(key=lambda name: cells.index(name.partition(": ")[0]))
    return [_row(once[name], by_visit, counts.get(name), checks, machine) for name in ordered]


def _row(
    speed: Record,
    by_visit: dict[tuple[str, str], Record],
    counts: Record | None,
    checks: dict[str, Record],
    machine: Ceilings | None,
) -> Row:
    cell = Cell(arch=speed["arch"], batch=speed["batch"], precision=speed["precision"], width=speed["width"])
    seconds, fields = statistics.median(speed["seconds"]), speed["fields"] or {}
    like = "fp32" if speed["computes_in"] == "fp32" else "bf16"  # fp16 has the same peaks and sizes
    whole = bool(fields.get("capture") or fields.get("replay"))
    predicted = predict(cell.geometry, cell.batch, machine, like) if machine else None
    kernels = step_kernels(cell.geometry, cell.batch, like)

    def against(other: str) -> PairedTimes | None:
        theirs = by_visit.get((speed["visit"], other))
        if theirs is None or other == speed["contender"]:
            return None
        pairs = list(zip(theirs["seconds"], speed["seconds"], strict=False))
        return PairedTimes(tuple(each for each, _ in pairs), tuple(each for _, each in pairs))

    return Row(
        cell=cell,
        contender=speed["contender"],
        ours=bool(fields),
        whole=whole,
        computes_in=speed["computes_in"],
        seconds=seconds,
        seconds_quartiles=quartiles(speed["seconds"]),
        turns=len(speed["seconds"]),
        against_reference=against(REFERENCE),
        against_examples=against(EXAMPLES),
        predicted_seconds=(predicted.captured if whole else predicted.eager) if predicted else None,
        captured_seconds=predicted.captured if predicted else None,
        flops_per_sec=cell.batch * iteration_flops(*pass_flops(cell.geometry)) / seconds,
        bytes_per_sec=sum(kernel.bytes for kernel in kernels) / seconds,
        host_seconds=speed["host_seconds"],
        first_step_seconds=speed["first_step_seconds"],
        peak_memory_mib=speed["peak_memory_mib"],
        counts=counts,
        parity=checks.get(f"{cell.arch}: {speed['contender']}"),
    )


def why(row: Row, launch_cost: float | None, machine: Ceilings | None) -> str:
    """Why a step takes longer or shorter than predicted, as far as its counts tell; empty where it was not counted.

    Args:
        row: with counts.
        launch_cost: measured seconds of the host for a small operator.
        machine: its peaks.
    """
    counts = row.counts
    if counts is None:
        return ""
    measured = 1e3 * row.seconds
    busy = counts["device_seconds"]
    if busy is None:
        return _why_on_cpu(row, counts, launch_cost)
    cost = ""
    if launch_cost is not None:
        cost = f", which at {1e6 * launch_cost:.1f} us apiece are {1e3 * launch_cost * counts['launches']:.2f} ms"
    host = f"; the host needs {1e3 * row.host_seconds:.2f} ms for a step" if row.host_seconds is not None else ""
    launching = f"{counts['launches']:,.0f} launches{cost}{host}"
    if busy < BUSY_ENOUGH * row.seconds:
        return (
            f"launch-bound: the device works {1e3 * busy:.2f} of {measured:.2f} ms, on {counts['kernels']:,.0f} "
            f"kernels, and waits for the rest; {launching}"
        )
    kernels = ""
    if row.captured_seconds is not None and machine is not None:
        kernels = (
            f", {busy / row.captured_seconds:.2f} times what the model gives its kernels; that is "
            f"{row.bytes_per_sec / machine.bytes:.0%} of the bandwidth by the model's bytes and "
            f"{row.flops_per_sec / _peak(machine, row.computes_in):.0%} of the arithmetic's peak"
        )
    return f"device-bound: {counts['kernels']:,.0f} kernels take {1e3 * busy:.2f} of {measured:.2f} ms{kernels}; " + (
        launching
    )


def _why_on_cpu(row: Row, counts: Record, launch_cost: float | None) -> str:
    starts = ""
    if launch_cost is not None:
        share = launch_cost * counts["operators"] / row.seconds
        starts = f", whose starts take {share:.0%} of the step at {1e6 * launch_cost:.1f} us apiece"
    return f"no device to launch on: {counts['operators']:,.0f} operators, nested ones too{starts}"


def _peak(machine: Ceilings, precision: str) -> float:
    return machine.flops["fp32" if precision == "fp32" else "bf16"]
