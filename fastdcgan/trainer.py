"""A whole run: `setup` gathers what it needs, `fit` takes the steps, and everything is kept in the run's folder."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from types import FrameType
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from fastdcgan import checkpoint, models
from fastdcgan.architecture import Architecture
from fastdcgan.checkpoint import Progress
from fastdcgan.config import TrainConfig
from fastdcgan.data import open_source
from fastdcgan.data.order import rank_slice, steps_per_epoch
from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import Batching, normalise, real_batches
from fastdcgan.distributed import check_agreement, join, launcher_precision, wrap
from fastdcgan.plan import Plan, choose_plan, prepare
from fastdcgan.randomness import Stream, latents
from fastdcgan.run_folder import RunFolder, check_writable, choose, create, write_config
from fastdcgan.sampling import generate, grid, save_grid
from fastdcgan.step import StepMetrics, TrainState, train_step
from fastdcgan.telemetry.curves import plot_losses
from fastdcgan.telemetry.display import Display
from fastdcgan.telemetry.metrics import MetricsFile, Record, StepLog, first_bad_step
from fastdcgan.telemetry.tensorboard import TensorBoard

SAMPLES = 64
"""Pictures in a sample grid."""

GRIDS_PER_RUN, CHECKPOINTS_PER_RUN, MOST_STEPS_BETWEEN_CHECKPOINTS = 20, 10, 1000


class Stopped(Exception):  # noqa: N818 (not an error: the user asked for it)
    """The run was asked to stop and has saved what it learned. Arguments: what to say, and the signal's number."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When things happen, in steps."""

    per_epoch: int
    total: int
    log_every: int
    sample_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, config: TrainConfig, count: int) -> "Schedule":
        """The schedule of a run over `count` pictures. Raises ValueError if they don't fill a batch."""
        batch = cast(int, config.data.batch_size)
        per_epoch = steps_per_epoch(count, batch)
        if per_epoch == 0:
            raise ValueError(
                f"--batch-size {batch} is more than the {count} usable images in {config.data.data}: "
                f"use --batch-size {count} or less, or more images"
            )
        run = config.run
        total = math.ceil(run.images / batch) if run.images is not None else cast(int, run.epochs) * per_epoch
        return cls(
            per_epoch=per_epoch,
            total=total,
            log_every=run.log_every,
            sample_every=run.sample_every or max(1, total // GRIDS_PER_RUN),
            checkpoint_every=run.checkpoint_every
            or min(MOST_STEPS_BETWEEN_CHECKPOINTS, max(1, total // CHECKPOINTS_PER_RUN)),
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `setup` prepared for `fit`."""

    config: TrainConfig
    arch: Architecture
    folder: RunFolder
    accelerator: Accelerator
    source: ImageSource
    plan: Plan
    state: TrainState
    schedule: Schedule
    start: Progress


def train(request: TrainConfig) -> RunFolder:
    """Train a DCGAN as asked and leave a run's folder behind.

    Raises:
        ValueError: for what the user can fix, in one line; and when a loss stops being a finite number.
        Stopped: after SIGINT or SIGTERM, once a checkpoint is written.
    """
    config = request.resolved()
    accelerator = join(config.execution)
    with Display(visible=accelerator.is_main_process) as display:
        run = setup(config, accelerator, display)
        describe(run, display)
        if run.start.step >= run.schedule.total:
            display.say(
                f"Nothing to do: {run.folder.path} has seen {run.start.images:,} images already. "
                "Ask for more with --images or --epochs, or choose another --out."
            )
        else:
            fit(run, display)
            display.say(f"Done. Samples, losses.png, metrics and checkpoints are in {run.folder.path}")
            display.say(f"Make new pictures:  fastdcgan generate {run.folder.path} --count 64 --out grid.png")
            if config.data.data == "faces":
                display.say("Train bigger:       fastdcgan train --arch dcgan64 --batch-size 128 --epochs 50")
                display.say("                    (--data FOLDER for your own images)")
    accelerator.end_training()
    return run.folder


def setup(config: TrainConfig, accelerator: Accelerator, display: Display) -> Run:
    """Check the request against the machine and the data, cheapest checks first, and load the last checkpoint.

    Raises:
        ValueError: for what the user can fix.
    """
    arch = config.model.architecture()
    global_batch = cast(int, config.data.batch_size)
    if global_batch % accelerator.num_processes:
        raise ValueError(
            f"--batch-size {global_batch} is the global batch and must be a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    plan = choose_plan(config.execution, accelerator.device, launcher_precision())
    config = replace(config, execution=replace(config.execution, precision=plan.precision))
    folder = _agree_on_folder(config, accelerator)
    check_writable(folder)

    with accelerator.local_main_process_first():  # one process a machine draws and checks; the others find it done
        source = open_source(
            config.data.data,
            resolution=arch.resolution,
            channels=arch.channels,
            device=str(accelerator.device),
            threads=config.data.data_threads or min(8, os.cpu_count() or 1),
            decoder=config.data.decoder,
            on_progress=display.advance,
        )
    schedule = Schedule.of(config, len(source))

    generator, discriminator = models.build(arch, config.run.seed)
    state = prepare(plan, generator, discriminator, config.recipe, accelerator.device, wrap=partial(wrap, accelerator))
    saved = checkpoint.checkpoints(folder.checkpoints)
    start = checkpoint.load(saved[-1], state, arch) if saved else Progress()
    check_agreement(accelerator, start.step)

    if accelerator.is_main_process:
        create(folder)
        conditions = {
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "plan": str(plan),
            "data": source.description,
            "pictures": len(source),
            "skipped": len(source.skipped),
            "steps": schedule.total,
        }
        write_config(folder, config, arch, conditions)
        folder.skipped.write_text(
            "".join(f"{skip.path!a}: {skip.reason}\n" for skip in source.skipped), encoding="utf-8"
        )
    return Run(
        config=config,
        arch=arch,
        folder=folder,
        accelerator=accelerator,
        source=source,
        plan=plan,
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
    display.say(f"device    {accelerator.device}{ranks}{threads}, {run.plan}")
    batch = cast(int, run.config.data.batch_size)
    display.say(
        f"budget    {schedule.total * batch:,} images: {schedule.total:,} steps of {batch}, "
        f"{schedule.total / schedule.per_epoch:.1f} epochs"
    )
    display.say(f"output    {run.folder.path}")
    if run.start.step:
        display.say(f"resuming  after step {run.start.step:,} ({run.start.images:,} images)")


def fit(run: Run, display: Display) -> None:
    """Take the steps that are left.

    Raises:
        ValueError: when a loss stops being finite, naming the step and the last good checkpoint.
        Stopped: after SIGINT or SIGTERM, once a checkpoint is written.
    """
    schedule, accelerator, state = run.schedule, run.accelerator, run.state
    batching = Batching(
        seed=run.config.run.seed,
        global_batch=cast(int, run.config.data.batch_size),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        flip=run.config.data.flip,
    )
    batches = real_batches(run.source, batching, accelerator.device, start_step=run.start.step)
    with closing(Recorder(run, display)) as recorder, closing(batches), _stop_requests(accelerator) as stop:
        for step in range(run.start.step + 1, schedule.total + 1):
            with recorder.waiting():
                real_BCHW = next(batches)
            recorder.add(train_step(state, real_BCHW, noise(run, step)))

            last = step == schedule.total
            saving = step % schedule.checkpoint_every == 0 or last or bool(stop())
            # Before saving, always: what is saved has been seen to be finite.
            if step % schedule.log_every == 0 or saving:
                recorder.tick(step)
            if step % schedule.sample_every == 0 or last:
                recorder.sample(step)
            if saving:
                recorder.save(step)
            if stop():
                raise Stopped(f"stopped after step {step:,}; the same command goes on from there", stop())


def noise(run: Run, step: int) -> Tensor:
    """This rank's share of a step's noise: z_BL on the device."""
    batch, accelerator = cast(int, run.config.data.batch_size), run.accelerator
    z_BL = latents(run.config.run.seed, Stream.NOISE, step, batch, run.arch.latent_dim)
    mine = rank_slice(batch, accelerator.process_index, accelerator.num_processes)
    return z_BL[mine].to(accelerator.device, non_blocking=True)


class Recorder:
    """Keeps a run's clock and writes its folder. Training time is counted apart from sampling and saving."""

    def __init__(self, run: Run, display: Display) -> None:
        self._run, self._display = run, display
        self._main = run.accelerator.is_main_process
        self._log = StepLog(run.schedule.log_every, run.accelerator.device)
        self._samples_z_BL = latents(run.config.run.seed, Stream.SAMPLES, 0, SAMPLES, run.arch.latent_dim)
        self._seconds = run.start.seconds
        self._window_step, self._waited, self._window_start = run.start.step, 0.0, time.perf_counter()
        self._last_good = next(reversed(checkpoint.checkpoints(run.folder.checkpoints)), None)
        if self._main:
            self._metrics = MetricsFile(run.folder.metrics, run.start.step)
            self._tensorboard = (
                TensorBoard(run.folder.tensorboard, run.start.step) if run.config.run.tensorboard else None
            )
            if not run.folder.real.exists():
                self._show_real()
            if run.start.step == 0:
                self.sample(0)
        self._display.train(None, run.start.step, run.schedule.total)
        self._window_start = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, metrics: StepMetrics) -> None:
        """Remember a step's figures."""
        self._log.add(metrics)

    def tick(self, step: int) -> None:
        """Fetch the figures since the last tick, check and write them. The one place where the device is waited for."""
        steps = step - self._window_step
        if steps == 0:
            return
        rows = self._run.accelerator.reduce(self._log.take(), "mean").cpu()
        elapsed = time.perf_counter() - self._window_start
        if bad := first_bad_step(rows, step):
            self._fail(*bad)
        batch = cast(int, self._run.config.data.batch_size)
        loss_d, loss_g, d_real, d_fake = rows.mean(0).tolist()
        self._seconds += elapsed
        record = Record(
            step=step,
            images=step * batch,
            epoch=step / self._run.schedule.per_epoch,
            seconds=self._seconds,
            loss_d=loss_d,
            loss_g=loss_g,
            d_real=d_real,
            d_fake=d_fake,
            images_per_sec=steps * batch / elapsed,
            data_wait_fraction=self._waited / elapsed,
        )
        if self._main:
            self._metrics.write(record)
            if self._tensorboard:
                self._tensorboard.write(record)
            self._display.train(record, step, self._run.schedule.total)
        self._window_step, self._waited, self._window_start = step, 0.0, time.perf_counter()

    def sample(self, step: int) -> None:
        """Write a grid from the fixed noise."""
        with self._off_the_clock():
            if self._main:
                pictures_BCHW = generate(self._run.state.generator, self._samples_z_BL)
                save_grid(pictures_BCHW, self._run.folder.samples / f"step-{step:08d}.png")
                if self._tensorboard:
                    self._tensorboard.show(grid(pictures_BCHW), step)

    def save(self, step: int) -> None:
        """Write a checkpoint and the plot of the losses so far."""
        run = self._run
        with self._off_the_clock():
            if self._main:
                images = step * cast(int, run.config.data.batch_size)
                self._last_good = checkpoint.save(
                    run.folder.checkpoints,
                    run.state,
                    run.arch,
                    Progress(step=step, images=images, seconds=self._seconds),
                    keep=run.config.run.keep_checkpoints,
                )
                plot_losses(self._metrics.records, run.folder.losses)

    def close(self) -> None:
        """Flush and close all files."""
        if self._main:
            self._metrics.close()
            if self._tensorboard:
                self._tensorboard.close()

    def _show_real(self) -> None:
        count = min(SAMPLES, len(self._run.source))
        with closing(self._run.source.read([range(count)])) as batches:
            for pictures_BHWC in batches:
                save_grid(normalise(pictures_BHWC.cpu()), self._run.folder.real)

    def _fail(self, step: int, what: str) -> None:
        good = f"the last good checkpoint is {self._last_good}" if self._last_good else "no checkpoint was written yet"
        raise ValueError(f"{what} at step {step:,}: training has failed; {good}. Try a lower --lr or --precision fp32")

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._window_start += time.perf_counter() - start


def _agree_on_folder(config: TrainConfig, accelerator: Accelerator) -> RunFolder:
    """Every rank checks, the first one's choice counts: ranks may start on two sides of midnight."""
    chosen = [choose(config, date.today())]
    if accelerator.num_processes > 1:
        broadcast_object_list(chosen)
    return chosen[0]


def _list_skipped(source: ImageSource, folder: RunFolder, display: Display, most: int = 10) -> None:
    skipped = source.skipped
    if not skipped:
        return
    display.say(f"skipped   {len(skipped):,} files that can't be used:")
    for skip in skipped[:most]:
        display.say(f"          {skip.path}: {skip.reason}")
    if len(skipped) > most:
        display.say(f"          and {len(skipped) - most:,} more, all listed in {folder.skipped}")


@contextmanager
def _stop_requests(accelerator: Accelerator) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the signal with which a stop was asked for, else 0.

    SIGINT and SIGTERM finish the step and save first; a second one ends at once. With several processes they end at
    once too: the ranks would have to agree on the step at which to stop.
    """
    requested = 0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = number
        signal.signal(number, before[number])

    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if accelerator.num_processes == 1:
        for number in before:
            signal.signal(number, request)
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
