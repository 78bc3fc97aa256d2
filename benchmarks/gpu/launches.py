"""What a step launches, counted by PyTorch's profiler, and how long the device works on it.

In a process of its own, after all timing: a profiler that has been on once may slow down launches ever after.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from benchmarks.contenders import finisher
from benchmarks.gpu import plan_parity
from benchmarks.gpu.contenders import build, contenders_of
from benchmarks.gpu.matrix import Cell, axes_of, item
from benchmarks.gpu.turns import LEAST_WARM_UP, time_steps
from benchmarks.gpu.worker import Work, free_memory
from fastdcgan.telemetry.profiler import trace

RECORDED = 3
"""Steps."""

LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch", "cudaMemcpy", "cudaMemset", "cuMemcpy")
"""How the names begin of what the host calls to make a device work."""

OPERATORS_TIMED = 1000
"""Few enough that the device's queue, of 1,024, never makes the host wait."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of a step."""

    launches: float
    """Calls by which the host makes the device work; 0 without a device."""

    kernels: float
    """Kernels, copies and fills that the device carries out."""

    device_seconds: float | None
    """In which the device works on at least one; None without a device."""

    operators: float
    """PyTorch's operators that take time by themselves."""

    costliest: list[tuple[str, float]]
    """Their names, and seconds a step."""


def count_all(work: Work) -> None:
    """Count the contenders at the most important batch: first what need not be compiled, then the rest."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it logs that it begins, and that there is no GPU
    work.journal.write("launch cost", seconds=launch_seconds(work.device))
    axes = axes_of(work.device)
    cells = [cell for cell in axes.cells() if cell.batch == axes.headline.batch]
    pairs = [(cell, each) for cell in cells for each in contenders_of(cell.precision, work.device)]
    pairs.sort(key=lambda pair: pair[1].compiles and pair[0] != cells[0])
    todo = {
        item(cell, each): (cell, each)
        for cell, each in pairs
        if each.plan is None or plan_parity.item(cell.arch, each.plan) not in work.request.refused
    }
    work.journal.plan(todo)
    for name, (cell, each) in todo.items():
        if name in work.request.skip:
            continue
        if not work.has_time_for(compiled=each.compiles):
            continue
        with work.item(name):
            step = build(each, cell.geometry, cell.batch, cell.precision, work.device)
            first = time_steps(step, 1, work.device)
            if each.compiles:
                work.compiled_in(first)
            time_steps(step, LEAST_WARM_UP[work.device.type], work.device)
            counts = count(step, work.device)
            work.journal.write("launches", item=name, **_cell(cell), contender=each.name, **asdict(counts))
            work.say(f"  {name}: {counts.launches or counts.operators:,.0f} a step")
            del step
        free_memory(work.device, compiled=each.compiles)


def launch_seconds(device: torch.device) -> float:
    """What a small operator costs the host, launched one after the other: the best of a few readings."""
    number = torch.ones((), device=device)
    best = float("inf")
    for _ in range(5):
        finisher(device)()
        start = time.perf_counter()
        for _ in range(OPERATORS_TIMED):
            number.add_(1.0)
        best = min(best, time.perf_counter() - start)
    finisher(device)()
    return best / OPERATORS_TIMED


def count(step: Callable[[], object], device: torch.device) -> Counts:
    """Take steps under the profiler, and count."""
    events: list[trace.Event] = []

    def keep(profiled: profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiled.export_chrome_trace(str(path))
            events.append(trace.parse(path.read_text(encoding="utf-8", errors="replace")))

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    window = schedule(wait=0, warmup=1, active=RECORDED, repeat=1)
    with profile(activities=activities, schedule=window, on_trace_ready=keep, acc_events=True) as profiler:
        for _ in range(1 + RECORDED):
            step()
            finisher(device)()  # within the step's range
            profiler.step()
    (found,) = events
    return read_counts(found)


def read_counts(recorded: trace.Event) -> Counts:
    """What a Chrome trace of some steps holds, of each step."""
    window = trace.read(recorded)
    begin_end = _span(recorded["traceEvents"])
    inside = [
        e for e in recorded["traceEvents"] if e.get("ph") == "X" and begin_end[0] <= float(e["ts"]) < begin_end[1]
    ]
    launches = [e for e in inside if e.get("cat") in ("cuda_runtime", "cuda_driver") and e["name"].startswith(LAUNCHES)]
    kernels = [e for e in inside if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    return Counts(
        launches=len(launches) / window.steps,
        kernels=len(kernels) / window.steps,
        device_seconds=None if window.device_busy is None else window.device_busy / window.steps,
        operators=sum(row.calls for row in window.rows) / window.steps,
        costliest=[(row.name[:80], row.seconds / window.steps) for row in window.rows[:5]],
    )


def _span(events: Sequence[trace.Event]) -> tuple[float, float]:
    """From the first step's beginning to the last one's end, in the trace's own time."""
    steps = [e for e in events if e.get("cat") == "user_annotation" and e["name"].startswith(trace.STEP)]
    return min(float(e["ts"]) for e in steps), max(float(e["ts"] + e["dur"]) for e in steps)


def _cell(cell: Cell) -> dict[str, Any]:
    return {"arch": cell.arch, "batch": cell.batch, "precision": cell.precision, "width": cell.width}
