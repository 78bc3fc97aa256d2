"""The plan of a run: as it was begun, as it was measured here before, measured now, or by the rules.

What was measured is kept in the cache folder, one small file for each set of conditions.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from fastdcgan import __version__
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import Plan, choose_plan
from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.hardware import describe
from fastdcgan.limits.roofline import iteration_flops, pass_flops
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.files import read_json, write_replacing
from fastdcgan.tuning.tune import Tuning, candidates, measure, seconds_a_step

BRIEFLY = 30.0
"""Seconds that a run spends on measuring plans."""

WORTH_MEASURING = 300.0
"""Seconds that a run must last for that: half a minute is a tenth of it, and plans differ by more than a tenth."""

# The reference takes two steps to warm up and three in turns, each about as long as four of the default plan, and so do
# at least two plans to choose from. Where that alone is more than what is allowed, nothing is measured.
_STEPS_TO_MEASURE = 5 * (4 + 2)

# Slower than any machine we know trains: what is short at this rate is short, and no step need be timed to know it.
_SLOWEST_FLOPS_A_THREAD, _SLOWEST_FLOPS_A_GPU = 5e9, 5e11

Fields = dict[str, Any]
"""A plan as JSON has it: field -> value."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A plan, and why it."""

    plan: Plan
    why: str


def choose_tuned(
    request: ExecutionConfig,
    device: torch.device,
    arch: Architecture,
    batch: int,
    *,
    images: int,
    world_size: int = 1,
    begun_with: object = None,
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
        begun_with: the fields of the plan of the run that this one continues, if it does: kept if possible here.
        say: is told that a measurement begins, as it takes a while.

    Raises:
        ValueError: if the device can't do what was asked for, or no plan computes what the reference computes.
    """
    default = choose_plan(request, device, world_size)
    if request.plan == "default":
        return Choice(plan=default, why="by the rules, as asked for")
    plans = candidates(request, device)
    changed = ""
    if begun_with is not None:
        if (plan := among(plans, begun_with)) is not None:
            return Choice(plan=plan, why="the one this run was begun with")
        changed = "not the one this run was begun with, which is not to be had here; "
    conditions = conditions_of(request, device, arch, batch, world_size)
    if (known := recall(conditions, plans)) is not None:
        return Choice(plan=known.plan, why=changed + known.why)
    if len(plans) == 1:
        return Choice(plan=default, why=f"{changed}the only one possible here")
    if world_size > 1:
        return Choice(plan=default, why=f"{changed}by the rules: only runs of one process measure plans")
    short = f"{changed}by the rules: too short a run to measure plans (fastdcgan tune does)"
    if _is_surely_short(images, arch, device):
        return Choice(plan=default, why=short)
    step_seconds = seconds_a_step(default, arch, batch, device)
    if images / batch * step_seconds < WORTH_MEASURING:
        return Choice(plan=default, why=short)
    if _STEPS_TO_MEASURE * step_seconds > BRIEFLY:
        return Choice(
            plan=default, why=f"{changed}by the rules: steps too long to measure plans briefly (fastdcgan tune does)"
        )

    say(f"plan      measuring {len(plans)} plans for about {BRIEFLY:.0f} s, once (--plan default does without)")
    tuning = measure(plans, arch, batch, device, BRIEFLY)
    chosen = fastest(tuning)
    remember(conditions, tuning)
    return Choice(
        plan=chosen,
        why=f"{changed}{_speedup(tuning):.1f}x the reference here, measured just now in {tuning.seconds:.0f} s",
    )


def fastest(tuning: Tuning) -> Plan:
    """The chosen plan. Raises ValueError if none passed parity."""
    if tuning.chosen is None or tuning.chosen.plan is None:
        raise ValueError(
            "none of the plans computes what the reference computes on this machine, which should not happen: "
            "please report it, with what `fastdcgan tune` prints; --plan default trains all the same"
        )
    return tuning.chosen.plan


def as_fields(plan: Plan) -> Fields:
    """A plan as JSON has it."""
    fields: Fields = json.loads(json.dumps(asdict(plan)))
    return fields


def among(plans: list[Plan], fields: object) -> Plan | None:
    """The plan with exactly these fields and values, if it is one of these.

    So what was stored by another version, or made up, or is not possible any more, is nothing.
    """
    return next((plan for plan in plans if as_fields(plan) == fields), None)


# --- The cache --------------------------------------------------------------------------------------------------------


def conditions_of(
    request: ExecutionConfig, device: torch.device, arch: Architecture, batch: int, world_size: int
) -> dict[str, Any]:
    """All that a measurement holds for, as JSON has it."""
    conditions: dict[str, Any] = {
        "hardware": describe(device),
        "versions": {"torch": torch.__version__, "fastdcgan": __version__},
        "architecture": asdict(arch),
        "batch": batch,
        "world_size": world_size,
        "precision": request.precision,
        "compile": request.compile,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(conditions))
    return as_json


def recall(conditions: dict[str, Any], plans: list[Plan]) -> Choice | None:
    """What was chosen under these conditions, if that is one of these plans. Whatever else is there is ignored."""
    try:
        kept = read_json(_path(conditions))
        if kept["conditions"] != conditions:
            return None
        plan = among(plans, kept["plan"])
        why = (
            f"chosen on {date.fromisoformat(kept['date'])} by measurement: {float(kept['speedup']):.1f}x the reference"
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None if plan is None else Choice(plan=plan, why=why)


def remember(conditions: dict[str, Any], tuning: Tuning) -> Path | None:
    """Keep what was chosen; returns where, or None if the cache folder can't be written: then it is measured again."""
    path = _path(conditions)
    record = {
        "conditions": conditions,
        "plan": as_fields(fastest(tuning)),
        "date": date.today().isoformat(),
        "speedup": _speedup(tuning),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_replacing(path, json.dumps(record, indent=2) + "\n")
    except OSError:
        return None
    return path


def _path(conditions: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "plans" / f"{conditions['architecture']['name']}-{conditions['batch']}-{digest}.json"


def _speedup(tuning: Tuning) -> float:
    return tuning.chosen.speedup if tuning.chosen else 0.0


def _is_surely_short(images: int, arch: Architecture, device: torch.device) -> bool:
    """Whether a run is over before measuring plans could pay on any machine: then not even a step is timed."""
    slowest = _SLOWEST_FLOPS_A_THREAD * torch.get_num_threads() if device.type == "cpu" else _SLOWEST_FLOPS_A_GPU
    return images * iteration_flops(*pass_flops(arch)) / slowest < WORTH_MEASURING
