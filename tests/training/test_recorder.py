"""When a run waits for its device: at its ticks, and where it samples and saves; nowhere in between."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastdcgan.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.data.array import ArraySource
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan import models
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import RunFolder, create, write_config
from fastdcgan.storage.signals import stop_requests
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training import trainer
from fastdcgan.training.recorder import Recorder
from fastdcgan.training.run import Run, Schedule

CPU = torch.device("cpu")

LOOKS = ("tick", "sample", "save", "check_state", "_write_real_grid")
"""What of the recorder may look at numbers."""

FETCHES = ("item", "tolist", "cpu", "__bool__", "__float__", "__int__")
"""Methods of tensors that wait for a device (`numpy` needs `cpu` first). On the CPU some are not dispatched."""


class Fetched(TorchDispatchMode):
    """Where a single number was taken out of a tensor, in C++ too."""

    def __init__(self, seen: Callable[[str], None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            self._seen(str(function))
        return function(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Collects what is fetched in this thread, as (method of the recorder or "the step", by what)."""
    found: list[tuple[str, str]] = []
    thread, where = threading.get_ident(), ["the step"]

    def seen(what: str) -> None:
        if threading.get_ident() == thread:
            found.append((where[-1], what))

    def looking(name: str) -> None:
        method = getattr(Recorder, name)

        def inside(*arguments: Any, **options: Any) -> None:
            where.append(name)
            try:
                method(*arguments, **options)
            finally:
                where.pop()

        monkeypatch.setattr(Recorder, name, inside)

    def fetching(name: str) -> None:
        method = getattr(Tensor, name)

        def fetch(self: Tensor, *arguments: Any, **more: Any) -> Any:
            seen(name)
            return method(self, *arguments, **more)

        monkeypatch.setattr(Tensor, name, fetch)

    for name in LOOKS:
        looking(name)
    for name in FETCHES:
        fetching(name)
    with Fetched(seen):
        yield found


def tiny_run(folder: Path, steps: int) -> Run:
    config = TrainConfig(
        model=ModelConfig(arch="dcgan16", width=4),
        data=DataConfig(batch_size=4),
        run=RunConfig(out=folder, images=4 * steps, log_every=5),
    ).resolved()
    arch = config.model.architecture()
    source = ArraySource(np.zeros((40, 16, 16, 3), np.uint8), description="", origin="", fingerprint="")
    run_folder = RunFolder(folder)
    create(run_folder)
    write_config(run_folder, config, arch, {})
    accelerator = SimpleNamespace(
        device=CPU,
        is_main_process=True,
        num_processes=1,
        process_index=0,
        reduce=lambda tensor, how: tensor,
        wait_for_everyone=lambda: None,
    )
    return Run(
        config=config,
        arch=arch,
        folder=run_folder,
        accelerator=accelerator,  # type: ignore[arg-type]
        source=source,
        plan=Plan(),
        id="a",
        why_this_plan="",
        state=prepare(Plan(), *models.build(arch, seed=0), config.recipe, CPU),
        schedule=Schedule.of(config, len(source)),
        start=Progress(),
    )


def test_no_number_leaves_the_device_outside_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", steps=20)
    with watched(monkeypatch) as fetched, Display(visible=False) as display, stop_requests() as stop:
        trainer.fit(run, stop, display)
    assert {place for place, _ in fetched} >= {"tick", "sample", "check_state"}, "the watch sees nothing"
    assert [found for found in fetched if found[0] == "the step"] == []


def test_a_step_that_fetches_a_number_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    run = tiny_run(tmp_path / "run", steps=5)
    add = Recorder.add

    def add_and_look(self: Recorder, metrics: Any) -> None:
        add(self, metrics)
        assert metrics.loss_d > -1

    monkeypatch.setattr(Recorder, "add", add_and_look)
    with watched(monkeypatch) as fetched, Display(visible=False) as display, stop_requests() as stop:
        trainer.fit(run, stop, display)
    assert len([found for found in fetched if found[0] == "the step"]) >= 5
