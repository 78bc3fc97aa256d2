"""What `fastdcgan tune` does: the plans are measured on this machine, shown, and the fastest is kept for training."""

from pathlib import Path

from rich.console import Console

from fastdcgan.config import ExecutionConfig
from fastdcgan.distributed.accelerator import join, with_launcher_precision
from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.roofline import device_ceilings
from fastdcgan.telemetry.terminal.plan_tables import plans_as_data, plans_table, write_plans
from fastdcgan.tuning.choice import chosen_plan, measurement_conditions, save_choice
from fastdcgan.tuning.tune import candidate_plans, measure_plans


def tune(arch: Architecture, batch: int, request: ExecutionConfig, *, seconds: float, out: Path | None) -> None:
    """Measure the plans that are possible within a request.

    Args:
        arch: the networks.
        batch: pictures a step.
        request: what the plans may be.
        seconds: about how long to measure.
        out: where the figures go as JSON too.

    Raises:
        ValueError: for what the user can fix.
    """
    for label, number in (("--batch-size", batch), ("--seconds", seconds), ("--threads", request.threads)):
        if number is not None and number < 1:
            raise ValueError(f"{label} {number}: must be at least 1")
    accelerator = join(request)
    if accelerator.num_processes > 1:
        raise ValueError(f"fastdcgan tune measures in one process, not in {accelerator.num_processes}")
    request, device = with_launcher_precision(request), accelerator.device
    plans = candidate_plans(request, device)
    console = Console(highlight=False)
    with console.status("measuring this machine") as status:
        machine = device_ceilings(device)
        tuning = measure_plans(plans, arch, batch, device, seconds, say=status.update)
    console.print(plans_table(tuning, machine))
    conditions = measurement_conditions(request, device, arch, batch, world_size=1)
    if out is not None:
        write_plans(out, plans_as_data(tuning, machine, conditions))
    console.print(f"The fastest is {chosen_plan(tuning)}.")
    if (kept := save_choice(conditions, tuning)) is not None:
        console.print(
            f"fastdcgan train uses it from now on for {arch.name} in batches of {batch}: {kept}", soft_wrap=True
        )
    else:
        console.print("It can't be kept, as the cache can't be written: set FASTDCGAN_CACHE to a folder that can.")
