"""What a run has learned, on disk: written whole or not at all, and read without running any code from it.

A checkpoint is a folder `step-00001000` with

    generator.safetensors       weights and BatchNorm buffers under the plain module's names
    discriminator.safetensors
    optimizer.safetensors       Adam's moments, as generator.<parameter>.exp_avg ...
    state.json                  step, images, seconds, architecture, gradient scalers
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastdcgan.architecture import Architecture
from fastdcgan.step import TrainState

FORMAT = 1

_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "images": (int,),
    "seconds": (int, float),
    "architecture": (dict,),
    "scaler_g": (dict,),
    "scaler_d": (dict,),
}

_PREFIX = "step-"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    """Time spent so far, over all sittings."""


def save(folder: Path, state: TrainState, arch: Architecture, progress: Progress, keep: int) -> Path:
    """Write a checkpoint below `folder`, then remove all but the newest `keep`.

    It is written beside its place and renamed when complete and flushed, so that a name is never half a checkpoint.
    """
    path = folder / f"{_PREFIX}{progress.step:08d}"
    for left_by_a_kill in folder.glob(f".{_PREFIX}*"):
        shutil.rmtree(left_by_a_kill)
    unfinished = folder / f".{path.name}"
    unfinished.mkdir(parents=True)
    save_file(_weights(state.generator), unfinished / "generator.safetensors")
    save_file(_weights(state.discriminator), unfinished / "discriminator.safetensors")
    save_file(
        {
            f"{label}.{name}": tensor.detach().cpu().contiguous()
            for label, network, optimizer in (
                ("generator", state.generator, state.optimizer_g),
                ("discriminator", state.discriminator, state.optimizer_d),
            )
            for name, tensor in moments(network, optimizer).items()
        },
        unfinished / "optimizer.safetensors",
    )
    record = {
        "format": FORMAT,
        **asdict(progress),
        "architecture": asdict(arch),
        "scaler_g": state.scaler_g.state_dict(),
        "scaler_d": state.scaler_d.state_dict(),
    }
    (unfinished / "state.json").write_text(json.dumps(record, indent=2))
    for file in unfinished.iterdir():
        _flush(file)
    if path.exists():  # the same step again, after going back to an older checkpoint
        shutil.rmtree(path)
    unfinished.rename(path)
    _flush(folder)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints below `folder`, oldest first."""
    named = (path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal())
    return sorted((path for path in named if path.is_dir()), key=lambda path: int(path.name.removeprefix(_PREFIX)))


def load(path: Path, state: TrainState, arch: Architecture) -> Progress:
    """Put a checkpoint's weights, optimizer and scaler state into `state`.

    Raises:
        ValueError: if it belongs to another architecture, or is damaged.
    """
    record = _read_record(path, arch)
    _load_weights(path / "generator.safetensors", state.generator)
    _load_weights(path / "discriminator.safetensors", state.discriminator)
    moments = _read_tensors(path / "optimizer.safetensors")
    _load_moments(path, "generator", moments, state.generator, state.optimizer_g)
    _load_moments(path, "discriminator", moments, state.discriminator, state.optimizer_d)
    for scaler, name in ((state.scaler_g, "scaler_g"), (state.scaler_d, "scaler_d")):
        if not scaler.is_enabled():
            continue
        try:
            scaler.load_state_dict(record[name])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"checkpoint {path} has no usable {name}: it was not trained in fp16") from error
    return _progress(record)


def load_generator(path: Path, generator: nn.Module, arch: Architecture) -> Progress:
    """Put a checkpoint's generator into `generator`. Raises ValueError as `load` does."""
    record = _read_record(path, arch)
    _load_weights(path / "generator.safetensors", generator)
    return _progress(record)


def moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What Adam keeps of each parameter, as PARAMETER.exp_avg, PARAMETER.exp_avg_sq and PARAMETER.step."""
    return {
        f"{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _read_record(path: Path, arch: Architecture) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint {path} can't be read: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path} is not of a format that this version reads ({FORMAT})")
    for name, kind in _KINDS.items():
        # not isinstance: True is an int to it
        if type(record.get(name)) not in kind:
            raise ValueError(f"checkpoint {path} is damaged: {name} is {record.get(name)!r} in its state.json")
    # through JSON and back, so that tuples compare as the lists they become
    wanted = json.loads(json.dumps(asdict(arch)))
    found = record["architecture"]
    if differing := [name for name in wanted if found.get(name) != wanted[name]]:
        shown = [name for name in differing if name not in ("generator", "discriminator")] or differing
        raise ValueError(
            f"checkpoint {path} is of another architecture: "
            + ", ".join(f"{name} {found.get(name)} there, {wanted[name]} here" for name in shown)
        )
    return record


def _progress(record: dict[str, Any]) -> Progress:
    return Progress(step=record["step"], images=record["images"], seconds=record["seconds"])


def _weights(network: nn.Module) -> dict[str, Tensor]:
    # safetensors keeps no strides: contiguous copies, whatever the layout in memory
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _load_weights(path: Path, network: nn.Module) -> None:
    try:
        network.load_state_dict(_read_tensors(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network: {str(error).splitlines()[-1].strip()}") from error


def _load_moments(
    path: Path, prefix: str, moments: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    for name, parameter in network.named_parameters():
        state: dict[str, Tensor] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            saved = moments.get(f"{prefix}.{name}.{key}")
            if saved is None or (key != "step" and saved.shape != parameter.shape):
                raise ValueError(f"checkpoint {path} does not fit: {prefix}.{name}.{key} is missing or misshapen")
            # The moments take the parameter's layout: the fused update walks both in memory order.
            state[key] = saved.to(parameter.device) if key == "step" else torch.empty_like(parameter).copy_(saved)
        optimizer.state[parameter] = state


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} can't be read ({error}): remove {path.parent} to go on from the checkpoint before it"
        ) from error


def _flush(path: Path) -> None:
    """Make sure that a file or folder has reached the disk. Windows has no such thing for folders: there we don't."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
