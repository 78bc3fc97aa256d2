"""Checkpoints: written whole or not at all, and read without running any code from them.

A checkpoint is a checksummed folder (`storage/checksummed.py`) `step-00001000` with

    generator.safetensors       weights and BatchNorm buffers under the plain module's names
    average.safetensors         of the generator's moving average likewise, if the run has one
    discriminator.safetensors
    optimizer.safetensors       Adam's moments, as generator.<parameter>.exp_avg ...
    state.json                  run, step, images, seconds, architecture, plan, gradient scalers
    manifest.json               sizes and checksums of these

There is no other state: noise and the order of the data are functions of the step, on any number of ranks.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.step import TrainState
from fastdcgan.runs.checkpoints.folder import PREFIX, checkpoint_path, list_checkpoints, step_in_name
from fastdcgan.runs.checkpoints.record import (
    AVERAGE_FILE,
    DISCRIMINATOR_FILE,
    FILES,
    GENERATOR_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    Progress,
    check_architecture,
    make_record,
    read_record,
)
from fastdcgan.runs.checkpoints.tensors import (
    Tensors,
    cpu_copies,
    like_moments,
    moments,
    read_network,
    read_tensors,
    restore_moments,
    weights,
)
from fastdcgan.storage import checksummed
from fastdcgan.storage.checksummed import FileDigest
from fastdcgan.storage.strict_json import is_number


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A checkpoint's content in host memory, which later steps don't change."""

    generator: Tensors
    discriminator: Tensors
    average: Tensors | None
    """Of the generator; None: there is none."""

    moments: Tensors
    """Of both optimizers; those of a network are missing if no update was made yet, as in fp16 all may overflow."""

    record: dict[str, Any]
    """state.json."""

    @property
    def progress(self) -> Progress:
        """How far the run had come."""
        return Progress.of(self.record)

    @property
    def run(self) -> str | None:
        """The id of its run; None in format 1."""
        return self.record.get("run")


def snapshot(
    state: TrainState, arch: Architecture, progress: Progress, *, run: str | None = None, plan: object = None
) -> Snapshot:
    """Copy the training state to host memory. Waits for the device.

    Args:
        state: networks, optimizers and gradient scalers.
        arch: of the networks.
        progress: how far the run has come.
        run: its id.
        plan: its plan as JSON. Nothing reads it back.
    """
    return Snapshot(
        generator=cpu_copies(weights(state.generator)),
        discriminator=cpu_copies(weights(state.discriminator)),
        average=cpu_copies(weights(state.average.network)) if state.average else None,
        moments=cpu_copies(
            moments("generator", state.generator, state.optimizer_g)
            | moments("discriminator", state.discriminator, state.optimizer_d)
        ),
        record=make_record(
            arch, progress, run, plan, scaler_g=state.scaler_g.state_dict(), scaler_d=state.scaler_d.state_dict()
        ),
    )


def write(
    folder: Path, snap: Snapshot, *, keep: int, keep_every: int | None = None, best_step: int | None = None
) -> Path:
    """Write a checkpoint below `folder`, then remove older ones. Any thread may call it.

    Damaged checkpoints and those of other runs don't count among the kept and are never removed. Where one has the
    name that is needed, it is set aside under another.

    Args:
        folder: of the run's checkpoints.
        snap: what to write.
        keep: how many of the newest intact ones to keep.
        keep_every: keep those whose step is a multiple of this, too.
        best_step: keep the one of this step, too.

    Raises:
        ValueError: it can't be written. The older ones are as they were.
    """
    step = snap.progress.step
    path = checkpoint_path(folder, step)
    try:
        checksummed.remove_unfinished(folder, PREFIX)
        with checksummed.writing(path, replace=_is_intact(path, snap.run)) as unfinished:
            safetensors.torch.save_file(snap.generator, unfinished / GENERATOR_FILE)
            safetensors.torch.save_file(snap.discriminator, unfinished / DISCRIMINATOR_FILE)
            safetensors.torch.save_file(snap.moments, unfinished / OPTIMIZER_FILE)
            if snap.average is not None:
                safetensors.torch.save_file(snap.average, unfinished / AVERAGE_FILE)
            (unfinished / STATE_FILE).write_text(json.dumps(snap.record, indent=2))
        _remove_older(path, snap.run, keep, keep_every, best_step)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"the checkpoint of step {step:,} can't be written to {folder}: {why}") from error
    return path


def read(
    path: Path, state: TrainState, arch: Architecture, run: str | None = None, *, scalers: bool = True
) -> Snapshot:
    """Read a checkpoint that fits `state`, without changing `state`.

    Args:
        path: of the checkpoint.
        state: says which names, dtypes and shapes the tensors must have.
        arch: of its networks.
        run: the run's id; None: of any run.
        scalers: whether those of fp16 must be in it, where `state` has some: not for `begin`.

    Raises:
        ValueError: it is damaged, or of another architecture or run.
    """
    record, manifest = read_record(path, run)
    check_architecture(path, record, arch)
    may_have_no_update = [] if scalers else ["generator.", "discriminator."]
    for network, name, scaler in (
        ("generator", "scaler_g", state.scaler_g),
        ("discriminator", "scaler_d", state.scaler_d),
    ):
        if scalers and scaler.is_enabled():
            _check_scaler(path, name, record[name], scaler.state_dict())
            may_have_no_update.append(f"{network}.")
    expected = like_moments("generator", state.generator) | like_moments("discriminator", state.discriminator)
    return Snapshot(
        generator=read_network(path, GENERATOR_FILE, manifest, state.generator),
        discriminator=read_network(path, DISCRIMINATOR_FILE, manifest, state.discriminator),
        average=read_network(path, AVERAGE_FILE, manifest, state.generator) if has_average(manifest) else None,
        moments=read_tensors(path, OPTIMIZER_FILE, manifest, expected, may_have_no_update),
        record=record,
    )


def read_generator(
    path: Path, generator: nn.Module, arch: Architecture, run: str | None, *, raw: bool = False
) -> tuple[Tensors, Progress]:
    """Read only what pictures are made with from a checkpoint.

    Args:
        path: of the checkpoint.
        generator: gives the shapes.
        arch: of its networks.
        run: as in `read`.
        raw: the generator itself, although there is an average of it.

    Raises:
        ValueError: as `read` does.
    """
    record, manifest = read_record(path, run)
    check_architecture(path, record, arch)
    file = AVERAGE_FILE if has_average(manifest) and not raw else GENERATOR_FILE
    return read_network(path, file, manifest, generator), Progress.of(record)


def has_average(manifest: dict[str, FileDigest] | None) -> bool:
    """Whether a checkpoint holds a moving average of the generator."""
    return manifest is not None and AVERAGE_FILE in manifest


def restore(snap: Snapshot, state: TrainState) -> Progress:
    """Load into `state` what `read` has read for it: all of it."""
    begin(snap, state, moments=True)
    for scaler, name in ((state.scaler_g, "scaler_g"), (state.scaler_d, "scaler_d")):
        if scaler.is_enabled():
            scaler.load_state_dict(snap.record[name])
    return snap.progress


def begin(snap: Snapshot, state: TrainState, *, moments: bool) -> None:
    """Load into `state` the weights of what `read` has read for it, and Adam's moments."""
    state.generator.load_state_dict(snap.generator)
    state.discriminator.load_state_dict(snap.discriminator)
    if state.average:
        # A run that had none before goes on with one that begins here.
        state.average.network.load_state_dict(snap.generator if snap.average is None else snap.average)
    if moments:
        restore_moments("generator", snap.moments, state.generator, state.optimizer_g)
        restore_moments("discriminator", snap.moments, state.discriminator, state.optimizer_d)


def _check_scaler(path: Path, name: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises ValueError."""
    fits = found.keys() == expected.keys() and all(is_number(value) and value >= 0 for value in found.values())
    if not fits or not found["scale"] > 0:
        raise ValueError(f"checkpoint {path} has no usable {name}: it was not trained in fp16")


def _remove_older(
    just_written: Path, run: str | None, keep: int, keep_every: int | None, best_step: int | None
) -> None:
    saved = list_checkpoints(just_written.parent)
    if len(saved) <= keep:
        return
    intact = 1
    for path in reversed(saved):
        if path == just_written:
            continue
        if intact < keep:
            intact += _is_intact(path, run)
            continue
        step = step_in_name(path)
        kept = step == best_step or (keep_every and (step or 0) % keep_every == 0)
        if not kept and _is_intact(path, run):
            checksummed.remove(path)


def _is_intact(path: Path, run: str | None) -> bool:
    """Whether this is an undamaged checkpoint of a run. Of format 1, which has no checksums: whether it is readable."""
    try:
        _, manifest = read_record(path, run)
        if manifest is not None:
            checksummed.check(path, manifest)
        else:
            for name in FILES[:-1]:
                safetensors.torch.load_file(path / name)
    except (ValueError, OSError, SafetensorError):
        return False
    return True
