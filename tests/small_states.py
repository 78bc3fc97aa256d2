"""Small training states: made, trained for a few steps, saved, loaded, and compared."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.step import TrainState, train_step
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.record import Progress

ARCH = architecture("dcgan16", width=4, latent_dim=6)


def fresh(plan: Plan = Plan(), arch: Architecture = ARCH, seed: int = 0) -> TrainState:  # noqa: B008
    return prepare(plan, *models.build(arch, seed), RecipeConfig(), torch.device("cpu"))


def train(state: TrainState, *steps: int) -> None:
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        real_BCHW = torch.rand(5, 3, 16, 16, generator=rng) * 2 - 1
        z_BL = torch.randn(5, 6, generator=rng)
        train_step(state, real_BCHW.contiguous(memory_format=torch.channels_last), z_BL)


def save(
    folder: Path,
    state: TrainState,
    arch: Architecture,
    progress: Progress,
    keep: int,
    *,
    keep_every: int | None = None,
    run: str | None = None,
) -> Path:
    snap = checkpoint.snapshot(state, arch, progress, run=run)
    return checkpoint.write(folder, snap, keep=keep, keep_every=keep_every)


def load(path: Path, state: TrainState, arch: Architecture, run: str | None = None) -> Progress:
    return checkpoint.restore(checkpoint.read(path, state, arch, run), state)


def load_generator(path: Path, generator: nn.Module, arch: Architecture, run: str | None = None) -> Progress:
    tensors, progress = checkpoint.read_generator(path, generator, arch, run)
    generator.load_state_dict(tensors)
    return progress


def everything(state: TrainState) -> dict[str, Any]:
    """All that a step changes, under names."""
    found: dict[str, Any] = {"scaler_d": state.scaler_d.state_dict(), "scaler_g": state.scaler_g.state_dict()}
    for label, network, optimizer in (
        ("G", state.generator, state.optimizer_g),
        ("D", state.discriminator, state.optimizer_d),
    ):
        found |= {f"{label}.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            found |= {f"{label}.{name}.{key}": t.clone() for key, t in optimizer.state[parameter].items()}
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) if isinstance(a[name], Tensor) else a[name] == b[name] for name in a
    )
