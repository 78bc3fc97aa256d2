"""The plan of a run: the one it was begun with, one measured earlier, one measured now, or the default by rules.

Measurements are cached, one small JSON file for each set of conditions.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from fastdcgan import __version__
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import Plan, choose_plan, is_replayed, kernel_version
from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.hardware import describe_hardware
from fastdcgan.limits.roofline import iteration_flops, pass_flops
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.files import read_json, write_replacing
from fastdcgan.tuning.tune import TuningResult, candidate_plans, measure_plans, time_one_step

MEASURING_SECONDS = 30.0
"""How long a run measures plans."""

MIN_RUN_SECONDS = 300.0
"""How long a run must last for that: half a minute is a tenth of it, and plans differ by more than a tenth."""

# The reference takes two steps to warm up and three that are timed, each about as long as four of the default plan, and
# so do at least two plans to choose from. Where these alone take longer than MEASURING_SECONDS, nothing is measured.
_STEPS_TO_MEASURE = 5 * (4 + 2)

# Slower than any known machine trains. A run that is short at this rate is short, without timing a step.
_SLOWEST_FLOPS_A_THREAD, _SLOWEST_FLOPS_A_GPU = 5e9, 5e11

JsonObject = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A plan, and why it was chosen, for people."""

    plan: Plan
    why: str


def choose_plan_for_run(
    request: ExecutionConfig,
    device: torch.device,
    arch: Architecture,
    batch: int,
    *,
    images: int,
    world_size: int = 1,
    previous_plan: object = None,
    say: Callable[[str], None] = lambda text: None,
) -> Choice:
    """The plan that a run should use.

    Args:
        request: what the user asked for.
        device: where the run takes place.
        arch: its networks.
        batch: its global batch.
        images: its length.
        world_size: its processes. Plans are measured in runs of one process only.
        previous_plan: the plan's fields, as JSON, of the run that this one continues; None if it is new. That plan is
            kept if it is possible here.
        say: is called with a line for the user before a measurement, which takes a while.

    Raises:
        ValueError: if the device can't do what was asked for, or no plan computes what the reference computes.
    """
    default = choose_plan(request, device, world_size)
    if request.plan == "default":
        return Choice(plan=default, why="by the rules, as asked for")
    plans = candidate_plans(request, device, world_size)
    changed = ""
    if previous_plan is not None:
        if (plan := find_plan(_equals(plans, device), previous_plan)) is not None:
            if device.type == "cpu":  # the same bits, replayed or not
                plan = replace(plan, replay=is_replayed(request, device, plan.kernels))
            return Choice(plan=plan, why="the one this run was begun with")
        changed = "not the one this run was begun with, which is not to be had here; "
    conditions = measurement_conditions(request, device, arch, batch, world_size)
    if (known := load_choice(conditions, plans)) is not None:
        return Choice(plan=known.plan, why=changed + known.why)
    if len(plans) == 1:
        return Choice(plan=default, why=f"{changed}the only one possible here")
    if why := _why_not_measure(default, device, arch, batch, images, world_size):
        return Choice(plan=default, why=f"{changed}by the rules: {why}")

    duration = f"{MEASURING_SECONDS:.0f} s"
    say(f"plan      measuring {len(plans)} plans for about {duration}, once (--plan default does without)")
    tuning = measure_plans(plans, arch, batch, device, MEASURING_SECONDS)
    chosen = chosen_plan(tuning)
    save_choice(conditions, tuning)
    return Choice(
        plan=chosen,
        why=f"{changed}{_speedup(tuning):.1f}x the reference here, measured just now in {tuning.seconds:.0f} s",
    )


def _why_not_measure(
    default: Plan, device: torch.device, arch: Architecture, batch: int, images: int, world_size: int
) -> str:
    """Why a run should not measure plans; empty if it should. Times a step if there is no other reason."""
    too_short = "too short a run to measure plans (fastdcgan tune does)"
    if world_size > 1:
        return "only runs of one process measure plans"
    if _is_short_on_any_machine(images, arch, device):
        return too_short
    step_seconds = time_one_step(default, arch, batch, device)
    if images / batch * step_seconds < MIN_RUN_SECONDS:
        return too_short
    if _STEPS_TO_MEASURE * step_seconds > MEASURING_SECONDS:
        return "steps too long to measure plans briefly (fastdcgan tune does)"
    return ""


def _is_short_on_any_machine(images: int, arch: Architecture, device: torch.device) -> bool:
    slowest = _SLOWEST_FLOPS_A_THREAD * torch.get_num_threads() if device.type == "cpu" else _SLOWEST_FLOPS_A_GPU
    return images * iteration_flops(*pass_flops(arch)) / slowest < MIN_RUN_SECONDS


def chosen_plan(tuning: TuningResult) -> Plan:
    """The fastest plan that passed parity. Raises ValueError if none did."""
    if tuning.chosen is None or tuning.chosen.plan is None:
        raise ValueError(
            "none of the plans computes what the reference computes on this machine, which should not happen: "
            "please report it, with what `fastdcgan tune` prints; --plan default trains all the same"
        )
    return tuning.chosen.plan


def plan_fields(plan: Plan) -> JsonObject:
    """A plan's fields as JSON has them: lists instead of tuples."""
    fields: JsonObject = json.loads(json.dumps(asdict(plan)))
    return fields


def _equals(plans: list[Plan], device: torch.device) -> list[Plan]:
    """These plans, and those that a run can have been begun with in place of them.

    D may have been called once where it is twice now, and the reverse: the rules once said otherwise. And on a CPU a
    step may have been replayed or not: of several processes, or at all, it once was not.
    """
    others = [
        replace(plan, stacked=stacked, replay=replay)
        for plan in plans
        if not (plan.backend or plan.shares)
        for stacked in (True, False)
        for replay in ((True, False) if device.type == "cpu" else (False,))
    ]
    return [*plans, *others]


def find_plan(plans: list[Plan], fields: object) -> Plan | None:
    """The one of these plans that has exactly these fields; None if there is none.

    So fields that are invalid, from another version or not possible on this machine are ignored.
    """
    if isinstance(fields, dict):
        fields = {"replay": False, **fields}  # plans recorded before there was replay
    return next((plan for plan in plans if plan_fields(plan) == fields), None)


# --- The cache --------------------------------------------------------------------------------------------------------


def measurement_conditions(
    request: ExecutionConfig, device: torch.device, arch: Architecture, batch: int, world_size: int
) -> dict[str, Any]:
    """The conditions that a measurement is valid for: hardware, versions, networks, batch and request, as JSON."""
    conditions: dict[str, Any] = {
        "hardware": describe_hardware(device),
        "kernels": kernel_version() if device.type == "cpu" else None,
        "versions": {"torch": torch.__version__, "fastdcgan": __version__},
        "architecture": arch.record(),
        "batch": batch,
        "world_size": world_size,
        "precision": request.precision,
        "compile": request.compile,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(conditions))
    return as_json


def load_choice(conditions: dict[str, Any], plans: list[Plan]) -> Choice | None:
    """The cached choice for these conditions, if it is one of these plans; None if there is none, or no valid one."""
    try:
        record = read_json(_cache_file(conditions))
        if record["conditions"] != conditions:
            return None
        plan = find_plan(plans, record["plan"])
        day, speedup = date.fromisoformat(record["date"]), float(record["speedup"])
        why = f"chosen on {day} by measurement: {speedup:.1f}x the reference"
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return None if plan is None else Choice(plan=plan, why=why)


def save_choice(conditions: dict[str, Any], tuning: TuningResult) -> Path | None:
    """Cache the chosen plan; returns the file, or None if the cache folder can't be written."""
    path = _cache_file(conditions)
    record = {
        "conditions": conditions,
        "plan": plan_fields(chosen_plan(tuning)),
        "date": date.today().isoformat(),
        "speedup": _speedup(tuning),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_replacing(path, json.dumps(record, indent=2) + "\n")
    except OSError:
        return None
    return path


def _cache_file(conditions: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "plans" / f"{conditions['architecture']['name']}-{conditions['batch']}-{digest}.json"


def _speedup(tuning: TuningResult) -> float:
    return tuning.chosen.speedup if tuning.chosen else 0.0
