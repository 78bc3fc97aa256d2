"""What was found of one thing, as plain data."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    """What it is: a word or two."""

    found: str
    """What is there, and whether it is used."""

    advice: str = ""
    """What would be better, and how to have it; empty if it is as good as can be."""

    broken: bool = False
    """Whether training needs it and can't have it."""

    details: dict[str, Any] = field(default_factory=dict)
    """Numbers behind it, as JSON has them."""


def first_line(error: BaseException) -> str:
    """An exception in a line: its type, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
