"""What telemetry costs: training with figures, TensorBoard, run.log and the live view, against the same without.

Both take their steps in this process, with one state and one stream of batches between them. Sample grids and
checkpoints are left out, as they are of the images per second that a run states.

An effect of one percent may drown in a machine's noise. So what telemetry does is also timed on its own, and stated as
`counted_fraction` of the time that the steps take; the view's thread in full, though a step may go on meanwhile.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console
from torch import Tensor

from benchmarks.budget import Case
from benchmarks.conditions import device
from benchmarks.contenders import finisher
from benchmarks.measure import InProcess, take_turns
from benchmarks.results import throughput
from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.device import to_device
from fastdcgan.distributed.accelerator import join
from fastdcgan.execution.prepare import TakeStep, step_function
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import StepMetrics
from fastdcgan.runs.folder import RunFolder
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.telemetry.terminal.view import REFRESHES_PER_SECOND
from fastdcgan.training.recorder import Recorder
from fastdcgan.training.run import Run
from fastdcgan.training.setup import setup
from fastdcgan.training.trainer import noise
from fastdcgan.tuning.paired import time_call

IMAGES = 10**9
"""The run never ends."""

PAIRS = 40
"""An effect of one percent drowns in fewer."""


class Telemetry(Protocol):
    """What the loop of a run tells."""

    def waiting_for_data(self) -> AbstractContextManager[None]: ...
    def add(self, metrics: StepMetrics) -> None: ...
    def tick(self, step: int) -> None: ...


class Nothing:
    """Telemetry that is off."""

    def waiting_for_data(self) -> AbstractContextManager[None]:
        return nullcontext()

    def add(self, metrics: StepMetrics) -> None: ...
    def tick(self, step: int) -> None: ...


@dataclass
class Training:
    """The loop of a run as a contender; a step of it is as many as lie between two ticks."""

    run: Run
    batches: Iterator[Tensor]
    take_step: TakeStep
    telemetry: Telemetry
    display: Display | None
    taken: int = field(default=0, init=False)

    def time(self, steps: int) -> float:
        """See `measure.Contender`. The view's thread is at work only while it is this one's turn."""
        with self.display or nullcontext():
            return InProcess(self._until_tick, finisher(self.run.accelerator.device)).time(steps)

    def _until_tick(self) -> None:
        for _ in range(self.run.schedule.log_every):
            self.taken += 1
            with self.telemetry.waiting_for_data():
                real_BCHW = next(self.batches)
            z_BL = to_device(noise(self.run, self.taken), self.run.accelerator.device)
            self.telemetry.add(self.take_step(real_BCHW, z_BL))
        self.telemetry.tick(self.taken)


def counted(
    run: Run, recorder: Recorder, display: Display, take_step: Callable[[], StepMetrics], times: int = 25
) -> tuple[float, float]:
    """Seconds that the figures between two ticks take on their own, and a refresh of the view.

    Each after a step, which leaves the processor's caches as a run does: without it, they take half as long.
    """

    def figures() -> None:
        for _ in range(run.schedule.log_every):
            with recorder.waiting_for_data():
                pass
            recorder.add(metrics)
        recorder.tick(next(ticks))

    ticks = count(IMAGES, run.schedule.log_every)
    between, refreshing = [], []
    with display:
        for _ in range(times):
            metrics = take_step()
            between.append(time_call(figures))
            take_step()
            refreshing.append(time_call(display.refresh))
    return statistics.median(between), statistics.median(refreshing)


@contextmanager
def terminal() -> Iterator[Console]:
    """A large one with all colours, which shows nobody anything."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        yield Console(
            file=nowhere,
            force_terminal=True,
            color_system="truecolor",
            width=120,
            height=40,
            soft_wrap=True,
            highlight=False,
            _environ={"TERM": "xterm-256color"},
        )


@pytest.mark.case("telemetry")
@pytest.mark.extra
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize(("name", "batch"), [("dcgan28", 128), ("dcgan32", 16)], ids=["dcgan28", "dcgan32"])
def test_telemetry(benchmark: BenchmarkFixture, case: Case, tmp_path: Path, name: str, batch: int) -> None:
    """Default settings, on the largest terminal that pictures are drawn on. The batches are the architectures' own."""
    pictures = tmp_path / "pictures.npy"
    arch = architecture(name)
    shape = (10_000, *arch.resolution, arch.channels)
    np.save(pictures, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    config = TrainConfig(
        model=ModelConfig(arch=name),
        data=DataConfig(data=str(pictures), batch_size=batch),
        execution=ExecutionConfig(device="auto" if device().type == "cuda" else "cpu", plan="default"),
        run=RunConfig(out=tmp_path / "run", images=IMAGES),
    ).resolved()
    folder = RunFolder(tmp_path / "run")
    with terminal() as console:
        display = Display(console=console, log=RunLog(folder.log, may_create=folder.config.exists))
        run = setup(config, folder, join(config.execution), display)
        batching = Batching(seed=0, global_batch=batch)
        with (
            closing(real_batches(run.source, batching, run.accelerator.device)) as batches,
            closing(Recorder(run, display)) as recorder,
        ):
            take_step = step_function(run.plan, run.state)
            measured = take_turns(
                benchmark,
                {
                    "reference": Training(run, batches, take_step, Nothing(), None),
                    "ours": Training(run, batches, take_step, recorder, display),
                },
                case=case,
                turn_seconds=0.6,
                most_pairs=PAIRS,
            )
            case.say("timing it on its own")
            z_BL = to_device(noise(run, 1), run.accelerator.device)
            figures, refreshing = counted(run, recorder, display, lambda: take_step(next(batches), z_BL))
    between = measured.against("reference").reference_seconds
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="telemetry",
            case=f"{name}, batch {batch}",
            images=batch * run.schedule.log_every,
            plan=str(run.plan),
            tick_ms=round(1e3 * figures, 3),
            refresh_ms=round(1e3 * refreshing, 3),
            counted_fraction=round(figures / between + refreshing * REFRESHES_PER_SECOND, 5),
            arch=name,
            batch=batch,
        )
    )
