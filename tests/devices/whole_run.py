"""A whole run on the stand-in device, or on the CPU, in a process of its own; what made the host wait, as data."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from torch import Tensor

from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.execution import plan, prepare
from fastdcgan.gan.step import TrainState
from fastdcgan.runs.checkpoints.tensors import moments
from fastdcgan.telemetry.report import end_of_run
from fastdcgan.training import announce, recorder, trainer
from fastdcgan.tuning import choice

BATCH = 4

PLACES = ("setup", "_write_real_grid", "tick", "check_state", "sample", "save", "load_last_checkpoint")
"""Functions of the package that may wait for the device. `STEPS` is all else."""

STEPS = ""

Plant = Callable[[pytest.MonkeyPatch], None]
"""Plants a fault in the package."""


@dataclass
class Ran:
    """What a run did."""

    waits: list[standin.Wait]
    tensors: dict[str, str]
    """Networks' and optimizers' tensors: where they were at the end."""

    devices_of_pictures: set[str]

    def count(self, place: str) -> Counter[str]:
        """How often the host waited in a place, by reason."""
        return Counter(wait.why for wait in self.waits if wait.place == place)


def begin() -> None:
    """In the new process."""
    torch.set_num_threads(1)
    standin.install()
    recorder.plot_losses = lambda records, path: path.touch()  # takes longer than all the rest of such a run


def pictures(folder: Path) -> Path:
    """40 pictures in a file of NumPy's."""
    path = folder / "pictures.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8))
    return path


def request(data: Path, out: Path, steps: int = 12, **options: Any) -> TrainConfig:
    """Of a small run: a tick every 5 steps, a grid and a checkpoint every 6."""
    own = {"precision", "accumulate", "objective", "data_memory"}
    execution: dict[str, Any] = {"precision": "fp32", **{n: v for n, v in options.items() if n == "precision"}}
    return TrainConfig(
        model=ModelConfig(arch="dcgan16", width=4),
        data=DataConfig(data=str(data), batch_size=BATCH, flip=True, data_memory=options.get("data_memory", 0)),
        recipe=RecipeConfig(accumulate=options.get("accumulate", 1), objective=options.get("objective", "bce")),
        execution=ExecutionConfig(plan="default", compile="off", threads=1, **execution),
        run=RunConfig(
            out=out,
            images=BATCH * steps,
            log_every=5,
            sample_every=6,
            checkpoint_every=6,
            track="none",
            quiet=True,
            **{name: value for name, value in options.items() if name not in own},
        ),
    )


def train(asked: TrainConfig, plant: Plant | None = None, device: str = standin.NAME) -> Ran:
    """Train, perhaps with a fault planted."""
    standin.waits = standin.Waits(PLACES)
    states: list[TrainState] = []
    pictures: set[str] = set()

    def seen(run: Any, *rest: Any) -> None:
        states.append(run.state)
        fit(run, *rest)

    def batches_seen(run: Any) -> Any:
        for batch in batches_of(run):
            pictures.update(str(tensor.device) for tensor in batch)
            yield batch

    fit, batches_of = trainer.fit, trainer.batches_of
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch, patch_environment(accelerate_torch_device=device):
        patch.setattr(trainer, "join", lambda request: Accelerator(mixed_precision="no", cpu=device == "cpu"))
        patch.setattr(trainer, "fit", seen)
        patch.setattr(trainer, "batches_of", batches_seen)
        patch.setattr(end_of_run, "device_ceilings", lambda device, seconds: None)
        if device == "cpu":  # as on the stand-in device: two calls of D, PyTorch's kernels, and casts that aren't kept
            patch.setattr(choice, "choose_plan", lambda *asked: replace(plan.choose_plan(*asked), stacked=False))
            patch.setattr(plan, "own_kernels", lambda device, precision: ())
            patch.setattr(announce, "why_no_kernels", lambda plan, device: "")  # would compile them to say that
            patch.setattr(prepare, "_autocast", autocast_without_cache)
        if plant:
            plant(patch)
        trainer.train(asked)
    return Ran(standin.waits.seen, places_of(states[-1]), pictures)


def autocast_without_cache(precision: plan.Precision, device: torch.device) -> Callable[[], Any]:
    """As `prepare._autocast`, but a weight that is used twice is cast twice, and its gradients are added in fp32."""
    return lambda: torch.autocast(device.type, plan.DTYPES[precision], enabled=precision != "fp32", cache_enabled=False)


def places_of(state: TrainState) -> dict[str, str]:
    """Each tensor that a checkpoint holds, and its device."""
    found: dict[str, Tensor] = {}
    for label, network, optimizer in (
        ("G", state.generator, state.optimizer_g),
        ("D", state.discriminator, state.optimizer_d),
    ):
        found |= {f"{label}.{name}": tensor for name, tensor in network.state_dict().items()}
        found |= moments(label, network, optimizer)
    assert state.average is not None
    found |= {f"average.{name}": tensor for name, tensor in state.average.network.state_dict().items()}
    return {name: str(tensor.device) for name, tensor in found.items()}
