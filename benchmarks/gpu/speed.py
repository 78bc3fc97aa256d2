"""The step's speed: contenders of a cell in turns, on data that stays on the device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import plan_parity
from benchmarks.gpu.contenders import Contender, build
from benchmarks.gpu.device_rates import measured_rates
from benchmarks.gpu.machine import clocks_now
from benchmarks.gpu.matrix import Visit, axes_of, item, visits
from benchmarks.gpu.turns import LEAST_WARM_UP, host_seconds, take_turns, time_steps
from benchmarks.gpu.worker import Work, free_memory
from fastdcgan.limits.memory import PeakMemory
from fastdcgan.tuning.choice import plan_fields

HEADLINE_SHARE = 0.1
"""Of the time, that a visit to the headline may take turns; compilation comes on top."""

VISIT_SHARE = 0.015
"""The same for every other visit."""

WARM_UP_SECONDS = 0.1
"""After the first step: caches fill, clocks rise, CUDA graphs are recorded."""

MOST_WARM_UP = 50
"""Steps."""

Step = Callable[[], object]


def time_all(work: Work) -> None:
    """Time every cell, the most important first, until the time is over."""
    torch.set_float32_matmul_precision("high")  # TF32 for products; cuDNN's convolutions have it by default
    work.say("  the device's own rates")
    rates = measured_rates(work.device)
    work.journal.write("rates", rates=rates, tf32={"cudnn": torch.backends.cudnn.allow_tf32, "matmul": "high"})
    todo = [without_refused(visit, work.request.refused) for visit in visits(axes_of(work.device), work.device)]
    work.journal.plan(dict.fromkeys(name for visit in todo for name in visit.items()))
    for number, visit in enumerate(todo):
        if not work.has_time_for(compiled=all(each.compiles for each in visit.contenders[1:])):
            continue
        share = HEADLINE_SHARE if visit.cell == todo[0].cell else VISIT_SHARE
        time_visit(work, f"{number}, attempt {work.request.attempt}", visit, share * work.request.seconds)


def without_refused(visit: Visit, refused: list[str]) -> Visit:
    """Without the plans that failed parity."""
    kept = tuple(
        each
        for each in visit.contenders
        if each.plan is None or plan_parity.item(visit.cell.arch, each.plan) not in refused
    )
    return Visit(cell=visit.cell, contenders=kept)


@dataclass(frozen=True, kw_only=True)
class Warm:
    """A contender whose first steps are done."""

    contender: Contender
    step: Step
    first_seconds: float
    step_seconds: float
    """About: of the last step of the warm-up."""

    peak_memory_mib: float | None


def time_visit(work: Work, number: str, visit: Visit, seconds: float) -> None:
    """Warm its contenders up and let them take turns. What is in the request's `skip` has no part in it.

    One that finds no room beside the others gets turns of its own with the reference.
    """
    names = {item(visit.cell, each): each for each in visit.contenders}
    asked = [name for name, each in names.items() if name not in work.request.skip or each is visit.contenders[0]]
    if len(asked) < min(2, len(names)):
        return
    work.say(f"  {visit.cell}: {' | '.join(names[name].name for name in asked)}")
    warm: dict[str, Warm] = {}
    no_room: list[Contender] = []
    for name in asked:
        if warm and not work.has_time_for(compiled=names[name].compiles):
            continue  # those that are warm are timed
        work.journal.begin(name)
        try:
            warm[name] = warm_up(work, visit, names[name])
        except torch.OutOfMemoryError as error:
            if len(warm) > 1:
                no_room.append(names[name])
            else:
                work.failed(name, error)
        except Exception as error:  # noqa: BLE001 (the others go on)
            work.failed(name, error)
    taken = take_turns(
        {name: partial(_time, each, work.device) for name, each in warm.items()},
        {name: each.step_seconds for name, each in warm.items()},
        seconds,
        on_failure=work.failed,
        clock=work.clock,
    )
    clocks = clocks_now(work.device) if number.startswith("0,") else None  # takes up to a second
    for name, each in warm.items():
        if taken[name]:
            work.journal.write(
                "speed", item=name, visit=number, **_figures(visit, each, taken[name], work.device), clocks=clocks
            )
    warm.clear()
    free_memory(work.device, compiled=any(each.compiles for each in visit.contenders))
    for place, contender in enumerate(no_room):
        alone = Visit(cell=visit.cell, contenders=(visit.contenders[0], contender))
        time_visit(work, f"{number}, alone {place}", alone, seconds / len(names))


def warm_up(work: Work, visit: Visit, contender: Contender) -> Warm:
    """Build a contender and take its first steps. Memory that is free is given back before."""
    if work.device.type == "cuda":
        torch.cuda.empty_cache()
    cell = visit.cell
    peak = PeakMemory(work.device)
    torch.backends.cudnn.benchmark = contender.cudnn_benchmark
    step = build(contender, cell.geometry, cell.batch, cell.precision, work.device)
    first = last = time_steps(step, 1, work.device)
    if contender.compiles:
        work.compiled_in(first)
    begun, count = work.clock(), 0
    while count < LEAST_WARM_UP[work.device.type] or (work.clock() - begun < WARM_UP_SECONDS and count < MOST_WARM_UP):
        last = time_steps(step, 1, work.device)
        count += 1
    return Warm(contender=contender, step=step, first_seconds=first, step_seconds=last, peak_memory_mib=peak.mib())


def _time(warm: Warm, device: torch.device, count: int) -> float:
    torch.backends.cudnn.benchmark = warm.contender.cudnn_benchmark
    return time_steps(warm.step, count, device)


def _figures(visit: Visit, warm: Warm, seconds: list[float], device: torch.device) -> dict[str, Any]:
    cell, plan = visit.cell, warm.contender.plan
    return {
        "arch": cell.arch,
        "width": cell.width,
        "batch": cell.batch,
        "precision": cell.precision,
        "contender": warm.contender.name,
        "computes_in": warm.contender.precision(cell.precision),
        "fields": plan and plan_fields(plan),
        "seconds": [float(f"{each:.4g}") for each in seconds],
        "first_step_seconds": round(warm.first_seconds, 3),
        "host_seconds": host_seconds(warm.step, device),
        "peak_memory_mib": warm.peak_memory_mib and round(warm.peak_memory_mib, 1),
    }
