"""The plan that whole runs use: the fastest as measured above, kept where `fastdcgan train` looks for it."""

import statistics
from dataclasses import dataclass

from benchmarks.gpu import plan_parity
from benchmarks.gpu.contenders import REFERENCE, plans_of
from benchmarks.gpu.journal import Record
from benchmarks.gpu.matrix import Cell
from benchmarks.gpu.parts import Session
from fastdcgan.config import ExecutionConfig
from fastdcgan.distributed.accelerator import join
from fastdcgan.execution.plan import Plan
from fastdcgan.tuning.choice import find_plan, measurement_conditions, save_choice
from fastdcgan.tuning.paired import PairedTimes
from fastdcgan.tuning.parity import Parity
from fastdcgan.tuning.tune import Measurement, TuningResult


@dataclass(frozen=True, kw_only=True)
class Fastest:
    """A plan, and the rate of its step on data that is there."""

    plan: Plan
    images_per_sec: float


def remember_fastest(session: Session) -> Fastest | None:
    """The fastest plan of the headline among those that passed parity, written down for `fastdcgan train`; None if none
    was measured."""
    cell = session.axes.headline
    plans = plans_of(cell.precision, session.device)
    checks = {record["item"]: record for record in session.records("parity", "parity") if record["passed"]}
    measured = []
    for reference, ours in in_pairs(session.records("speed", "speed"), cell):
        plan = find_plan(plans, ours["fields"])
        check = checks.get(plan_parity.item(cell.arch, plan)) if plan else None
        if plan and check:
            pairs = list(zip(reference["seconds"], ours["seconds"], strict=False))
            times = PairedTimes(*map(tuple, zip(*pairs, strict=True)))
            parity = Parity(error=check["error"], allowed=check["allowed"], beyond=())
            measured.append(Measurement(plan=plan, parity=parity, times=times))
    tuning = TuningResult(
        arch=cell.geometry, batch=cell.batch, reference=Measurement(plan=None), plans=tuple(measured), seconds=0.0
    )
    best = tuning.chosen
    if best is None or best.plan is None or best.times is None:
        return None
    request = ExecutionConfig(device=session.device.type)
    join(request)  # sets the threads that a run would have: they are among the conditions
    conditions = measurement_conditions(request, session.device, cell.geometry, cell.batch, world_size=1)
    save_choice(conditions, tuning)
    return Fastest(plan=best.plan, images_per_sec=cell.batch / statistics.median(best.times.ours))


def in_pairs(speeds: list[Record], cell: Cell) -> list[tuple[Record, Record]]:
    """The results of a cell's plans, each with the reference's of the same visit."""
    here = [each for each in speeds if each["item"].startswith(f"{cell}: ")]
    references = {each["visit"]: each for each in here if each["contender"] == REFERENCE}
    return [(references[each["visit"]], each) for each in here if each["fields"] and each["visit"] in references]
