"""What a run writes down while it trains: figures, sample grids, checkpoints, plots; and its clock."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from fastdcgan import checkpoint
from fastdcgan.checkpoint import Progress, moments
from fastdcgan.data.stream import normalise
from fastdcgan.distributed import difference
from fastdcgan.randomness import Stream, latents
from fastdcgan.run import Run
from fastdcgan.sampling import generate, grid, save_grid
from fastdcgan.step import StepMetrics
from fastdcgan.telemetry.curves import plot_losses
from fastdcgan.telemetry.display import Display
from fastdcgan.telemetry.metrics import MetricsFile, Record, StepLog, first_bad_step
from fastdcgan.telemetry.tensorboard import TensorBoard

SAMPLES = 64
"""Pictures in a sample grid."""


class Recorder:
    """Keeps a run's clock and writes its folder. Training time is counted apart from sampling and saving."""

    def __init__(self, run: Run, display: Display) -> None:
        self._run, self._display = run, display
        self._main = run.accelerator.is_main_process
        self._log = StepLog(run.schedule.log_every, run.accelerator.device)
        self._samples_z_BL = latents(run.config.run.seed, Stream.SAMPLES, 0, SAMPLES, run.arch.latent_dim)
        self._seconds = run.start.seconds
        self._window_step, self._waited, self._window_start = run.start.step, 0.0, time.perf_counter()
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

    def check_weights(self, step: int) -> None:
        """Raise ValueError if they are not all finite, or they or Adam's moments differ between processes.

        Losses don't tell: a step's are those before its update.
        """
        if not all_finite(self._run.state.generator) or not all_finite(self._run.state.discriminator):
            self._fail(step, "the weights stopped being finite")
        with self._off_the_clock():
            found = difference(self._run.accelerator, shared(self._run))
        if found:
            raise ValueError(
                f"after step {step:,} {found}: training has failed; {self._last_good_one()}. "
                "Do all processes run the same program on the same kind of machine?"
            )

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
                checkpoint.save(
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
        raise ValueError(
            f"{what} at step {step:,}: training has failed; {self._last_good_one()}. "
            "Try a lower --lr or --precision fp32"
        )

    def _last_good_one(self) -> str:
        good = checkpoint.checkpoints(self._run.folder.checkpoints)
        return f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._window_start += time.perf_counter() - start


def shared(run: Run) -> dict[str, Tensor]:
    """What is the same on all processes: weights, Adam's moments, and BatchNorm's statistics unless they are local."""
    local, state = run.config.recipe.batch_norm == "local", run.state
    networks = (
        ("generator", state.generator, state.optimizer_g),
        ("discriminator", state.discriminator, state.optimizer_d),
    )
    return {
        f"{label}.{name}": tensor
        for label, network, optimizer in networks
        for name, tensor in (
            *(network.named_parameters() if local else network.state_dict().items()),
            *moments(network, optimizer).items(),
        )
    }


def all_finite(network: nn.Module) -> bool:
    """Whether every number of a network is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
