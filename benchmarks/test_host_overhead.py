"""What the host does at each iteration beside the step: the trainer's own loop, with a step that does nothing.

Once with the pictures of the data, mirrored, and once with one batch that is ready, again and again: the loop beside
the pictures, with its noise, figures, metrics file and run.log. Sample grids and checkpoints are left out. The pictures
are read from a file as a pack's are, and in the page cache. G's average is the one arithmetic that is not the step's:
it is in the loop, and left out in cases of their own.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.budget import Case
from benchmarks.conditions import cores, device
from benchmarks.measure import take_turns
from benchmarks.results import overhead
from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.distributed.accelerator import join
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import StepMetrics
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.signals import StopRequests
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training import trainer
from fastdcgan.training.run import Run
from fastdcgan.training.setup import setup

PICTURES = 10_000

NEVER = 10**9
"""Steps until the run ends, or writes pictures or a checkpoint."""


class _Enough(BaseException):
    """Ends the trainer's loop without a checkpoint. It, and `take_turns`, take Exceptions for failures."""


@dataclass
class Loop:
    """The trainer's loop as a contender; a step of it is as many iterations as lie between two ticks."""

    run: Run
    batches_of: Callable[[Run], Generator[tuple[Tensor, ...]]]
    display: Display
    processor_seconds: list[float] = field(default_factory=list, init=False)
    """Of an iteration, in each turn: of all this process's threads."""

    def time(self, steps: int) -> float:
        """See `Contender.time`. The clock runs from the first call of the step on: what opens the loop is left out."""
        iterations = steps * self.run.schedule.log_every
        nothing = StepMetrics(*torch.zeros(len(StepMetrics._fields), device=self.run.accelerator.device))
        calls = count()
        readings: list[tuple[float, float]] = []

        def do_nothing(real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
            call = next(calls)
            if call in (0, iterations):
                readings.append((time.perf_counter(), time.process_time()))
            if call == iterations:
                raise _Enough
            return nothing

        with mock.patch.object(trainer, "batches_of", self.batches_of), suppress(_Enough):
            trainer.take_steps(self.run, do_nothing, StopRequests(0.0), self.display)
        (start, processor_start), (end, processor_end) = readings
        self.processor_seconds.append((processor_end - processor_start) / iterations)
        return end - start


def one_ready_batch(run: Run) -> Callable[[Run], Generator[tuple[Tensor, ...]]]:
    """The first batch of the data, again and again, in place of `trainer.batches_of`."""
    with closing(trainer.batches_of(run)) as batches:
        batch = next(batches)

    def batches_of(run: Run) -> Generator[tuple[Tensor, ...]]:
        while True:
            yield batch

    return batches_of


@contextmanager
def busy_programs() -> Iterator[None]:
    """One for each core, which computes all the time."""
    with ExitStack() as running:
        for _ in range(cores()):
            program = running.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            running.callback(program.kill)
        yield


@pytest.fixture
def run_and_display(tmp_path: Path, name: str, batch: int, beside: str) -> Iterator[tuple[Run, Display]]:
    """A run after its first thousand steps, which has told what it tells in the beginning."""
    arch = architecture(name)
    pictures = tmp_path / "pictures.npy"
    shape = (PICTURES, *arch.resolution, arch.channels)
    np.save(pictures, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    config = TrainConfig(
        model=ModelConfig(arch=name),
        recipe=RecipeConfig(ema=0.0) if "no average" in beside else RecipeConfig(),
        data=DataConfig(data=str(pictures), batch_size=batch, flip=True),
        execution=ExecutionConfig(device="auto" if device().type == "cuda" else "cpu", plan="default"),
        run=RunConfig(
            out=tmp_path / "run", images=NEVER * batch, sample_every=NEVER, checkpoint_every=NEVER, quiet=True
        ),
    ).resolved()
    folder = RunFolder(tmp_path / "run")
    with Display(quiet=True, log=RunLog(folder.log, may_create=folder.config.exists)) as display:
        run = setup(config, folder, join(config.execution), display)
        yield replace(run, start=Progress(step=1000, images=1000 * batch, seconds=0.0)), display


@pytest.mark.case("host overhead", weight=0.2)
@pytest.mark.extra
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("beside", ["quiet", "quiet, no average", "busy", "busy, no average"])
@pytest.mark.parametrize("batch", [128, 1024])
@pytest.mark.parametrize("name", ["dcgan28", "dcgan64"])
def test_host_overhead(
    benchmark: BenchmarkFixture, case: Case, run_and_display: tuple[Run, Display], name: str, batch: int, beside: str
) -> None:
    """Default settings, and flips. Where it is busy, one program more for each core wants to compute."""
    run, display = run_and_display
    with_pictures = Loop(run, trainer.batches_of, display)
    ready = Loop(run, one_ready_batch(run), display)
    with busy_programs() if "busy" in beside else nullcontext():
        measured = take_turns(benchmark, {"with pictures": with_pictures, "ours": ready}, case=case)
    benchmark.extra_info.update(
        overhead(
            measured,
            in_all="with pictures",
            suite="host overhead",
            case=f"{name}, batch {batch}, {beside}",
            iterations=run.schedule.log_every,
            processor_microseconds=round(1e6 * median(ready.processor_seconds), 1),
            processor_microseconds_in_all=round(1e6 * median(with_pictures.processor_seconds), 1),
            plan=str(run.plan),
            arch=name,
            batch=batch,
        )
    )
