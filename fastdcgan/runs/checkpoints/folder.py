"""The folder of a run's checkpoints: their names, which is the best, and the newest one that can be read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastdcgan.config import DEFAULT_METRIC, METRICS, MetricName
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.files import read_json
from fastdcgan.storage.printable import printable
from fastdcgan.storage.strict_json import is_number

PREFIX = "step-"

Named = Literal["latest", "best"] | int
"""A checkpoint as users say it: "latest", "best" or its step."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Best:
    """best.json: which checkpoint was found to be the best by an evaluation."""

    step: int
    metric: str
    """Of `value`, in words: the figure, the network, how many pictures of which weights."""

    value: float
    by: MetricName = DEFAULT_METRIC
    """The figure alone. Files from before there was a choice don't have it."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"{PREFIX}{step:08d}"


def step_in_name(path: Path) -> int | None:
    """The step in a checkpoint's name; None if the name is another one."""
    digits = path.name.removeprefix(PREFIX)
    return int(digits) if digits.isdecimal() else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders below `folder` that are named as checkpoints, by step. Their content isn't checked."""
    steps = ((step_in_name(path), path) for path in folder.glob(f"{PREFIX}*") if path.is_dir())
    return [path for _, path in sorted((step, path) for step, path in steps if step is not None)]


def read_newest(folder: Path, read: Callable[[Path], T]) -> tuple[T | None, list[str]]:
    """Read the newest checkpoint that can be read.

    Args:
        folder: of the run's checkpoints.
        read: reads a checkpoint, and raises ValueError where it can't be used.

    Returns:
        what `read` has returned, None if there are no checkpoints; and why each newer one was skipped, a line each.

    Raises:
        ValueError: there are checkpoints, and none can be used.
    """
    skipped: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return read(path), skipped
        except ValueError as error:
            skipped.append(str(error))
    if skipped:
        more = f" (and {len(skipped) - 1} more like it)" if len(skipped) > 1 else ""
        raise ValueError(
            f"no checkpoint in {folder} can be used: {skipped[0]}{more}. "
            "Put back a good copy, or move them away to begin again"
        )
    return None, []


def checkpoint_named(run: RunFolder, named: Named) -> Path:
    """Where a run's checkpoint is; whether it is whole isn't looked at.

    Raises:
        ValueError: there is none of that name; says which there are.
    """
    if isinstance(named, str) and named not in ("latest", "best"):  # from Python: the command line has refused it
        raise ValueError(f"--checkpoint {printable(named)}: must be latest, best or a step")
    saved = list_checkpoints(run.checkpoints)
    if named == "latest":
        if not saved:
            raise ValueError(f"{run.path} has no checkpoint yet")
        return saved[-1]
    step = read_best(run).step if named == "best" else named
    path = checkpoint_path(run.checkpoints, step)
    if not path.is_dir():
        there = ", ".join(str(step_in_name(path)) for path in saved)
        which = f"its best checkpoint, of step {step}," if named == "best" else f"a checkpoint of step {step}"
        raise ValueError(f"{run.path} doesn't have {which} but those of steps {there or '... none'}")
    return path


def read_best(run: RunFolder) -> Best:
    """Which checkpoint is the best. Raises ValueError where nothing says so."""
    try:
        found: Any = read_json(run.best)
        best = Best(**found)
    except FileNotFoundError as error:
        raise ValueError(
            f"{run.path} has no best.json: no evaluation has said which checkpoint is the best; name its step"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{run.best} can't be read: {printable(str(error))}") from error
    numbers = type(best.step) is int and is_number(best.value)
    if not numbers or best.step < 0 or not isinstance(best.metric, str) or best.by not in METRICS:
        raise ValueError(f"{run.best} can't be read: it names no step, metric and value")
    return best


def read_named(run: RunFolder, named: Named, read: Callable[[Path], T]) -> tuple[T | None, list[str]]:
    """Read a checkpoint by its name: that one, or for "latest" as `read_newest`. Raises ValueError."""
    if named == "latest":
        return read_newest(run.checkpoints, read)
    return read(checkpoint_named(run, named)), []
