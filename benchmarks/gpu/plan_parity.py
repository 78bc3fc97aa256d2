"""Parity of every plan on the device, against the reference in fp64 on the CPU."""

import torch

from benchmarks.gpu.contenders import plans_of
from benchmarks.gpu.matrix import Axes, axes_of
from benchmarks.gpu.worker import Work, free_memory
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.tuning.choice import plan_fields
from fastdcgan.tuning.parity import ParityCheck


def check_all(work: Work) -> None:
    """Check every plan of every architecture, as long as there is time."""
    axes = axes_of(work.device)
    todo = {item(arch, plan): (arch, plan) for arch, plan in in_order(axes, work.device)}
    work.journal.plan(todo)
    checks: dict[str, ParityCheck] = {}
    for name, (arch, plan) in todo.items():
        if name in work.request.skip:
            continue
        if not work.has_time_for(compiled=plan.backend is not None):
            continue
        with work.item(name):
            if arch not in checks:
                work.say(f"  {arch}: the truth, in fp64 on the CPU")
                checks[arch] = ParityCheck(
                    architecture(arch, width=axes.width), work.device, exact_device=torch.device("cpu")
                )
            started = work.clock()
            found = checks[arch](plan)
            taken = work.clock() - started
            if plan.backend:
                work.compiled_in(taken)
            work.journal.write(
                "parity",
                item=name,
                arch=arch,
                plan=str(plan),
                fields=plan_fields(plan),
                error=found.error,
                allowed=found.allowed,
                beyond=list(found.beyond),
                passed=found.passed,
                seconds=round(taken, 2),
            )
            work.say(f"  {name}: {found.error:.1e} of {found.allowed:.1e}{'' if found.passed else ', FAILED'}")
        if plan.backend:
            free_memory(work.device, compiled=True)


def in_order(axes: Axes, device: torch.device) -> list[tuple[str, Plan]]:
    """All pairs of networks and plan: what need not be compiled comes first, the headline's networks before others."""
    plans = [plan for precision in axes.precisions for plan in plans_of(precision, device)]
    pairs = [(arch, plan) for arch in axes.archs for plan in plans]
    return sorted(pairs, key=lambda pair: pair[1].backend is not None)


def item(arch: str, plan: Plan) -> str:
    """The name of a check: "dcgan64: bf16 + stacked"."""
    return f"{arch}: {plan}"
