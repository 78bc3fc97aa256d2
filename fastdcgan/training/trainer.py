"""A whole run, from the request to the last checkpoint: resolve, join, validate, open, build, fit."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from fastdcgan.config import TrainConfig
from fastdcgan.data.order import rank_rows
from fastdcgan.data.stream import Batching, label_batches, real_batches
from fastdcgan.device import pinned_for, to_device
from fastdcgan.distributed.accelerator import Accelerator, join
from fastdcgan.distributed.collectives import gather_objects
from fastdcgan.distributed.rank_log import rank_log
from fastdcgan.distributed.roll_call import lost_ranks_as_one_line
from fastdcgan.execution.prepare import TakeStep, step_function
from fastdcgan.execution.replay import Replayed
from fastdcgan.gan import augment, ranges
from fastdcgan.gan.randomness import Stream, uniform
from fastdcgan.gan.ranges import profiler_range
from fastdcgan.gan.step import penalise
from fastdcgan.kernels.noise import latents
from fastdcgan.runs.folder import RunFolder, WriteError
from fastdcgan.runs.lock import locked
from fastdcgan.storage.signals import Stopped, StopRequests
from fastdcgan.storage.wording import counted
from fastdcgan.telemetry.report.end_of_run import reporting
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training.announce import announce, announce_end, announce_nothing_to_do
from fastdcgan.training.caller import Caller
from fastdcgan.training.recorder import DataLostError, NotFiniteError, Recorder
from fastdcgan.training.run import Run
from fastdcgan.training.setup import load_last_checkpoint, memory_demand, setup
from fastdcgan.training.starting.begin import with_ancestors_choices
from fastdcgan.training.stopping.last_save import end_together, save_after_error
from fastdcgan.training.stopping.vote import StopVote
from fastdcgan.training.validate import validate


def train(request: TrainConfig, caller: Caller | None = None) -> RunFolder:
    """Train a DCGAN as asked and leave a run's folder behind.

    Args:
        request: what is asked for.
        caller: who asks. Default: the command line.

    Raises:
        ValueError: for what the user can fix, in one line; and when a loss stops being a finite number.
        Stopped: after SIGINT, SIGTERM or SIGUSR1, once a checkpoint is written, or where there is nothing to save yet.
    """
    caller = caller or Caller()
    with caller.stop_requests() as stop, ExitStack() as session:
        config, batch_named = with_ancestors_choices(request).resolved(), request.data.batch_size is not None
        accelerator = join(config.execution)
        timeout = config.execution.rank_timeout
        with lost_ranks_as_one_line(accelerator, timeout):
            config, folder = validate(config, accelerator, batch_named=batch_named)
            session.enter_context(locked_by_main_process(folder, accelerator))
        display = session.enter_context(opened_display(config, folder, accelerator, caller))
        # Again, inside the display, so that it shows that line.
        session.enter_context(lost_ranks_as_one_line(accelerator, timeout))
        run = setup(config, folder, accelerator, display, batch_named=batch_named)
        announce(run, display)
        if run.start.step < run.schedule.total:
            with memory_demand(run.config, run.arch, accelerator).failures_as_one_line():
                fit(run, stop, display)
            display.stop_drawing()
            announce_end(run, display)
        else:
            announce_nothing_to_do(run, display)
        accelerator.end_training()
    return folder


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
                step, signal = take_steps(run, take_step, stop, display)
                break
            except NotFiniteError as failure:
                if run.config.run.on_nan == "stop":
                    raise
                run = roll_back(run, failure, display)
    # A launcher ends all ranks when the first one leaves: nobody does before everything is written.
    run.accelerator.wait_for_everyone()
    if signal:
        raise Stopped(f"stopped after step {step:,}; the same command goes on from there", signal)


def take_steps(run: Run, take_step: TakeStep, stop: StopRequests, display: Display) -> tuple[int, int]:
    """Take the steps that are left, or those until we are asked to stop.

    Returns:
        the last step, and the signal that asked, or 0.

    Raises:
        ValueError: as `fit` does. Where there are several processes, the same on all of them.
    """
    step, signal = run.start.step, 0
    vote = StopVote(run.accelerator, stop, step)
    with (
        closing(Recorder(run, display)) as recorder,
        closing(batches_of(run)) as batches,
    ):
        try:
            while step < run.schedule.total and not signal:
                real_BCHW, *of_class = recorder.next_batch(batches, step)
                with profiler_range(ranges.NOISE):
                    z_BL, of_augmentation = random_inputs(run, step + 1)
                others = (*of_augmentation, *of_class)
                recorder.add(take_step(real_BCHW, z_BL, *others))
                step += 1
                penalise(run.state, step, real_BCHW, z_BL, *others)
                if run.state.average is not None:
                    run.state.average.update(step)
                due = run.schedule.due(step)
                signal, fault = vote(step, meeting=due.log, fault=recorder.fault.met is not None)
                if fault:
                    end_together(recorder, run.accelerator, step)
                recorder.record(step, due.before_stopping() if signal else due)
            recorder.wait_for_checkpoint()
            if any(gather_objects(run.accelerator, recorder.fault.met is not None)):
                end_together(recorder, run.accelerator, step)
        except (DataLostError, WriteError) as error:
            raise ValueError(f"{error}; {save_after_error(recorder, run.accelerator, step)}") from error
    return step, signal


def roll_back(run: Run, failure: NotFiniteError, display: Display) -> Run:
    """The run as it was at its last checkpoint, with new noise from there on. All ranks go back together.

    Raises:
        ValueError: it has been rolled back as often as it may, or has no checkpoint.
    """
    most, times = run.config.run.rollbacks, run.start.rollbacks + 1
    if times > most:
        raise ValueError(f"{failure}; it was rolled back {counted(most, 'time')} already (--rollbacks)") from failure
    run.accelerator.wait_for_everyone()  # until the first one has written what it was writing
    _, start = load_last_checkpoint(run.folder, run.state, run.arch, run.accelerator, display)
    if start.step == 0:
        raise ValueError(f"{failure}; there is nothing to roll back to") from failure
    display.say(f"{failure}")
    display.say(f"rollback  {times} of {most}: after step {start.step:,}, with new noise")
    return replace(run, start=replace(start, rollbacks=times))


def batches_of(run: Run) -> Generator[tuple[Tensor, ...]]:
    """This process's share of every step's pictures, from the step on with which the run goes on.

    Yields:
        real_BCHW; and labels_B, where classes are learned.
    """
    batching = Batching(
        seed=run.config.run.seed,
        global_batch=run.config.images_a_step,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
        parts=run.config.parts_a_step,
        flip=run.config.data.flip,
    )
    where, start = run.accelerator.device, run.start.step
    record = Replayed if run.plan.replay and where.type == "cuda" else None
    with closing(real_batches(run.source, batching, where, start, record)) as pictures:
        if run.labels is None:
            yield from zip(pictures)
        else:
            yield from zip(pictures, label_batches(run.labels.numbers, batching, where, start), strict=True)


def random_inputs(run: Run, step: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """What `noise` and `draws` give for a step, on the device.

    Drawn here, not ahead by a thread: that takes 15 us at a batch of 128, and handing over the interpreter took more.
    """
    device = run.accelerator.device
    others = tuple(x if x is None else to_device(x, device) for x in draws(run, step))
    return to_device(noise(run, step), device), others


def noise(run: Run, step: int) -> Tensor:
    """This rank's share of a step's noise: z_BL, on the host. It is another one after each time a run went back."""
    seed, images = run.config.run.seed, run.config.images_a_step
    return _own_share(run, latents(seed, run.noise, _place_in_stream(run, step), images, run.arch.latent_dim))


def draws(run: Run, step: int) -> tuple[Tensor | None, ...]:
    """This rank's share of what a step's augmentation draws, as `noise`: draws_BN, or nothing where there is none.

    None stands in its place where labels follow.
    """
    if not run.state.augmentation:
        return () if run.labels is None else (None,)
    seed, images = run.config.run.seed, run.config.images_a_step
    drawn_BN = uniform(seed, Stream.AUGMENT, _place_in_stream(run, step), images, 2 * augment.NUMBERS)
    return (_own_share(run, drawn_BN),)


def _place_in_stream(run: Run, step: int) -> int:
    return step + (run.start.rollbacks << 32)


def _own_share(run: Run, drawn_BN: Tensor) -> Tensor:
    """This rank's rows, ready to be copied to the device."""
    ranks, parts = run.accelerator.num_processes, run.config.parts_a_step
    if ranks > 1:
        # NumPy copies, if it must, in this thread: PyTorch would start others, and wait for each where cores are busy.
        drawn_BN = torch.from_numpy(rank_rows(drawn_BN.numpy(), run.accelerator.process_index, ranks, parts))
    return pinned_for(drawn_BN, run.accelerator.device)


@contextmanager
def opened_display(
    config: TrainConfig, folder: RunFolder, accelerator: Accelerator, caller: Caller
) -> Iterator[Display]:
    """What the main process shows and keeps in run.log; the others' words go to files of their own."""
    with rank_log(folder.logs, accelerator.process_index, accelerator.num_processes):
        first = accelerator.is_main_process
        log = RunLog(folder.log, may_create=folder.config.exists) if first else None
        with caller.display(folder, first=first, quiet=config.run.quiet, log=log) as display:
            display.on_record = caller.tick
            yield display


@contextmanager
def locked_by_main_process(folder: RunFolder, accelerator: Accelerator) -> Iterator[None]:
    """The main process locks the run's folder. Raises ValueError on all of them where it can't."""
    with ExitStack() as held:
        refusal = ""
        if accelerator.is_main_process:
            try:
                held.enter_context(locked(folder, say=print))
            except ValueError as error:
                refusal = str(error)
        if refusal := gather_objects(accelerator, refusal)[0]:
            raise ValueError(refusal)
        yield
