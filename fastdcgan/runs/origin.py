"""Whose weights a run begins with, as users say it: RUN, RUN@STEP or RUN@best."""

from dataclasses import dataclass
from pathlib import Path

NAMES = ("latest", "best")


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """What config.json says of the checkpoint that a run began with."""

    run: str
    """Its folder, as the user has named it."""

    run_id: str | None
    step: int
    images: int
    moments: bool
    """Whether Adam's moments were taken over too."""


def split(text: str) -> tuple[Path, str]:
    """The run's folder and the checkpoint's name in it: a step, "latest" or "best"; without a name "latest"."""
    path, at, name = text.rpartition("@")
    if at and (name in NAMES or (name.isascii() and name.isdecimal())) and not Path(text).exists():
        return Path(path), name
    return Path(text), "latest"


def is_same(begun: str | None, asked: str | None) -> bool:
    """Whether a run that has begun with one may go on where the other is asked for: then both may be the same step."""
    if begun is None or asked is None:
        return begun is asked
    (run, step), (run_asked, name) = split(begun), split(asked)
    return run == run_asked and (name in NAMES or name == step)
