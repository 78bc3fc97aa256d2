"""What a run writes while it trains: metrics, sample grids, checkpoints, plots; and how long it trained."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
import torch
from torch import Tensor, distributed

from fastdcgan.config import flat
from fastdcgan.data.stream import normalise
from fastdcgan.distributed.collectives import all_reduce_max, first_difference, patient_group
from fastdcgan.evaluation.best import known_best, write_best
from fastdcgan.evaluation.records import describe_evaluation, forget_later_steps
from fastdcgan.execution.finite import loss_scales, non_finite_tensors, overflowing_network
from fastdcgan.gan import ranges
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.gan.ranges import profiler_range
from fastdcgan.gan.step import StepMetrics
from fastdcgan.limits.memory import return_free_memory
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.checkpoint import Snapshot
from fastdcgan.runs.checkpoints.folder import Best, list_checkpoints
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.checkpoints.tensors import moments
from fastdcgan.runs.classes import classes_shown
from fastdcgan.runs.folder import WriteError, converting_write_errors
from fastdcgan.runs.sampling import SAMPLES, generate, grid, grid_columns, save_grid
from fastdcgan.storage.background import BackgroundWorker
from fastdcgan.storage.checksummed import flush
from fastdcgan.storage.signals import EndedTogetherError
from fastdcgan.telemetry.metrics import MetricsBuffer, MetricsFile, Record, first_non_finite_step
from fastdcgan.telemetry.profiler.profiled_intervals import Interval, ProfiledIntervals
from fastdcgan.telemetry.profiler.step_profiler import ProfileFolder, StepProfiler, check_window
from fastdcgan.telemetry.profiler.summary import ProfiledRun
from fastdcgan.telemetry.report.loss_plot import plot_losses
from fastdcgan.telemetry.report.nearest import write_nearest
from fastdcgan.telemetry.report.run_warnings import min_loss_d
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.telemetry.trackers import TrackedRun, Trackers
from fastdcgan.telemetry.watch import Watch
from fastdcgan.training.evaluation import Evaluator
from fastdcgan.training.run import Due, Run
from fastdcgan.training.stopping.own_fault import OwnFault, blank_batch
from fastdcgan.tuning.choice import plan_fields

PLOT_SECONDS = 10.0
"""The least time between two plots of the losses, but for the last one: no step is taken while they are drawn."""


class NotFiniteError(EndedTogetherError):
    """Training has failed: the message says at which step, and of what."""


class DataLostError(ValueError):
    """Pictures can't be read any more: the message says which and why."""


class Recorder:
    """Writes a run's folder and measures its training time, without the time of sampling and saving."""

    def __init__(self, run: Run, display: Display) -> None:
        self._run, self._display = run, display
        self.fault = OwnFault(run)
        self.saved_step = run.start.step
        """Of the last checkpoint."""
        self._is_main_process = run.accelerator.is_main_process
        self._metrics_buffer = MetricsBuffer(run.schedule.log_every, run.accelerator.device)
        self._rows = classes_shown(run.labels.counts()) if run.labels else []
        self._columns = grid_columns(SAMPLES, run.arch.resolution) if self._rows else None
        samples = len(self._rows) * self._columns if self._columns else SAMPLES
        self._samples_z_BL = latents(run.config.run.seed, Stream.SAMPLES, 0, samples, run.arch.latent_dim)
        self._samples_labels_B = torch.tensor(self._rows).repeat_interleave(self._columns) if self._columns else None
        self._checkpoint_writer = BackgroundWorker("checkpoint")
        self._seconds = run.start.seconds
        self._last_tick_step, self._data_wait_seconds, self._interval_start = run.start.step, 0.0, time.perf_counter()
        self._next_plot = time.perf_counter() + PLOT_SECONDS
        self._watch = Watch(min_loss_d(run.config.recipe.objective))
        self._best = known_best(run.folder, run.start.step)
        self._evaluator: Evaluator | None = None
        self._waiting = patient_group(run.accelerator) if run.schedule.evaluate_every else None
        self._profiled = ProfiledIntervals()
        self._profiler = self._make_profiler() if run.config.run.profile else None
        if self._is_main_process:
            with converting_write_errors(run.folder.metrics):
                self._metrics_file = MetricsFile(run.folder.metrics, run.start.step)
            with converting_write_errors(run.folder.evaluations):
                forget_later_steps(run.folder.evaluations, run.start.step)
            self._trackers = Trackers(
                run.config.run.trackers(), tracked_run(run), say=display.say, warn=partial(display.say, always=True)
            )
            if self._best is None:
                with suppress(OSError):  # it is of a step that the run went back from, or damaged
                    run.folder.best.unlink(missing_ok=True)
            if run.schedule.evaluate_every:
                self._evaluator = Evaluator(run, display)
                self._reconsider_best(self._evaluator)
            if not run.folder.real.exists():
                self._write_real_grid()
            if run.start.step == 0:
                self.sample(0)
        self._display.train(None, run.start.step, run.schedule.total)
        self._interval_start = time.perf_counter()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time in this context as waiting for data.

        Raises:
            DataLostError: for a ValueError or an OSError of the data's.
        """
        start = time.perf_counter()
        try:
            with profiler_range(ranges.DATA_WAIT):
                yield
        except OSError as error:
            raise DataLostError(f"{error.filename or self._run.source.origin}: {error.strerror or error}") from error
        except ValueError as error:
            raise DataLostError(str(error)) from error
        self._data_wait_seconds += time.perf_counter() - start

    def next_batch(self, batches: Generator[tuple[Tensor, ...]], step: int) -> tuple[Tensor, ...]:
        """The pictures of the step after `step`: real_BCHW in [-1, 1]; and labels_B, where classes are learned.

        Blank ones, of the first class, if they are lost: see `fault.py`.

        Raises:
            DataLostError: they are lost, and there is no other process.
        """
        if not self.fault.lacks_pictures:
            try:
                with self.waiting_for_data():
                    return next(batches)
            except DataLostError as error:
                self.fault.keep(error, whole_step=step)
            if not any(non_finite_tensors(self._run.state)):
                self.fault.whole = self._snapshot(step)
        return blank_batch(self._run)

    def add(self, metrics: StepMetrics) -> None:
        """Buffer a step's metrics on the device."""
        with profiler_range(ranges.METRICS):
            self._metrics_buffer.add(metrics)

    def record(self, step: int, due: Due) -> None:
        """Write what is due after a step.

        Raises:
            NotFiniteError, EndedTogetherError, WriteError: as `tick`, `check_state`, `sample` and `save` do; of several
                processes one that can't write goes on until all know of it.
        """
        if due.log:
            self.tick(step)
        if due.sample or due.evaluate or due.save:
            self.check_state(step)
        if due.sample:
            with self.fault.kept():
                self.sample(step)
        if due.evaluate:
            self.evaluate(step)
        if due.save:
            with self.fault.kept():
                self.save(step, last=due.last)
        self.advance_profiler(step)

    def advance_profiler(self, step: int) -> None:
        """Tell the profiler that a step is done. The time in which it writes is not counted."""
        if self._profiler is None:
            return
        if self._profiler.recording_changes:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()  # what the device has yet to do belongs to the steps so far
            elapsed = time.perf_counter() - self._interval_start
            self._profiled.toggle(Interval(step - self._last_tick_step, elapsed, self._data_wait_seconds))
        with self._untimed():
            self._profiler.step()

    def tick(self, step: int) -> None:
        """Fetch, check and write the metrics since the last tick. The one place where the device is waited for.

        Raises:
            NotFiniteError: they are no numbers any more.
            WriteError: they can't be written, or the last checkpoint could not be.
        """
        with self.fault.kept():
            self._checkpoint_writer.check()
        if step > self._last_tick_step:
            metrics, scales = self._fetch_metrics()
            self._check_finite(step, metrics, scales)
            self._write_figures(step, metrics)

    def _write_figures(self, step: int, metrics: Tensor) -> None:
        """Write the means of the steps since the last tick up to `step`: [steps, 4]. Raises WriteError if it can't."""
        elapsed = time.perf_counter() - self._interval_start
        unprofiled = self._profiled.unprofiled(Interval(len(metrics), elapsed, self._data_wait_seconds))
        self._seconds += elapsed
        record = self._make_record(step, metrics, unprofiled)
        self._last_tick_step = step
        if self._is_main_process:
            with self.fault.kept(), converting_write_errors(self._run.folder.metrics):
                self._metrics_file.write(record)
            self._trackers.write(record)
            self._display.train(record, step, self._run.schedule.total)
            self._warn(self._watch.record(record))
        self._data_wait_seconds, self._interval_start = 0.0, time.perf_counter()

    def check_state(self, step: int) -> None:
        """Look at every number that a checkpoint would hold.

        Raises:
            NotFiniteError: they are not all finite.
            EndedTogetherError: they are not the same on all processes.
        """
        # BatchNorm's statistics may be each process's own.
        if any(all_reduce_max(self._run.accelerator, any(non_finite_tensors(self._run.state)))):
            self._check_finite(step, *self._fetch_metrics())  # a loss tells in which step
            self._raise_not_finite(step, "what was learned stopped being finite")
        with self._untimed():
            found = first_difference(self._run.accelerator, replicated_tensors(self._run))
        if found:
            raise EndedTogetherError(
                f"after step {step:,} {found}: training has failed; {self._describe_last_checkpoint()}. "
                "Do all processes run the same program on the same kind of machine?"
            )

    def sample(self, step: int) -> None:
        """Write a grid from the fixed noise, with a row for each class if there are some. Raises WriteError."""
        with self._untimed(), profiler_range(ranges.SAMPLES):
            if self._is_main_process:
                of_class = () if self._samples_labels_B is None else (self._samples_labels_B,)
                pictures_BCHW = generate(self._run.state.sampler, self._samples_z_BL, *of_class)
                file = self._run.folder.samples / f"step-{step:08d}.png"
                with converting_write_errors(file):
                    save_grid(pictures_BCHW, file, self._columns)
                self._trackers.write_grid(grid(pictures_BCHW, self._columns), step)
                self._display.show_samples(pictures_BCHW, step, self._columns)
                self._warn(self._watch.samples(pictures_BCHW, step, self._columns))
                if step == self._run.schedule.total:
                    self._compare_with_training(pictures_BCHW, step)

    def evaluate(self, step: int) -> None:
        """Measure the quality of pictures on the main process, while the others wait, and say what was found.

        Where that fails, that is said, and nothing is measured from there on. The time is not counted as training.

        Raises:
            WriteError: it can't be written.
        """
        with self._untimed():
            if self._evaluator is not None:
                with self.fault.kept():
                    self._evaluate(self._evaluator, step)
                return_free_memory()  # what it took, some hundred MiB, would otherwise stay until the next one
            if self._waiting is not None:
                distributed.barrier(self._waiting)

    def _reconsider_best(self, evaluator: Evaluator) -> None:
        """Raises WriteError where best.json can't be written."""
        best = evaluator.reconsidered(self._best)
        if best is not None and best != self._best:
            self._best = best
            with converting_write_errors(self._run.folder.best):
                write_best(self._run.folder, best)
            self._display.say(f"quality   the best so far is step {best.step:,} ({best.metric}: {best.value:.4f})")

    def _evaluate(self, evaluator: Evaluator, step: int) -> None:
        try:
            found, best = evaluator.evaluate(step)
        except WriteError:
            raise
        except (ValueError, OSError) as error:
            self._evaluator = None
            self._display.say(f"quality   is not measured from here on: {error}", always=True)
        else:
            self._best = best
            self._trackers.write_evaluation(found)
            self._display.say(f"quality   {describe_evaluation(found)}{', the best' * (best.step == step)}")

    def save(self, step: int, *, last: bool) -> None:
        """Begin to write a checkpoint, once the one before is written; at times, and the last time, plot the losses.

        Raises:
            WriteError: the one before could not be written, or the plot can't.
        """
        with self._untimed(), profiler_range(ranges.CHECKPOINT):
            if self._is_main_process:
                self._begin_to_write(self._snapshot(step), last=last)

    def _snapshot(self, step: int) -> Snapshot:
        """A copy of what was learned until this step, which was just done."""
        run = self._run
        images = step * run.config.images_a_step
        progress = Progress(step=step, images=images, seconds=self._seconds, rollbacks=run.start.rollbacks)
        return checkpoint.snapshot(run.state, run.arch, progress, run=run.id, plan=plan_fields(run.plan))

    def _begin_to_write(self, snap: Snapshot, *, last: bool) -> None:
        """Raises WriteError as `save` does."""
        self._checkpoint_writer.start(partial(self._write_checkpoint, snap, self._best))
        if last or time.perf_counter() >= self._next_plot:
            with converting_write_errors(self._run.folder.losses):
                plot_losses(self._metrics_file.curves, self._run.folder.losses)
            self._next_plot = time.perf_counter() + PLOT_SECONDS

    def wait_for_checkpoint(self) -> None:
        """Wait for the checkpoint under way. Raises WriteError as `save` does, if there is no other process."""
        with self.fault.kept():
            self._checkpoint_writer.wait()

    def save_last(self, step: int) -> None:
        """Look at all that was learned, write the figures and save. Raises as `tick`, `check_state` and `save` do."""
        self.tick(step)
        self.check_state(step)
        with self.fault.kept():
            self.save(step, last=True)

    def save_whole(self, whole: Snapshot | None, step: int) -> None:
        """Save a copy of what was learned until `step`, and the figures until there; later ones are thrown away.

        Raises:
            NotFiniteError: what was learned was not finite (None), or a figure isn't.
            EndedTogetherError: processes have drifted apart.
            WriteError: it can't be written.
        """
        if whole is None:
            self._raise_not_finite(step, "what was learned stopped being finite")
        if found := first_difference(self._run.accelerator, replicated_tensors(self._run)):
            raise EndedTogetherError(found)  # later, but they would be the same if they had been then
        metrics, _ = self._fetch_metrics()
        if len(metrics := metrics[: step - self._last_tick_step]):
            if bad := first_non_finite_step(metrics, step):
                self._raise_not_finite(*bad)
            self._write_figures(step, metrics)
        if self._is_main_process:
            record = {**whole.record, "seconds": self._seconds}
            self._begin_to_write(replace(whole, record=record), last=True)

    def close(self) -> None:
        """Wait for the checkpoint under way; close all files; say what the profiler found.

        Raises:
            WriteError: as `save` does.
        """
        try:
            self._checkpoint_writer.close()
        finally:
            if self._profiler is not None:
                self._profiler.close()
                if self._profiler.report:
                    self._display.say(self._profiler.report)
            if self._is_main_process:
                with suppress(OSError):  # all is in it already, unless writing it has failed
                    self._metrics_file.close()
                self._trackers.close()

    def _fetch_metrics(self) -> tuple[Tensor, Tensor]:
        """Metrics of the steps since the last tick, [steps, 4]; loss scales [2]: means over ranks."""
        with profiler_range(ranges.METRICS):
            metrics = self._metrics_buffer.take()
            # In a row more: one all-reduce, and one wait for the device.
            scales = loss_scales(self._run.state).repeat(2)
            rows = self._run.accelerator.reduce(torch.cat((metrics, scales[None])), "mean").cpu()
        return rows[:-1], rows[-1, :2]

    def _check_finite(self, step: int, metrics: Tensor, scales: Tensor) -> None:
        if bad := first_non_finite_step(metrics, step):
            self._raise_not_finite(*bad)
        if network := overflowing_network(scales):
            self._raise_not_finite(step, f"the {network}'s gradients overflow fp16, however small its loss is scaled,")

    def _make_record(self, step: int, metrics: Tensor, unprofiled: Interval) -> Record:
        images_a_step = self._run.config.images_a_step
        loss_d, loss_g, d_real, d_fake = metrics.mean(0).tolist()
        return Record(
            step=step,
            images=step * images_a_step,
            epoch=step / self._run.schedule.per_epoch,
            seconds=self._seconds,
            loss_d=loss_d,
            loss_g=loss_g,
            d_real=d_real,
            d_fake=d_fake,
            images_per_sec=unprofiled.steps * images_a_step / unprofiled.seconds,
            data_wait_fraction=unprofiled.waited / unprofiled.seconds,
            rollbacks=self._run.start.rollbacks,
        )

    def _write_checkpoint(self, snap: Snapshot, best: Best | None) -> None:
        options = self._run.config.run
        with converting_write_errors(self._run.folder.metrics):
            flush(self._run.folder.metrics)  # going on from a checkpoint needs the lines before it
        try:
            path = checkpoint.write(
                self._run.folder.checkpoints,
                snap,
                keep=options.keep_checkpoints,
                keep_every=options.keep_every,
                best_step=best.step if best else None,
            )
        except ValueError as error:
            raise WriteError(str(error)) from error
        self.saved_step = snap.progress.step
        if best is not None and best.step == self.saved_step:
            with converting_write_errors(self._run.folder.best):
                write_best(self._run.folder, best)
        if options.track_checkpoints:
            self._trackers.write_checkpoint(path, self.saved_step, best)

    def _make_profiler(self) -> StepProfiler:
        run = self._run
        check_window(run.config.run, run.schedule.total - run.start.step)
        rank = run.accelerator.process_index
        subject = ProfiledRun(
            arch=run.arch,
            batch=cast(int, run.config.data.batch_size),
            plan=str(run.plan),
            device=run.accelerator.device,
            rank=rank,
            world_size=run.accelerator.num_processes,
        )
        return StepProfiler(ProfileFolder(run.folder.profile, rank), run.config.run, subject, say=self._display.say)

    def _write_real_grid(self) -> None:
        """The first pictures; with classes the first of each, one after the other where there are few."""
        numbers: Sequence[int] = range(min(SAMPLES, len(self._run.source)))
        if self._run.labels is not None and self._columns:
            found = [np.flatnonzero(self._run.labels.numbers == number) for number in self._rows]
            numbers = [int(number) for of_class in found for number in np.resize(of_class, self._columns)]
        with closing(self._run.source.read([numbers])) as batches:
            for pictures_BHWC in batches:
                with converting_write_errors(self._run.folder.real):
                    save_grid(normalise(pictures_BHWC.cpu()), self._run.folder.real, self._columns)

    def _compare_with_training(self, pictures_BCHW: Tensor, step: int) -> None:
        """Show what samples are nearest to. Where the training pictures can't be read any more, that is said."""
        run = self._run
        try:
            write_nearest(run.folder, pictures_BCHW, run.source, step, mirrored=run.config.data.flip)
        except WriteError:
            raise
        except (ValueError, OSError) as error:
            self._display.say(f"nearest   training pictures are not shown: {error}", always=True)

    def _raise_not_finite(self, step: int, what: str) -> NoReturn:
        """Raise NotFiniteError, with the tensors that are not finite and the last good checkpoint."""
        of_network: dict[str, list[str]] = {}
        for name in non_finite_tensors(self._run.state):
            of_network.setdefault(name.partition(".")[0], []).append(name)
        named = [f"{first}{f' and {len(more):,} more' if more else ''}" for first, *more in of_network.values()]
        where = f" (not finite by now: {', '.join(named)})" if named else ""
        advice = "Begin anew with a lower --lr, or"
        if self.last_checkpoint():
            advice = "Go on with --on-nan rollback, or with --from-step latest and a lower --lr, or anew"
        raise NotFiniteError(
            f"{what} at step {step:,}{where}: training has failed; {self._describe_last_checkpoint()}. "
            f"{advice} with --precision fp32"
        )

    def last_checkpoint(self) -> Path | None:
        """The newest that is whole, once the one under way is written; None if there is none."""
        with suppress(ValueError):  # the one under way could not be written: then it isn't there
            self._checkpoint_writer.wait()
        good = list_checkpoints(self._run.folder.checkpoints)
        return good[-1] if good else None

    def _describe_last_checkpoint(self) -> str:
        last = self.last_checkpoint()
        return f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"

    def _warn(self, sign: str | None) -> None:
        if sign:
            self._display.say(f"warning   {sign}", always=True)

    @contextmanager
    def _untimed(self) -> Iterator[None]:
        """Don't count the time in this context as training."""
        start = time.perf_counter()
        yield
        self._interval_start += time.perf_counter() - start


def tracked_run(run: Run) -> TrackedRun:
    """The run, as trackers know it."""
    return TrackedRun(
        folder=run.folder.path,
        run_id=run.id,
        resume_step=run.start.step,
        configuration=flat(run.config),
    )


def replicated_tensors(run: Run) -> dict[str, Tensor]:
    """Tensors that are the same on all processes: weights, Adam's moments, BatchNorm's statistics unless local."""
    local, state = run.config.recipe.batch_norm == "local", run.state
    networks = (
        ("generator", state.generator, state.optimizer_g),
        ("discriminator", state.discriminator, state.optimizer_d),
    )
    everything: dict[str, Tensor] = {}
    for label, network, optimizer in networks:
        learned = network.named_parameters() if local else network.state_dict().items()
        everything |= {f"{label}.{name}": tensor for name, tensor in learned} | moments(label, network, optimizer)
    return everything
