"""What a run has learned, on disk: written whole or not at all, and read without running any code from it.

A checkpoint is a sealed folder (`checksummed.py`) `step-00001000` with

    generator.safetensors       weights and BatchNorm buffers under the plain module's names
    discriminator.safetensors
    optimizer.safetensors       Adam's moments, as generator.<parameter>.exp_avg ...
    state.json                  run, step, images, seconds, architecture, plan, gradient scalers
    manifest.json               sizes and checksums of these

Noise and the order of the data are functions of the step, on any number of ranks: there is no more state than this.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.step import TrainState
from fastdcgan.storage import checksummed, strict_json
from fastdcgan.storage.checksummed import FileDigest

FORMAT, UNSEALED_FORMAT = 2, 1
"""Of format 1 are the checkpoints from before there were manifests: they load, but for their shapes unverified."""

GENERATOR, DISCRIMINATOR, OPTIMIZER, RECORD = FILES = (
    "generator.safetensors",
    "discriminator.safetensors",
    "optimizer.safetensors",
    "state.json",
)

MOST_RECORD_BYTES, MOST_HEADER_BYTES = 1 << 20, 1 << 20
"""Of state.json, and of what a safetensors file has beside its tensors: ours have a few thousand."""

_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "images": (int,),
    "seconds": (int, float),
    "rollbacks": (int,),
    "architecture": (dict,),
    "scaler_g": (dict,),
    "scaler_d": (dict,),
}

_CODES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
"""What safetensors calls the dtypes that networks and their optimizers have here."""

_PREFIX = "step-"

Tensors = dict[str, Tensor]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    """Time spent so far, over all sittings."""

    rollbacks: int = 0
    """How often the run went back to a checkpoint with new noise, after numbers that were not finite."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a checkpoint holds, in host memory, where no step changes it."""

    generator: Tensors
    discriminator: Tensors
    moments: Tensors
    """Of both optimizers; those of a network are missing if no update was made yet, as in fp16 all may overflow."""

    record: dict[str, Any]
    """state.json."""

    @property
    def progress(self) -> Progress:
        """Where the run was."""
        return _progress(self.record)

    @property
    def run(self) -> str | None:
        """The id of the run that it is of; None if it is of format 1, which has none."""
        return self.record.get("run")


def snapshot(
    state: TrainState, arch: Architecture, progress: Progress, *, run: str | None = None, plan: object = None
) -> Snapshot:
    """Copy what a checkpoint holds. The device is waited for.

    Args:
        state: what has been learned.
        arch: of its networks.
        progress: where the run is.
        run: its id.
        plan: its plan as JSON, for whoever reads it.
    """
    return Snapshot(
        generator=_copies(_weights(state.generator)),
        discriminator=_copies(_weights(state.discriminator)),
        moments=_copies(
            moments("generator", state.generator, state.optimizer_g)
            | moments("discriminator", state.discriminator, state.optimizer_d)
        ),
        record={
            "format": FORMAT,
            "run": run,
            **asdict(progress),
            "architecture": asdict(arch),
            "plan": plan,
            "scaler_g": state.scaler_g.state_dict(),
            "scaler_d": state.scaler_d.state_dict(),
        },
    )


def write(folder: Path, snap: Snapshot, *, keep: int, keep_every: int | None = None) -> Path:
    """Write a checkpoint below `folder`, then remove older ones. Callable from another thread than the steps'.

    Args:
        folder: of the run's checkpoints.
        snap: what to write.
        keep: how many of the newest that are whole to keep.
        keep_every: keep those whose step is a multiple of this, too.

    What is damaged, or of another run, does not count among the kept and is never removed: if its name is needed, it is
    set aside under another.

    Raises:
        ValueError: it can't be written. Those that were there are as they were.
    """
    step = snap.progress.step
    path = place(folder, step)
    try:
        checksummed.remove_unfinished(folder, _PREFIX)
        with checksummed.writing(path, replace=_is_whole(path, snap.run)) as unfinished:
            safetensors.torch.save_file(snap.generator, unfinished / GENERATOR)
            safetensors.torch.save_file(snap.discriminator, unfinished / DISCRIMINATOR)
            safetensors.torch.save_file(snap.moments, unfinished / OPTIMIZER)
            (unfinished / RECORD).write_text(json.dumps(snap.record, indent=2))
        _remove_older(path, snap.run, keep, keep_every)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"the checkpoint of step {step:,} can't be written to {folder}: {why}") from error
    return path


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
    """`write` a `snapshot`, here and now."""
    return write(folder, snapshot(state, arch, progress, run=run), keep=keep, keep_every=keep_every)


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"{_PREFIX}{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """What is named as a checkpoint below `folder`, oldest first."""
    named = (path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal())
    return sorted((path for path in named if path.is_dir()), key=_step)


def newest(folder: Path, read: Callable[[Path], T]) -> tuple[T | None, list[str]]:
    """The newest checkpoint that `read` takes for whole.

    Args:
        folder: of the run's checkpoints.
        read: `read` or `read_generator` of this module, with all but the path.

    Returns:
        what it has read, None if there are no checkpoints; and a line on each newer one, which names it and says what
        is wrong with it.

    Raises:
        ValueError: there are some, and none is whole.
    """
    passed_over: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return read(path), passed_over
        except ValueError as error:
            passed_over.append(str(error))
    if passed_over:
        more = f" (and {len(passed_over) - 1} more like it)" if len(passed_over) > 1 else ""
        raise ValueError(
            f"no checkpoint in {folder} can be used: {passed_over[0]}{more}. "
            "Put back a good copy, or move them away to begin again"
        )
    return None, []


def read(path: Path, state: TrainState, arch: Architecture, run: str | None = None) -> Snapshot:
    """A checkpoint that fits `state`, which is not changed.

    Raises:
        ValueError: it is damaged, or of another architecture or run than `run` (None: of any).
    """
    record, files = _open(path, arch, run)
    never_updated = []
    for network, name, scaler in (
        ("generator", "scaler_g", state.scaler_g),
        ("discriminator", "scaler_d", state.scaler_d),
    ):
        if scaler.is_enabled():
            _check_scaler(path, name, record[name], scaler.state_dict())
            never_updated.append(f"{network}.")
    wanted = {
        **_wanted_moments("generator", state.generator),
        **_wanted_moments("discriminator", state.discriminator),
    }
    return Snapshot(
        generator=_read_network(path, GENERATOR, files, state.generator),
        discriminator=_read_network(path, DISCRIMINATOR, files, state.discriminator),
        moments=_read_tensors(path, OPTIMIZER, files, wanted, may_lack=never_updated),
        record=record,
    )


def read_generator(
    path: Path, generator: nn.Module, arch: Architecture, run: str | None = None
) -> tuple[Tensors, Progress]:
    """A checkpoint's generator alone, which fits `generator`. Raises ValueError as `read` does."""
    record, files = _open(path, arch, run)
    return _read_network(path, GENERATOR, files, generator), _progress(record)


def restore(snap: Snapshot, state: TrainState) -> Progress:
    """Put what `read` has read for this `state` into it."""
    state.generator.load_state_dict(snap.generator)
    state.discriminator.load_state_dict(snap.discriminator)
    _restore_moments("generator", snap.moments, state.generator, state.optimizer_g)
    _restore_moments("discriminator", snap.moments, state.discriminator, state.optimizer_d)
    for scaler, name in ((state.scaler_g, "scaler_g"), (state.scaler_d, "scaler_d")):
        if scaler.is_enabled():
            scaler.load_state_dict(snap.record[name])
    return snap.progress


def load(path: Path, state: TrainState, arch: Architecture, run: str | None = None) -> Progress:
    """`read` a checkpoint and `restore` it: all of it or, if ValueError is raised, nothing."""
    return restore(read(path, state, arch, run), state)


def load_generator(path: Path, generator: nn.Module, arch: Architecture, run: str | None = None) -> Progress:
    """Put a checkpoint's generator into `generator`. Raises ValueError as `read` does."""
    tensors, progress = read_generator(path, generator, arch, run)
    generator.load_state_dict(tensors)
    return progress


def _step(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))


def _remove_older(just_written: Path, run: str | None, keep: int, keep_every: int | None) -> None:
    saved = checkpoints(just_written.parent)
    if len(saved) <= keep:
        return
    whole = 1
    for path in reversed(saved):
        if path == just_written:
            continue
        if whole < keep:
            whole += _is_whole(path, run)
        elif not (keep_every and _step(path) % keep_every == 0) and _is_whole(path, run):
            checksummed.remove(path)


def _is_whole(path: Path, run: str | None) -> bool:
    """Whether this is a checkpoint of a run, as it was written. One of format 1 can only be asked if it is readable."""
    try:
        _, files = _open_record(path, run)
        if files is not None:
            checksummed.check(path, files)
        else:
            for name in FILES[:-1]:
                safetensors.torch.load_file(path / name)
    except (ValueError, OSError, SafetensorError):
        return False
    return True


def _open(path: Path, arch: Architecture, run: str | None) -> tuple[dict[str, Any], dict[str, FileDigest] | None]:
    """The record, and what is known of the files (None: nothing, in format 1). Raises ValueError."""
    record, files = _open_record(path, run)
    # through JSON and back, so that tuples compare as the lists they become
    wanted = json.loads(json.dumps(asdict(arch)))
    found = record["architecture"]
    if differing := [name for name in wanted if found.get(name) != wanted[name]]:
        shown = [name for name in differing if name not in ("generator", "discriminator")] or differing
        raise ValueError(
            f"checkpoint {path} is of another architecture: "
            + ", ".join(f"{name} {found.get(name)} there, {wanted[name]} here" for name in shown)
        )
    return record, files


def _open_record(path: Path, run: str | None) -> tuple[dict[str, Any], dict[str, FileDigest] | None]:
    try:
        files = checksummed.read_manifest(path)
        if files is not None and files.keys() != set(FILES):
            raise ValueError(f"its {checksummed.MANIFEST} is of another kind of folder")
        text = checksummed.read(path / RECORD, files[RECORD] if files else None, MOST_RECORD_BYTES)
        try:
            record: dict[str, Any] = strict_json.parse(text)
        except ValueError as error:
            raise ValueError(f"its {RECORD} can't be read: {error}") from error
        _check_record(record, unsealed=files is None)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    named = path.name.removeprefix(_PREFIX)
    if named.isdecimal() and int(named) != record["step"]:
        raise ValueError(f"checkpoint {path} is not what its name says: it is of step {record['step']:,}")
    if run is not None and record.get("run") not in (run, None):
        raise ValueError(f"checkpoint {path} is of another run ({record['run']}, this is {run})")
    return record, files


def _check_record(record: Any, *, unsealed: bool) -> None:
    """Raises ValueError."""
    if not isinstance(record, dict) or record.get("format") not in (FORMAT, UNSEALED_FORMAT):
        raise ValueError(f"its {RECORD} is not of a format that this version reads ({UNSEALED_FORMAT}, {FORMAT})")
    if unsealed and record["format"] != UNSEALED_FORMAT:
        raise ValueError(f"its {checksummed.MANIFEST} is missing")
    record.setdefault("rollbacks", 0)  # checkpoints of before there were any
    for name, kind in _KINDS.items():
        # not isinstance: True is an int to it
        if type(record.get(name)) not in kind:
            raise ValueError(f"{name} is {_shown(record.get(name))} in its {RECORD}")
    for name in ("step", "images", "seconds", "rollbacks"):
        if not 0 <= record[name] < 2**63:
            raise ValueError(f"{name} is {_shown(record[name])} in its {RECORD}")
    if type(record.get("run")) not in (str, type(None)):
        raise ValueError(f"run is {_shown(record['run'])} in its {RECORD}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _check_scaler(path: Path, name: str, found: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises ValueError."""
    fits = found.keys() == ours.keys() and all(
        type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in found.values()
    )
    if not fits or not found["scale"] > 0:
        raise ValueError(f"checkpoint {path} has no usable {name}: it was not trained in fp16")


def _progress(record: dict[str, Any]) -> Progress:
    return Progress(
        step=record["step"], images=record["images"], seconds=record["seconds"], rollbacks=record["rollbacks"]
    )


def _copies(tensors: Tensors) -> Tensors:
    # safetensors keeps no strides: contiguous copies, whatever the layout in memory
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _weights(network: nn.Module) -> Tensors:
    weights: Tensors = network.state_dict()
    return weights


def moments(prefix: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """What Adam keeps of each parameter, as PREFIX.PARAMETER.exp_avg, .exp_avg_sq and .step."""
    return {
        f"{prefix}.{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _wanted_moments(prefix: str, network: nn.Module) -> Tensors:
    """Tensors of the dtypes and shapes that Adam's state of a network has."""
    return {
        f"{prefix}.{name}.{key}": like
        for name, parameter in network.named_parameters()
        for key, like in (("step", torch.empty(())), ("exp_avg", parameter), ("exp_avg_sq", parameter))
    }


def _restore_moments(prefix: str, moments: Tensors, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for name, parameter in network.named_parameters():
        saved = {key: moments.get(f"{prefix}.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
        # The moments take the parameter's layout: the fused update walks both in memory order.
        optimizer.state[parameter] = {
            key: value.to(parameter.device) if key == "step" else torch.empty_like(parameter).copy_(value)
            for key, value in saved.items()
            if value is not None
        }


def _read_network(path: Path, name: str, files: dict[str, FileDigest] | None, network: nn.Module) -> Tensors:
    """Raises ValueError."""
    tensors = _read_tensors(path, name, files, _weights(network))
    if bad := [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise ValueError(f"checkpoint {path} is damaged: {bad[0]} of its {name} has numbers that are not finite")
    return tensors


def _read_tensors(
    path: Path,
    name: str,
    files: dict[str, FileDigest] | None,
    wanted: Tensors,
    may_lack: Sequence[str] = (),
) -> Tensors:
    """All tensors of a file, which are those that are wanted by name, dtype and shape.

    Args:
        path: of the checkpoint.
        name: of the file.
        files: what its manifest says.
        wanted: tensors of the dtypes and shapes.
        may_lack: beginnings of names; of each, either all tensors are there or none.

    Raises:
        ValueError: they are not, or the file is damaged.
    """
    most = sum(tensor.nbytes for tensor in wanted.values()) + MOST_HEADER_BYTES
    try:
        data = checksummed.read(path / name, files[name] if files else None, most)
        header = _header(data, name)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    for beginning in may_lack:
        if not any(key.startswith(beginning) for key in header):
            wanted = {key: tensor for key, tensor in wanted.items() if not key.startswith(beginning)}
    for key in sorted(header.keys() | wanted.keys()):
        there = header.get(key, "missing")
        here = f"{_CODES[wanted[key].dtype]} {list(wanted[key].shape)}" if key in wanted else "unknown"
        if there != here:
            raise ValueError(
                f"checkpoint {path} does not fit: {_shown(key)} of its {name} is {there} there, {here} here"
            )
    try:
        tensors: Tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} is damaged: its {name} can't be read ({error})") from error
    return tensors


def _header(data: bytes, name: str) -> dict[str, str]:
    """What a safetensors file says that it holds: name -> dtype and shape in words. Raises ValueError."""
    length = int.from_bytes(data[:8], "little")
    try:
        if length > min(len(data) - 8, MOST_HEADER_BYTES):
            raise ValueError(f"a header of {length:,} bytes")
        header = strict_json.parse(data[8 : 8 + length])
        return {key: f"{of['dtype']} {of['shape']}" for key, of in header.items() if key != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its {name} is not a safetensors file") from error
