"""A whole run: `setup` gathers what it needs, `fit` takes the steps, and everything is kept in the run's folder."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from fastdcgan.config import TrainConfig
from fastdcgan.data.describe import write_skipped
from fastdcgan.data.open import open_source
from fastdcgan.data.order import rank_share
from fastdcgan.data.source import ImageSource, common_suffixes
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.distributed.agreement import check_same_pictures, check_same_request, check_same_start
from fastdcgan.distributed.processes import everyones, highest, join, naming_lost_ranks, requested, taking_turns, wrap
from fastdcgan.distributed.rank_log import rank_log
from fastdcgan.execution.capture import TakeStep, step_function
from fastdcgan.execution.plan import choose_plan, prepare
from fastdcgan.gan import models, ranges
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.gan.ranges import named
from fastdcgan.gan.step import TrainState
from fastdcgan.kernels import sync_batch_norm
from fastdcgan.limits import hardware
from fastdcgan.runs import checkpoint
from fastdcgan.runs.checkpoint_folder import checkpoint_path, read_newest
from fastdcgan.runs.checkpoint_record import Progress
from fastdcgan.runs.folder import (
    RunFolder,
    WriteError,
    check_writable,
    choose,
    converting_write_errors,
    create,
    read_condition,
    read_config,
    run_id,
    write_config,
)
from fastdcgan.runs.lock import locked
from fastdcgan.storage.signals import Stopped, StopRequests, stop_requests
from fastdcgan.telemetry.report.end_of_run import reporting
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.telemetry.trackers import check_installed
from fastdcgan.training.recorder import DataLostError, NotFiniteError, Recorder
from fastdcgan.training.run import Run, Schedule
from fastdcgan.tuning.choice import Choice, as_fields, choose_tuned

SOON = 2.0
"""Seconds within which several ranks learn that one of them was asked to stop, unless a step alone takes longer."""


def train(request: TrainConfig) -> RunFolder:
    """Train a DCGAN as asked and leave a run's folder behind.

    Raises:
        ValueError: for what the user can fix, in one line; and when a loss stops being a finite number.
        Stopped: after SIGINT, SIGTERM or SIGUSR1, once a checkpoint is written, or where there is nothing to save yet.
    """
    with stop_requests() as stop, ExitStack() as until_the_end:
        config = request.resolved()
        accelerator = join(config.execution)
        timeout = config.execution.rank_timeout
        with naming_lost_ranks(accelerator, timeout):
            config, folder = place(config, accelerator)
            until_the_end.enter_context(_in_our_hands(folder, accelerator))
        until_the_end.enter_context(rank_log(folder.logs, accelerator.process_index, accelerator.num_processes))
        first = accelerator.is_main_process
        log = RunLog(folder.log, may_create=folder.config.exists) if first else None
        display = until_the_end.enter_context(Display(visible=first, quiet=config.run.quiet, log=log))
        until_the_end.enter_context(naming_lost_ranks(accelerator, timeout))
        run = setup(config, folder, accelerator, display)
        describe(run, display)
        if run.start.step >= run.schedule.total:
            display.say(
                f"Nothing to do: {run.folder.path} has seen {run.start.images:,} images already. "
                "Ask for more with --images or --epochs, or choose another --out.",
                always=True,
            )
        else:
            fit(run, stop, display)
            display.stop_drawing()
            display.say(f"Done. Samples, losses.png, metrics and checkpoints are in {run.folder.path}", always=True)
            display.say(f"See what happened:  {run.folder.report}")
            if config.run.profile:
                display.say(f"Look at the profile: open {folder.profile / 'trace.json.gz'} at https://ui.perfetto.dev")
            display.say(f"Make new pictures:  fastdcgan generate {run.folder.path} --count 64 --out grid.png")
            if config.data.data == "faces":
                display.say("Train bigger:       fastdcgan train --arch dcgan64 --batch-size 128 --epochs 50")
                display.say("                    (--data FOLDER for your own images)")
        accelerator.end_training()
    return run.folder


def place(config: TrainConfig, accelerator: Accelerator) -> tuple[TrainConfig, RunFolder]:
    """Check the request against the machine and the other processes, and choose the run's folder.

    Raises:
        ValueError: for what the user can fix.
    """
    check_same_request(accelerator, config)
    global_batch = cast(int, config.data.batch_size)
    if global_batch % accelerator.num_processes:
        raise ValueError(
            f"--batch-size {global_batch} is the global batch and must be a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    parts = config.recipe.accumulate
    if global_batch % (accelerator.num_processes * parts):
        each = f" in each of the {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
        raise ValueError(f"--batch-size {global_batch} can't be taken in --accumulate {parts} equal parts{each}")
    if (shares := config.execution.exact_ranks) and global_batch % shares:
        raise ValueError(f"--batch-size {global_batch} must be a multiple of --exact-ranks {shares}")
    config = replace(config, execution=requested(config.execution))
    if (shares := config.execution.exact_ranks) and global_batch % shares:
        raise ValueError(f"--batch-size {global_batch} must be a multiple of --exact-ranks {shares}")
    config = replace(config, execution=requested(config.execution))
    if accelerator.is_main_process:
        check_installed(config.run.trackers())
    # What can't be done here is said before there is work.
    choose_plan(config.execution, accelerator.device, accelerator.num_processes)
    folder = _agree_on_folder(config, accelerator)
    check_writable(folder)
    if config.run.profile:
        check_writable(RunFolder(folder.profile))
    if config.execution.precision == "auto" and folder.config.exists():  # a run goes on in its own precision
        precision = read_config(folder).execution.precision
        config = replace(config, execution=replace(config.execution, precision=precision))
    return config, folder


def setup(config: TrainConfig, folder: RunFolder, accelerator: Accelerator, display: Display) -> Run:
    """Open the data, choose a plan, build the networks, and load the last checkpoint.

    Raises:
        ValueError: for what the user can fix.
    """
    arch = config.model.architecture()
    with taking_turns(accelerator):  # one process a machine draws and checks; the others find it done
        source = open_source(
            config.data.data,
            resolution=arch.resolution,
            channels=arch.channels,
            device=str(accelerator.device),
            threads=config.data.data_threads or min(8, os.cpu_count() or 1),
            decoder=config.data.decoder,
            cache=config.data.data_cache,
            device_memory=config.data.data_memory and config.data.data_memory * 2**30,
            on_progress=display.advance,
        )
    check_same_pictures(accelerator, source)
    schedule = Schedule.of(config, len(source))
    chosen = _agree_on_plan(config, arch, schedule, folder, accelerator, display)
    plan = chosen.plan
    config = replace(config, execution=replace(config.execution, precision=plan.precision))

    generator, discriminator = models.build(arch, config.run.seed)
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
        gradients_cross_as=torch.bfloat16 if config.execution.compress_gradients == "bf16" else None,
    )
    identity, start = _agree_on_start(folder, state, arch, accelerator, display)

    if read_condition(folder, "data_fingerprint") not in (None, source.fingerprint):
        display.say(
            "changed   these are not the pictures that the run was begun with, or not decoded as they were: "
            "it goes on with what is there now"
        )
    if accelerator.is_main_process:
        with converting_write_errors(folder.path):
            create(folder)
        conditions = {
            "run_id": identity,
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "hardware": hardware.describe(accelerator.device),
            "plan": str(plan),
            "plan_fields": as_fields(plan),
            "data": source.description,
            "pictures": len(source),
            "data_fingerprint": source.fingerprint,
            "skipped": len(source.skipped),
            "steps": schedule.total,
        }
        with converting_write_errors(folder.path):
            write_config(folder, config, arch, conditions)
            write_skipped(source.skipped, folder.skipped)
    return Run(
        id=identity,
        config=config,
        arch=arch,
        folder=folder,
        accelerator=accelerator,
        source=source,
        plan=plan,
        why_this_plan=chosen.why,
        state=state,
        schedule=schedule,
        start=start,
    )


def describe(run: Run, display: Display) -> None:
    """Say what is about to happen."""
    schedule, accelerator, arch = run.schedule, run.accelerator, run.arch
    ranks = f" x {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    display.say(f"data      {run.source.description}")
    _list_skipped(run.source, run.folder, display)
    display.say(
        f"networks  {arch.name}, {arch.channels}x{arch.resolution}x{arch.resolution}, width {arch.width}: "
        f"G {models.parameter_count(run.state.generator):,} and "
        f"D {models.parameter_count(run.state.discriminator):,} parameters"
    )
    threads = f", {torch.get_num_threads()} threads" if accelerator.device.type == "cpu" else ""
    display.say(f"device    {accelerator.device}{ranks}{threads}")
    display.say(f"plan      {run.plan}: {run.why_this_plan}")
    batch = cast(int, run.config.data.batch_size)
    display.say(
        f"budget    {schedule.total * batch:,} images: {schedule.total:,} steps of {batch}, "
        f"{schedule.total / schedule.per_epoch:.1f} epochs"
    )
    display.say(f"output    {run.folder.path}")
    if run.start.step:
        display.say(f"resuming  after step {run.start.step:,} ({run.start.images:,} images)")


def fit(run: Run, stop: StopRequests, display: Display) -> None:
    """Take the steps that are left; again from the last checkpoint where they fail, if that was asked for.

    Raises:
        ValueError: when a loss stops being finite, naming the step and the last good checkpoint; when the data can't be
            read any more, or the output not be written.
        Stopped: after SIGINT, SIGTERM or SIGUSR1, once a checkpoint is written.
    """
    take_step = step_function(run.plan, run.state)
    first, ranks = run.accelerator.is_main_process, run.accelerator.num_processes
    with reporting(run.folder, run.accelerator.device, ranks, display, first=first):
        while True:
            try:
                step, signal = _take_steps(run, take_step, stop, display)
                break
            except NotFiniteError as failure:
                if run.config.run.on_nan == "stop":
                    raise
                run = roll_back(run, failure, display)
    # A launcher ends all ranks when the first one leaves: nobody does before everything is written.
    run.accelerator.wait_for_everyone()
    if signal:
        raise Stopped(f"stopped after step {step:,}; the same command goes on from there", signal)


def roll_back(run: Run, failure: NotFiniteError, display: Display) -> Run:
    """The run as it was at its last checkpoint, with new noise from there on. All ranks go back together.

    Raises:
        ValueError: it has been rolled back as often as it may, or has no checkpoint.
    """
    most, times = run.config.run.rollbacks, run.start.rollbacks + 1
    if times > most:
        raise ValueError(f"{failure}; it was rolled back {most} times already (--rollbacks)") from failure
    run.accelerator.wait_for_everyone()  # until the first one has written what it was writing
    _, start = _agree_on_start(run.folder, run.state, run.arch, run.accelerator, display)
    if start.step == 0:
        raise ValueError(f"{failure}; there is nothing to roll back to") from failure
    display.say(f"{failure}")
    display.say(f"rollback  {times} of {most}: after step {start.step:,}, with new noise")
    return replace(run, start=replace(start, rollbacks=times))


def _take_steps(run: Run, take_step: TakeStep, stop: StopRequests, display: Display) -> tuple[int, int]:
    """Take the steps that are left, or those until we are asked to stop.

    A request to stop is followed after the step in which it comes. Several ranks have to agree on that step: they do so
    every `--log-every` steps, when they add up their figures anyway, or more often where steps take long. Before the
    first step is done there is nothing to save: compiling it may take minutes.

    Returns:
        the last step, and the signal that asked, or 0.
    """
    schedule, accelerator = run.schedule, run.accelerator
    batching = Batching(
        seed=run.config.run.seed,
        global_batch=cast(int, run.config.data.batch_size),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        parts=run.config.recipe.accumulate,
        flip=run.config.data.flip,
    )
    batches = real_batches(run.source, batching, accelerator.device, start_step=run.start.step)
    step, signal = run.start.step, 0
    ask_at, asked_at, asked_when = step + 1, step, time.perf_counter()
    with closing(Recorder(run, display)) as recorder, closing(batches):
        try:
            while step < schedule.total and not signal:
                with recorder.waiting():
                    real_BCHW = next(batches)
                with named(ranges.NOISE):
                    z_BL = noise(run, step + 1)
                recorder.add(take_step(real_BCHW, z_BL))
                step += 1
                stop.defer()

                last = step == schedule.total
                saving = step % schedule.checkpoint_every == 0 or last
                logging = step % schedule.log_every == 0 or saving
                if accelerator.num_processes == 1:
                    signal = stop()
                elif logging or step >= ask_at:
                    pace = (time.perf_counter() - asked_when) / (step - asked_at)
                    number, slowest = highest(accelerator, stop(), pace)
                    signal = int(number)
                    ask_at, asked_at, asked_when = step + max(1, int(SOON / slowest)), step, time.perf_counter()
                saving = saving or bool(signal)
                if logging or saving:
                    recorder.tick(step)
                if saving:  # only what has been seen to be finite
                    recorder.check_weights(step)
                if step % schedule.sample_every == 0 or last:
                    recorder.sample(step)
                if saving:
                    recorder.save(step)
                recorder.step_done(step)
            recorder.settle()
        except (DataLostError, WriteError) as error:
            raise ValueError(f"{error}; {recorder.salvage(step)}") from error
    return step, signal


@contextmanager
def _in_our_hands(folder: RunFolder, accelerator: Accelerator) -> Iterator[None]:
    """The first process locks the run's folder; all of them end where it can't."""
    with ExitStack() as held:
        refusal = ""
        if accelerator.is_main_process:
            try:
                held.enter_context(locked(folder, say=print))
            except ValueError as error:
                refusal = str(error)
        if refusal := everyones(accelerator, refusal)[0]:
            raise ValueError(refusal)
        yield


def noise(run: Run, step: int) -> Tensor:
    """This rank's share of a step's noise: z_BL on the device. It is another one after each time a run went back."""
    batch, accelerator = cast(int, run.config.data.batch_size), run.accelerator
    place_in_stream = step + (run.start.rollbacks << 32)
    z_BL = latents(run.config.run.seed, Stream.NOISE, place_in_stream, batch, run.arch.latent_dim)
    parts = run.config.recipe.accumulate
    mine = rank_share(batch, accelerator.process_index, accelerator.num_processes, parts)
    return z_BL[torch.from_numpy(mine)].to(accelerator.device, non_blocking=True)


def _agree_on_folder(config: TrainConfig, accelerator: Accelerator) -> RunFolder:
    """Every rank checks, the first one's choice counts: ranks may start on two sides of midnight."""
    chosen = [choose(config, date.today())]
    if accelerator.num_processes > 1:
        broadcast_object_list(chosen)
    return chosen[0]


def _agree_on_plan(
    config: TrainConfig,
    arch: Architecture,
    schedule: Schedule,
    folder: RunFolder,
    accelerator: Accelerator,
    display: Display,
) -> Choice:
    """Every rank chooses, the first one's choice counts: caches may differ between machines."""
    batch = cast(int, config.data.batch_size)
    chosen = [
        choose_tuned(
            config.execution,
            accelerator.device,
            arch,
            batch // config.recipe.accumulate,
            images=schedule.total * batch,
            world_size=accelerator.num_processes,
            begun_with=read_condition(folder, "plan_fields"),
            say=display.say,
        )
    ]
    if accelerator.num_processes > 1:
        broadcast_object_list(chosen)
    return chosen[0]


def _agree_on_start(
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
    chosen = [(known or (found and found.run) or secrets.token_hex(8), step)]
    if accelerator.num_processes > 1:
        broadcast_object_list(chosen)
    identity, step = chosen[0]
    if not accelerator.is_main_process:
        path = checkpoint_path(folder.checkpoints, step)
        found = checkpoint.read(path, state, arch, known) if path.is_dir() else None
    start = checkpoint.restore(found, state) if found else Progress()
    check_same_start(accelerator, start.step)
    return identity, start


def _list_skipped(source: ImageSource, folder: RunFolder, display: Display, most: int = 10) -> None:
    damaged = [skip for skip in source.skipped if not skip.not_a_picture]
    others = [skip for skip in source.skipped if skip.not_a_picture]
    listed = f"all listed in {folder.skipped}"
    if damaged:
        display.say(f"skipped   {len(damaged):,} files that can't be used:")
        for skip in damaged[:most]:
            display.say(f"          {skip.path}: {skip.reason}")
        if len(damaged) > most:
            display.say(f"          and {len(damaged) - most:,} more, {listed}")
    if others:
        names = f" ({common_suffixes(others)})" if common_suffixes(others) else ""
        begin = "          and" if damaged else "skipped  "
        display.say(f"{begin} {len(others):,} files that are no pictures{names}, {listed}")
