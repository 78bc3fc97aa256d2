"""A table of plans as they were measured, and the same as data."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fastdcgan.limits.roofline import Ceilings, throughput_limit, work_per_image
from fastdcgan.storage.files import write_replacing
from fastdcgan.tuning.choice import plan_fields
from fastdcgan.tuning.tune import Measurement, TuningResult

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def plans_table(tuning: TuningResult, machine: Ceilings | None) -> Table:
    """One row a plan, the reference first, the chosen one marked.

    Args:
        tuning: what was measured.
        machine: where; None if its limits aren't known.
    """
    table = Table(
        title=f"{tuning.arch.name}, width {tuning.arch.width}, batch {tuning.batch}",
        caption="In turns with the reference, in one process: medians, quartiles below them. Ceiling: the roofline of "
        "this machine in the plan's precision; Winograd's kernels multiply less than it counts. Parity: distance of "
        "the gradients from those in fp64, and below it what it may be. Warm-up: the first step.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("plan", overflow="fold")
    for heading in ("img/s\nceiling", "x reference\n(quartiles)", "parity\n(allowed)", "MiB\nwarm-up"):
        table.add_column(heading, justify="right", overflow="fold")
    for measured in (tuning.reference, *tuning.plans):
        chosen = measured is tuning.chosen
        name = f"> {measured.plan}" if chosen else str(measured.plan or "the reference")
        beyond = measured.parity.beyond if measured.parity else ()
        table.add_row(
            name + (f"; too far off: {', '.join(beyond)}" if beyond else ""),
            *_figures(measured, tuning, machine),
            style="bold" if chosen else None,
        )
    return table


def plans_as_data(tuning: TuningResult, machine: Ceilings | None, conditions: dict[str, Any]) -> dict[str, Any]:
    """The table as JSON has it, with the conditions that it holds for."""
    return {
        "conditions": conditions,
        "seconds": tuning.seconds,
        "ceilings": {"flops": machine.flops, "bytes": machine.bytes} if machine else None,
        "plans": [_record(measured, tuning, machine) for measured in (tuning.reference, *tuning.plans)],
    }


def write_plans(path: Path, data: dict[str, Any]) -> None:
    """Write `plans_as_data`. Raises ValueError if that can't be."""
    try:
        write_replacing(path, json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"can't write to {path}: {error.strerror or error}") from error


def images_per_sec(measured: Measurement, batch: int) -> float | None:
    """The median; None if it was not timed."""
    return batch / measured.times.our_seconds if measured.times else None


def ceiling_fraction(measured: Measurement, tuning: TuningResult, machine: Ceilings | None) -> float | None:
    """Images per second over those that the roofline allows; None if either isn't known."""
    reached = images_per_sec(measured, tuning.batch)
    precision = measured.plan.precision if measured.plan else "fp32"
    if machine is None or reached is None or precision not in machine.flops:
        return None
    needed = work_per_image(tuning.arch, tuning.batch, _BYTES[precision])
    return reached / throughput_limit(needed, machine, precision).images_per_sec


def _figures(measured: Measurement, tuning: TuningResult, machine: Ceilings | None) -> tuple[str, ...]:
    """A cell of two lines for each column but the first."""
    speed, share = images_per_sec(measured, tuning.batch), ceiling_fraction(measured, tuning, machine)
    if measured.times is None:
        ratio = "no time left" if measured.parity is None or measured.parity.passed else "FAILS PARITY"
    elif measured.plan is None:
        ratio = "1"
    else:
        lower, upper = measured.times.speedup_quartiles
        ratio = f"{measured.times.speedup:.2f}\n({lower:.2f} to {upper:.2f})"
    parity, memory, warm_up = measured.parity, measured.peak_memory_mib, measured.warm_up_seconds
    return (
        ("" if speed is None else f"{speed:,.0f}") + ("" if share is None else f"\n{share:.0%}"),
        ratio,
        "" if parity is None else f"{parity.error:.1e}\n({parity.allowed:.1e})",
        ("" if memory is None else f"{memory:,.0f}") + ("" if warm_up is None else f"\n{warm_up:.1f} s"),
    )


def _record(measured: Measurement, tuning: TuningResult, machine: Ceilings | None) -> dict[str, Any]:
    times, parity = measured.times, measured.parity
    return {
        "plan": str(measured.plan or "reference"),
        "fields": plan_fields(measured.plan) if measured.plan else None,
        "chosen": measured is tuning.chosen,
        "images_per_sec": images_per_sec(measured, tuning.batch),
        "speedup": times.speedup if times else None,
        "speedup_quartiles": times.speedup_quartiles if times else None,
        "turns": len(times.ours) if times else 0,
        "ceiling_fraction": ceiling_fraction(measured, tuning, machine),
        "peak_memory_mib": measured.peak_memory_mib,
        "parity_error": parity.error if parity else None,
        "parity_allowed": parity.allowed if parity else None,
        "parity_beyond": parity.beyond if parity else None,
        "warm_up_seconds": measured.warm_up_seconds,
    }
