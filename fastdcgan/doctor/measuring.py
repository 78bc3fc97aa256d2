"""Probes that train a few steps: whether the plans compute what they must, and how fast the default one is."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from fastdcgan.doctor.finding import Finding, first_line

if TYPE_CHECKING:
    import torch

    from fastdcgan.execution.plan import Plan

SMALLEST = "dcgan16"
"""The network that parity is checked with."""

_SECONDS = 4.0
"""For timing; a few rounds are finished in any case."""

MOST_UNEVEN = 1.5
"""Upper over lower quartile of the speed-up: beyond, something else was measured too."""


def default_device() -> "torch.device":
    """The device that `--device auto` means."""
    import torch

    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return here or torch.device("cpu")


def plan() -> Finding:
    """The plan that training would use by the rules, on the device that it would take."""
    from fastdcgan.config import ExecutionConfig
    from fastdcgan.distributed.accelerator import join, with_launcher_precision
    from fastdcgan.execution.plan import choose_plan, why_no_kernels

    request = with_launcher_precision(ExecutionConfig())
    device = join(request).device
    chosen = choose_plan(request, device)
    why = why_no_kernels(chosen, device)
    return Finding(
        topic="plan",
        found=f"by the rules, on {device}: {chosen}" + (f"; without our kernels: {why}" if why else ""),
        advice="fastdcgan tune measures which plan is fastest here, and train uses it from then on",
    )


def parity() -> Finding:
    """Each plan against the reference, on the smallest network. Compiled ones would take minutes to compile."""
    from fastdcgan.gan.architecture import architecture
    from fastdcgan.tuning.parity import ParityCheck

    device, plans, left_out = _plans()
    check = ParityCheck(architecture(SMALLEST), device)
    errors: dict[str, float | None] = {}
    wrong = []
    for each in plans:
        try:
            result = check(each)
            errors[str(each)] = result.error if math.isfinite(result.error) else None
            if not result.passed:
                wrong.append(f"{each}: {', '.join(result.beyond)} off by {result.error:.0e}, not {result.allowed:.0e}")
        except Exception as error:  # noqa: BLE001 (whatever a plan fails with here, the others may do)
            errors[str(each)] = None
            wrong.append(f"{each}: {first_line(error)}")
    right = len(plans) - len(wrong)
    found = f"{right} of {len(plans)} plans compute what the reference computes ({SMALLEST}){left_out}"
    return Finding(
        topic="parity",
        found="; ".join((found, *wrong)),
        advice="please report this; --plan default trains by the rules" if wrong else "",
        broken=right == 0,
        details={"errors": errors},
    )


def speed() -> Finding:
    """The default plan in turns with the reference: on a CPU with the network of the embedded faces."""
    from fastdcgan.gan.architecture import architecture
    from fastdcgan.tuning.tune import measure_plans

    device, plans, left_out = _plans()
    arch, batch = (architecture("dcgan32"), 16) if device.type == "cpu" else (architecture("dcgan64"), 128)
    tuning = measure_plans(plans[:1], arch, batch, device, _SECONDS)
    (measured,), reference = tuning.plans, tuning.reference
    if measured.times is None or reference.times is None:
        return Finding(topic="speed", found=f"not timed: {plans[0]} fails parity with {arch.name}")
    ours, theirs = batch / measured.times.our_seconds, batch / reference.times.our_seconds
    lower, upper = measured.times.speedup_quartiles
    uneven = upper > MOST_UNEVEN * lower
    return Finding(
        topic="speed",
        found=f"{ours:,.0f} img/s, the reference {theirs:,.0f}: {measured.times.speedup:.1f}x (quartiles {lower:.1f} "
        f"to {upper:.1f}); {arch.name}, batch {batch}, {plans[0]}{left_out}",
        advice="steps take unequally long: measure again when nothing else keeps this machine busy" if uneven else "",
        details={
            "network": arch.name,
            "batch": batch,
            "plan": str(plans[0]),
            "images_per_sec": ours,
            "reference_images_per_sec": theirs,
            "speedup": measured.times.speedup,
        },
    )


def _plans() -> "tuple[torch.device, list[Plan], str]":
    """The device, the plans that are not compiled, the default one (or its twin that is not compiled) first."""
    from fastdcgan.config import ExecutionConfig
    from fastdcgan.distributed.accelerator import join, with_launcher_precision
    from fastdcgan.execution.plan import choose_plan
    from fastdcgan.tuning.tune import candidate_plans

    request = with_launcher_precision(ExecutionConfig())
    device = join(request).device
    if choose_plan(request, device).backend is None:
        return device, candidate_plans(request, device), ""
    return (
        device,
        candidate_plans(replace(request, compile="off"), device),
        "; compiled plans are left to fastdcgan tune",
    )
