"""The folder of a run's checkpoints: their names, and the newest one that can be read."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PREFIX = "step-"

T = TypeVar("T")


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
