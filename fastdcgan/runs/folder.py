"""A run's folder: the paths in it, config.json, and whether a new request may continue the run."""

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fastdcgan import __version__
from fastdcgan.config import (
    ModelConfig,
    TrainConfig,
    differing_fields,
    differing_names,
    flat,
    from_flat,
    may_change,
)
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream
from fastdcgan.runs import origin
from fastdcgan.storage.files import (
    make_folder,
    nearest_existing,
    read_json,
    refuse_link,
    remove_unfinished,
    write_replacing,
)
from fastdcgan.storage.printable import printable

VALUE_RANGE = "value_range"
"""The condition that says which values of arrays became 0 and 255; None where they were bytes."""

BATCH_NAMED = "batch_size_named"
"""The condition that says whether the user gave --batch-size when the run was begun."""

BUDGET_NAMED = "budget_named"
"""The condition that says whether the user gave --images or --epochs, the last time that the run was asked for; else it
keeps what it was begun with."""

BEGUN_FROM = "begun_from"
"""The condition that says whose weights a run has begun with, as an `Ancestor`; None: new ones."""

NOISE = "noise"
"""The condition that names the stream of a step's noise; a run without it draws from `Stream.NOISE`."""

CHANGES = "changes"
"""The condition that lists with which options the run has gone on by --from-step, from which steps on."""

PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "nvidia-dali-cuda130",
    "safetensors",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The request, architecture, conditions and versions: all that is needed to repeat the run."""
        return self.path / "config.json"

    @property
    def lock(self) -> Path:
        """Locked by the process that trains here."""
        return self.path / ".lock"

    @property
    def metrics(self) -> Path:
        """A JSON line of figures every `--log-every` steps."""
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """A JSON line each time that the quality of pictures was measured."""
        return self.path / "evaluations.jsonl"

    @property
    def losses(self) -> Path:
        """The plot of the losses."""
        return self.path / "losses.png"

    @property
    def skipped(self) -> Path:
        """Files of the data that could not be used, with reasons."""
        return self.path / "skipped.txt"

    @property
    def real(self) -> Path:
        """A grid of training pictures, to compare the samples with."""
        return self.path / "real.png"

    @property
    def nearest(self) -> Path:
        """The samples of the last step beside the training pictures that they are nearest to; of small sets."""
        return self.path / "nearest.png"

    @property
    def nearest_record(self) -> Path:
        """How near they are."""
        return self.path / "nearest.json"

    @property
    def samples(self) -> Path:
        """Sample grids, always from the same noise, as step-<step>.png."""
        return self.path / "samples"

    @property
    def animation(self) -> Path:
        """The sample grids as an animation."""
        return self.path / "samples.webp"

    @property
    def report(self) -> Path:
        """The report, for a browser."""
        return self.path / "report.html"

    @property
    def end(self) -> Path:
        """How the run ended, and the machine's measured ceilings."""
        return self.path / "end.json"

    @property
    def log(self) -> Path:
        """The output of rank 0."""
        return self.path / "run.log"

    @property
    def logs(self) -> Path:
        """The output of the other ranks."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Which checkpoint an evaluation has found to be the best."""
        return self.path / "best.json"

    @property
    def set_aside(self) -> Path:
        """What came after steps that the run went back to: a numbered folder for each time."""
        return self.path / "set-aside"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        """The profiler's output."""
        return self.path / "profile"


class WriteError(ValueError):
    """A file of the run can't be written: the message says which and why, in one line."""


@contextmanager
def converting_write_errors(path: Path) -> Iterator[None]:
    """Raise errors of writing as a WriteError, which says in one line what can't be written and why.

    Args:
        path: named where the system's own error doesn't name a file.

    Raises:
        WriteError: the disk is full, read-only, gone ...
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors has the system's error only in its text
        reason = str(error) if isinstance(error, SafetensorError) else error.strerror or str(error)
        file = getattr(error, "filename", None) or path
        raise WriteError(f"can't write {os.fspath(file)}: {' '.join(reason.split())}") from error


def choose(config: TrainConfig, today: date, *, batch_named: bool = True) -> RunFolder:
    """The folder to run in: `--out`, else runs/<date>-<arch>, numbered where another run has that name.

    Today's run with the same configuration is chosen again, so that the same command continues an interrupted run. See
    `as_begun` for what fits any run.

    Raises:
        ValueError: `--out` isn't a folder, or holds a run that this one can't continue; names the fields that differ.
    """
    if config.run.out is not None:
        _check_can_continue(RunFolder(config.run.out), config, batch_named)
        return RunFolder(config.run.out)
    name = f"{today.isoformat()}-{config.model.arch}"
    number = 1
    while True:
        folder = RunFolder(Path("runs") / (name if number == 1 else f"{name}-{number}"))
        try:
            _check_can_continue(folder, config, batch_named)
        except ValueError:
            number += 1
            continue
        return folder


def as_begun(config: TrainConfig, folder: RunFolder, *, batch_named: bool = True) -> TrainConfig:
    """The request, with what a run that is there had: precision, batch and metric where the user names none, origin.

    Args:
        config: a resolved request.
        folder: of the run, if there is one yet.
        batch_named: whether the user gave --batch-size, this time.

    Raises:
        ValueError: the run's configuration can't be read.
    """
    if not folder.config.exists():
        return config
    former = read_config(folder)
    config = replace(
        config,
        run=replace(
            config.run,
            init_from=former.run.init_from,
            fresh_optimizer=former.run.fresh_optimizer,
            metric=config.run.metric or former.run.metric,
        ),
    )
    if config.execution.precision == "auto":
        config = replace(config, execution=replace(config.execution, precision=former.execution.precision))
    if not batch_named and read_condition(folder, BATCH_NAMED) is False:
        config = replace(config, data=replace(config.data, batch_size=former.data.batch_size))
    return config


def check_writable(folder: RunFolder) -> None:
    """Raises ValueError where `create` would fail. Nothing is made."""
    nearest = nearest_existing(folder.path)
    if not nearest.is_dir():
        raise ValueError(f"can't write to the output folder {folder.path}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"can't write to the output folder {folder.path}: no permission to write to {nearest}")


def create(folder: RunFolder) -> None:
    """Make the folder and its subfolders, and remove unfinished files. Raises ValueError if it can't be written."""
    try:
        for path in (folder.samples, folder.checkpoints):
            make_folder(path)
        for path in (folder.logs, folder.tensorboard, folder.profile):
            refuse_link(path)
        for path in (folder.path, folder.samples):
            remove_unfinished(path)
        probe = folder.path / ".writable"
        probe.unlink(missing_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"can't write to the output folder {folder.path}: {error.strerror}") from error


def write_config(folder: RunFolder, config: TrainConfig, arch: Architecture, conditions: dict[str, Any]) -> None:
    """Write config.json: the request, its architecture, and the conditions of the run."""
    record = {
        "config": flat(config),
        "architecture": arch.record(),
        "conditions": conditions,
        "versions": _versions(),
        "command": sys.argv,
    }
    write_replacing(folder.config, json.dumps(record, indent=2) + "\n")


def read_config(folder: RunFolder) -> TrainConfig:
    """The configuration of an existing run. Raises ValueError if it has none, or it can't be read."""
    if folder.path.suffix in (".pth", ".pt") and folder.path.is_file():
        out = Path("runs") / folder.path.stem
        raise ValueError(
            f"{folder.path} is a file of weights, not a run's folder: fastdcgan import {folder.path} --out {out}"
        )
    if not folder.path.is_dir():
        raise ValueError(f"no such run folder: {folder.path}")
    if not folder.config.is_file():
        raise ValueError(f"{folder.path} is not a run's folder: it has no config.json")
    try:
        config = from_flat(read_json(folder.config)["config"])
        if config.data.data is None:
            raise ValueError("its data can't be None")
        config.resolved()  # raises ValueError for impossible values
        return config
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder.config} can't be read: {printable(str(error))}") from error


def read_architecture(folder: RunFolder) -> Architecture:
    """The networks of an existing run, with the classes that it has learned. Raises ValueError as `read_config`."""
    model = read_config(folder).model
    if not model.conditional:
        return model.architecture()
    try:
        names = read_json(folder.config)["architecture"]["classes"]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("its classes are no names")
        return model.architecture().with_classes(names)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder.config} can't be read: {error}") from error


def value_range_of(folder: RunFolder) -> tuple[float, float] | None:
    """The data's values that a run has taken for black and white; None where they were bytes, or there is no run."""
    begun = read_condition(folder, VALUE_RANGE)
    if not (isinstance(begun, list) and len(begun) == 2 and all(type(value) in (int, float) for value in begun)):
        return None
    low, high = begun
    return (low, high) if -sys.float_info.max <= low < high <= sys.float_info.max else None


def read_condition(folder: RunFolder, name: str) -> object:
    """A condition in config.json, as of the last session; None if there is no run, or it has no such condition."""
    try:
        return read_json(folder.config)["conditions"][name]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def begun_config(request: TrainConfig) -> TrainConfig | None:
    """The configuration of the run that is gone on with, in --out, or begun with, by --init-from.

    None if there is none, or it can't be read, which `validate` says.
    """
    ancestor = request.run.init_from and origin.split(request.run.init_from)[0]
    for path in (request.run.out, ancestor):
        if path and RunFolder(path).config.exists():
            try:
                return read_config(RunFolder(path))
            except ValueError:
                return None
    return None


def noise_of(folder: RunFolder) -> Stream:
    """What a step's noise is drawn from in a run, or in a new one if there is none."""
    by_table = Stream.NOISE_BY_TABLE
    return by_table if read_condition(folder, NOISE) == by_table.name or not folder.config.exists() else Stream.NOISE


def run_id(folder: RunFolder) -> str | None:
    """The id that a run got when it was begun; None if there is no run, or an old one without an id."""
    found = read_condition(folder, "run_id")
    return found if isinstance(found, str) else None


def _check_can_continue(folder: RunFolder, config: TrainConfig, batch_named: bool) -> None:
    if folder.path.exists() and not folder.path.is_dir():
        raise ValueError(f"the output folder {folder.path} is a file")
    if not folder.config.exists():
        if config.run.from_step is not None:
            raise ValueError(f"--from-step {config.run.from_step}: {folder.path} holds no run that could go on")
        return
    if config.run.resume == "off":
        raise ValueError(f"{folder.path} already holds a run: choose another --out, or go on with --resume auto")
    former = read_config(folder)
    _check_origin(folder, former.run.init_from, config)
    now = as_begun(config, folder, batch_named=batch_named)
    differing = differing_names(former, now)
    if not differing or (config.run.from_step is not None and all(map(may_change, differing))):
        return
    raise ValueError(
        f"{folder.path} holds a run with another configuration ({'; '.join(differing_fields(former, now))}): the same "
        f"options go on with it; {_what_to_do_with(differing, folder)}"
    )


def _what_to_do_with(differing: Sequence[str], folder: RunFolder) -> str:
    """What to say for a run to go on, or to begin, with other options."""
    if all(map(may_change, differing)):
        return "so do these with --from-step latest; or choose another --out"
    if any(field.name in differing for field in fields(ModelConfig)):
        return "networks of another size begin anew: choose another --out"
    return f"these begin a new run with its weights by --init-from {folder.path} and another --out"


def _check_origin(folder: RunFolder, begun: str | None, config: TrainConfig) -> None:
    """Raises ValueError where a run has not begun with the weights that are asked for."""
    asked = config.run.init_from
    if origin.is_same(begun, asked) or (asked is None and config.run.out is not None):
        return
    if asked is not None and origin.split(asked)[0].absolute() == folder.path.absolute():
        raise ValueError(
            f"--init-from {asked} is the run in --out itself, which the same command without it goes on with: "
            "choose another --out to begin a new one with its weights"
        )
    raise ValueError(
        f"{folder.path} holds a run that has begun with {begun or 'new weights'}, not with {asked or 'new ones'}: "
        "choose another --out"
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform(), "fastdcgan": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
