"""Whether a run can be done as asked: checked against the machine and the other processes before there is work."""

import math
from dataclasses import replace
from datetime import date
from typing import cast

from fastdcgan.config import TrainConfig
from fastdcgan.distributed.accelerator import Accelerator, with_launcher_precision
from fastdcgan.distributed.agreement import check_same_request
from fastdcgan.distributed.collectives import broadcast_object
from fastdcgan.execution.plan import choose_plan
from fastdcgan.runs.folder import RunFolder, as_begun, check_writable, choose
from fastdcgan.telemetry.trackers import check_installed
from fastdcgan.training.evaluation import check_can_evaluate
from fastdcgan.training.starting.begin import check_ancestor
from fastdcgan.training.starting.go_back import asked_to_go_back


def validate(
    config: TrainConfig, accelerator: Accelerator, *, batch_named: bool = True
) -> tuple[TrainConfig, RunFolder]:
    """Check a resolved request, and choose the run's folder. Nothing is written but a probe into that folder.

    Args:
        config: the request.
        accelerator: of this process.
        batch_named: whether the user gave --batch-size; else a run goes on with the batch that was chosen for it.

    Returns:
        the request, with the precision that is settled by a launcher, and precision and batch as the run was begun
        with that it goes on with; the folder.

    Raises:
        ValueError: for what the user can fix.
    """
    check_same_request(accelerator, config)
    check_batch_divides(config, accelerator.num_processes)
    check_penalty(config, accelerator.num_processes)
    config = replace(config, execution=with_launcher_precision(config.execution))
    choose_plan(config.execution, accelerator.device, accelerator.num_processes)
    if accelerator.is_main_process:
        check_installed(config.run.trackers())
        if config.run.evaluate_every is not None:
            check_can_evaluate()
    # Every process checks; the main one's choice counts, as they may start on two sides of midnight.
    folder = broadcast_object(accelerator, choose(config, date.today(), batch_named=batch_named))
    if config.run.init_from is not None and not folder.config.exists():
        check_ancestor(config)
    if config.run.from_step not in (None, "latest"):
        asked_to_go_back(as_begun(config, folder, batch_named=batch_named), folder)
    check_writable(folder)
    if config.run.profile:
        check_writable(RunFolder(folder.profile))
    config = as_begun(config, folder, batch_named=batch_named)
    check_batch_divides(config, accelerator.num_processes)
    return config, folder


def check_penalty(config: TrainConfig, processes: int) -> None:
    """Raises ValueError where D's gradient would need a second derivative through several processes."""
    recipe = config.recipe
    if processes > 1 and (recipe.r1 or recipe.r2) and recipe.batch_norm == "sync" and not recipe.spectral_norm:
        said = f"--r1 {recipe.r1}" if recipe.r1 else f"--r2 {recipe.r2}"
        raise ValueError(
            f"{said} has no second derivative through BatchNorm over {processes} processes: "
            "add --spectral-norm, or --batch-norm local"
        )


def check_batch_divides(config: TrainConfig, processes: int) -> None:
    """Raises ValueError, with the nearest that can, if a global batch can't be taken in equal parts."""
    batch, parts, shares = cast(int, config.data.batch_size), config.recipe.accumulate, config.execution.exact_ranks
    why = ""
    if batch % processes:
        why = f"is the global batch and must be a multiple of the {processes} processes"
    elif batch % (processes * parts):
        each = f" in each of the {processes} processes" if processes > 1 else ""
        why = f"can't be taken in --accumulate {parts} equal parts{each}"
    elif shares and batch % (shares * parts):
        each = f" in each of --accumulate {parts} parts" if parts > 1 else ""
        why = f"must be a multiple of --exact-ranks {shares}{each}"
    if why:
        unit = math.lcm(processes, shares or 1) * parts  # of all three, so that the next refusal is not another one
        below = batch // unit * unit
        nearest = f"{below} or {below + unit}" if below else f"{unit}"
        raise ValueError(f"--batch-size {batch} {why}: {nearest}")
