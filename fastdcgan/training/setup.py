"""From a validated request to a run about to begin: open the data, choose a plan, build, load the last checkpoint."""

import secrets
from dataclasses import asdict, astuple, replace
from functools import partial
from typing import cast

import torch

from fastdcgan.config import TrainConfig
from fastdcgan.data.describe import write_skipped
from fastdcgan.data.labels import Labels
from fastdcgan.data.open import open_pictures
from fastdcgan.data.source import ImageSource, count_files
from fastdcgan.distributed.accelerator import Accelerator, local_processes, wrap
from fastdcgan.distributed.agreement import check_same_labels, check_same_pictures, check_same_start
from fastdcgan.distributed.collectives import broadcast_object, local_main_process_first
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.average import MovingAverage
from fastdcgan.gan.spectral import build_for
from fastdcgan.gan.step import TrainState
from fastdcgan.kernels import noise, sync_batch_norm
from fastdcgan.limits import hardware
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.folder import checkpoint_path, read_newest
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.classes import CLASS_COUNTS
from fastdcgan.runs.folder import (
    BATCH_NAMED,
    BEGUN_FROM,
    BUDGET_NAMED,
    CHANGES,
    NOISE,
    VALUE_RANGE,
    RunFolder,
    converting_write_errors,
    create,
    noise_of,
    read_condition,
    read_config,
    run_id,
    value_range_of,
    write_config,
)
from fastdcgan.storage.wording import counted
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training.evaluation import check_can_choose
from fastdcgan.training.run import FEW, Run, Schedule, batch_for_few
from fastdcgan.training.starting.begin import begin_with_ancestor
from fastdcgan.training.starting.go_back import WentBack, all_changes, asked_to_go_back, set_aside_after
from fastdcgan.tuning.choice import Choice, choose_plan_for_run, plan_fields
from fastdcgan.tuning.memory import MemoryDemand

LABELS = "labels"
"""The condition that identifies the pictures' classes (`Labels.digest`), where they are learned."""


def setup(
    config: TrainConfig, folder: RunFolder, accelerator: Accelerator, display: Display, *, batch_named: bool = True
) -> Run:
    """Open the data, choose a plan, build the networks, load the last checkpoint, and write down what was settled.

    Args:
        config: what `validate` returned.
        folder: likewise.
        accelerator: of this process.
        display: where it is told.
        batch_named: whether the user gave --batch-size; else a run that begins takes a smaller one for few pictures.

    Raises:
        ValueError: for what the user can fix.
    """
    arch = config.model.architecture()
    source = open_data(config, arch, accelerator, display, begun_range=value_range_of(folder))
    labels = learned_labels(config, source, accelerator)
    may_choose = not (batch_named or folder.config.exists())
    config = with_agreed_batch(config, len(source), accelerator, display, may_choose=may_choose)
    budget_named = config.run.images is not None or config.run.epochs is not None
    if not budget_named:
        config = with_usual_budget(config, len(source), folder, accelerator)
    schedule = Schedule.of(config, len(source))
    check_can_choose(config.run, len(source))
    demand = memory_demand(config, arch, accelerator)
    if warning := demand.check():
        display.say(f"memory    {warning}")
    with demand.failures_as_one_line():
        chosen = choose_plan_for(config, arch, schedule, folder, accelerator, display)
        config = replace(config, execution=replace(config.execution, precision=chosen.plan.precision))
        arch = arch.with_classes(labels.classes) if labels else arch  # plans are chosen without: as fast is each with
        state = build_state(config, arch, chosen.plan, accelerator)
    back = go_back(config, folder, state, arch, accelerator, display)
    identity, start = load_last_checkpoint(folder, state, arch, accelerator, display)
    ancestor = None
    if config.run.init_from is not None and start.step == 0:
        config, ancestor = begin_with_ancestor(config, state, arch, accelerator, display)
    if read_condition(folder, "data_fingerprint") not in (None, source.fingerprint):
        display.say(
            "changed   these are not the pictures that the run was begun with, or not decoded as they were: "
            "it goes on with what is there now"
        )
    elif labels and read_condition(folder, LABELS) not in (None, labels.digest()):
        display.say("changed   pictures are of other classes than when the run was begun: it goes on with those of now")
    noise.available()  # where the kernels didn't come with the package they are built: not in the first step
    run = Run(
        id=identity,
        config=config,
        arch=arch,
        folder=folder,
        accelerator=accelerator,
        source=source,
        plan=chosen.plan,
        why_this_plan=chosen.why,
        state=state,
        schedule=schedule,
        start=start,
        labels=labels,
        noise=broadcast_object(accelerator, noise_of(folder)),
        ancestor=ancestor,
        changes=all_changes(folder, back, start.step),
    )
    if accelerator.is_main_process:
        write_down(run, batch_named=batch_named, budget_named=budget_named)
    return run


def open_data(
    config: TrainConfig,
    arch: Architecture,
    accelerator: Accelerator,
    display: Display,
    *,
    begun_range: tuple[float, float] | None = None,
) -> ImageSource:
    """The pictures, the same on all processes. One process of a machine draws, checks and packs them first."""
    with local_main_process_first(accelerator):
        source = open_pictures(
            config.data,
            arch,
            device=str(accelerator.device),
            begun_range=begun_range,
            on_progress=display.advance,
        )
    check_same_pictures(accelerator, source)
    return source


def learned_labels(config: TrainConfig, source: ImageSource, accelerator: Accelerator) -> Labels | None:
    """The pictures' classes, the same on all processes; None unless asked for. Raises ValueError if there are none."""
    if not config.model.conditional:
        return None
    labels = source.labels
    if labels is None:
        raise ValueError(
            f"--conditional: {config.data.data} names no classes of its pictures: put those of each class into a "
            "subfolder, or add a dataset.json as StyleGAN has it, or an array `labels` to a .npz"
        )
    check_same_labels(accelerator, labels)
    return labels


def with_agreed_batch(
    config: TrainConfig, count: int, accelerator: Accelerator, display: Display, *, may_choose: bool
) -> TrainConfig:
    """The request; if `may_choose`, with a smaller batch where there are few pictures, and says so."""
    usual = cast(int, config.data.batch_size)
    batch = batch_for_few(config, count, accelerator.num_processes) if may_choose else usual
    batch = broadcast_object(accelerator, batch)
    if batch == usual:
        return config
    pictures = counted(count, "picture")
    memorised = ""
    if count < FEW:
        may_help = "" if config.recipe.augmentation() else "; in long training --recipe small-data may help"
        memorised = f"; so few may be memorised: the report looks for copies of them{may_help} (docs/recipes.md)"
    display.say(f"batch     {batch} instead of {usual}, as {pictures} would be too few steps (--batch-size){memorised}")
    return replace(config, data=replace(config.data, batch_size=batch))


def with_usual_budget(config: TrainConfig, count: int, folder: RunFolder, accelerator: Accelerator) -> TrainConfig:
    """A request without a budget, with that which the run was begun with, or with the usual one for its pictures."""
    begun = read_config(folder).run.images if read_condition(folder, BUDGET_NAMED) is False else None
    images = begun or Schedule.of(config, count).total * config.images_a_step
    return replace(config, run=replace(config.run, images=broadcast_object(accelerator, images)))


def memory_demand(config: TrainConfig, arch: Architecture, accelerator: Accelerator) -> MemoryDemand:
    """What the run's steps need of this machine's memory."""
    return MemoryDemand(
        config=config,
        arch=arch.with_classes(()),
        device=accelerator.device,
        processes=accelerator.num_processes,
        local_processes=local_processes(),
    )


def choose_plan_for(
    config: TrainConfig,
    arch: Architecture,
    schedule: Schedule,
    folder: RunFolder,
    accelerator: Accelerator,
    display: Display,
) -> Choice:
    """How a step is executed. Every process chooses, the main one's choice counts: caches may differ by machine."""
    batch = cast(int, config.data.batch_size)
    chosen = choose_plan_for_run(
        config.execution,
        accelerator.device,
        arch,
        batch // config.recipe.accumulate,
        images=schedule.total * config.images_a_step,
        world_size=accelerator.num_processes,
        previous_plan=read_condition(folder, "plan_fields"),
        say=display.say,
    )
    return broadcast_object(accelerator, chosen)


def build_state(config: TrainConfig, arch: Architecture, plan: Plan, accelerator: Accelerator) -> TrainState:
    """New networks and optimizers under a plan, on the device, wrapped for several processes."""
    generator, discriminator = build_for(config.recipe, arch, config.run.seed)
    if config.recipe.batch_norm == "sync":
        for network in (generator, discriminator):
            sync_batch_norm.install(network, accelerator.num_processes)
    state = prepare(
        plan,
        generator,
        discriminator,
        config.recipe,
        accelerator.device,
        wrap=partial(wrap, accelerator, in_one_order=plan.shares > 0),
        all_reduce_dtype=torch.bfloat16 if config.execution.compress_gradients == "bf16" else None,
    )
    recipe = config.recipe
    average = MovingAverage(state.generator, recipe.ema, recipe.ema_ramp) if recipe.ema else None
    return replace(state, average=average)


def go_back(
    config: TrainConfig,
    folder: RunFolder,
    state: TrainState,
    arch: Architecture,
    accelerator: Accelerator,
    display: Display,
) -> WentBack | None:
    """Make the checkpoint of --from-step the newest one, if it can be read. Raises ValueError on all ranks if not."""
    back = asked_to_go_back(config, folder)
    refusal = ""
    if back is not None and accelerator.is_main_process:
        try:
            if back.step is not None:
                path = checkpoint_path(folder.checkpoints, back.step)
                checkpoint.read(path, state, arch, run_id(folder))
                if moved := set_aside_after(folder, back.step):
                    display.say(f"set aside what came after step {back.step:,}: {moved}")
        except ValueError as error:
            refusal = str(error)
        else:
            for change in back.changes:
                display.say(f"changed   {change}")
    if refusal := broadcast_object(accelerator, refusal):
        raise ValueError(refusal)
    return back


def load_last_checkpoint(
    folder: RunFolder, state: TrainState, arch: Architecture, accelerator: Accelerator, display: Display
) -> tuple[str, Progress]:
    """The run's id, and how far it has come. Every rank loads the checkpoint that the first one has found to be whole.

    Raises:
        ValueError: there are checkpoints, but none that can be used; or a rank sees others.
    """
    known = run_id(folder)
    found = None
    if accelerator.is_main_process:
        found, passed_over = read_newest(
            folder.checkpoints, partial(checkpoint.read, state=state, arch=arch, run=known)
        )
        for line in passed_over:
            display.say(f"passed    over {line}")
    step = found.progress.step if found else 0
    identity, step = broadcast_object(accelerator, (known or (found and found.run) or secrets.token_hex(8), step))
    if not accelerator.is_main_process:
        path = checkpoint_path(folder.checkpoints, step)
        found = checkpoint.read(path, state, arch, known) if path.is_dir() else None
    start = checkpoint.restore(found, state) if found else Progress()
    check_same_start(accelerator, start.step)
    return identity, start


def write_down(run: Run, *, batch_named: bool, budget_named: bool) -> None:
    """Make the run's folder, with the configuration, the conditions and the files left out. Raises WriteError."""
    accelerator, source, folder = run.accelerator, run.source, run.folder
    if folder.config.exists():
        batch_named = read_condition(folder, BATCH_NAMED) is not False  # as the run was begun
    conditions = {
        "run_id": run.id,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "hardware": hardware.describe_hardware(accelerator.device),
        "plan": str(run.plan),
        "plan_fields": plan_fields(run.plan),
        "data": source.description,
        "pictures": len(source),
        "data_fingerprint": source.fingerprint,
        "skipped": count_files(source.skipped),
        CLASS_COUNTS: run.labels.counts() if run.labels else None,
        LABELS: run.labels.digest() if run.labels else None,
        VALUE_RANGE: astuple(source.value_range) if source.value_range else None,
        "steps": run.schedule.total,
        BATCH_NAMED: batch_named,
        BUDGET_NAMED: budget_named,
        CHANGES: run.changes,
        NOISE: run.noise.name,
        BEGUN_FROM: asdict(run.ancestor) if run.ancestor else read_condition(folder, BEGUN_FROM),
    }
    with converting_write_errors(folder.path):
        create(folder)
        write_config(folder, run.config, run.arch, conditions)
        write_skipped(source.skipped, folder.skipped)
