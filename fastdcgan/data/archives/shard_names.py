"""What stands for many shards: `train-{000..127}.tar`, `{train,extra}/*.tar`, or a folder of tar files."""

import glob
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastdcgan.data.folder import ENDINGS
from fastdcgan.storage.printable import printable

MAX_SHARDS = 1_000_000
"""More are not expanded: a slip of the hand in a range should not fill the memory."""

_TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst)(\.\w+)?$", re.IGNORECASE)
_BRACES = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}")
_WILD = re.compile(r"[*?[]")


def is_shards(spec: str) -> bool:
    """Whether a user's words name tar shards: by ending, braces or wildcards, or as a folder of tar files alone."""
    path = Path(spec).expanduser()
    try:
        # Not path.is_dir() and path.exists(): these raise where braces with many alternatives are too long for a name.
        if os.path.isdir(path):  # noqa: PTH112
            return _holds_shards(path)
        wild = bool(_BRACES.search(spec) or _WILD.search(spec))
        return bool(_TAR.search(spec)) or (wild and not os.path.exists(path))  # noqa: PTH110
    except OSError:
        return False


def expand(spec: str) -> list[str]:
    """The shards that a user's words name, in that order, each once.

    Args:
        spec: a path in which `{008..127}` stands for a range of numbers (all of one width if an end begins with a
            zero), `{a,b}` for alternatives, and `*`, `?`, `[...]` and `**` for what is there, ordered by name.
            A folder stands for the .tar files in it.

    Raises:
        ValueError: one of them is missing; naming the first that is.
    """
    path = Path(spec).expanduser()
    if os.path.isdir(path):  # noqa: PTH112
        return sorted(str(entry) for entry in path.iterdir() if entry.suffix.lower() == ".tar")
    if os.path.exists(path):  # noqa: PTH110
        return [str(path)]
    found: dict[str, str] = {}
    missing: list[str] = []
    patterns = _without_braces(str(path))
    for pattern in patterns:
        matches = _matches(pattern)
        if not matches:
            missing.append(pattern)
        for match in matches:
            found.setdefault(os.path.realpath(match), match)
    if missing:
        more = f" ({len(missing):,} of {len(patterns):,} are missing)" if len(patterns) > 1 else ""
        raise ValueError(f"no such shard: {printable(missing[0])}{more}")
    return list(found.values())


def absolute(spec: str) -> str:
    """The user's words with the folder that they begin with made absolute."""
    parts = Path(spec).expanduser().parts
    fixed = list(itertools.takewhile(lambda part: not _WILD.search(part) and "{" not in part, parts))
    return str(Path(*fixed).resolve().joinpath(*parts[len(fixed) :]))


def _holds_shards(folder: Path) -> bool:
    """Whether a folder holds tar files, and neither pictures nor folders."""
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(ENDINGS) or entry.is_dir():
                return False
            found |= entry.name.lower().endswith(".tar")
    return found


def _matches(pattern: str) -> list[str]:
    """Paths, ordered by name."""
    if Path(pattern).exists():
        return [pattern]
    # Path.glob doesn't take absolute patterns.
    return sorted(glob.glob(pattern, recursive=True)) if _WILD.search(pattern) else []  # noqa: PTH207


def _without_braces(spec: str) -> list[str]:
    """Every combination of what the braces stand for, the last changing fastest."""
    # `split` puts each match's three groups between the pieces: first, last, alternatives.
    begin, *rest = _BRACES.split(spec)
    choices: list[Sequence[str] | _Range] = [[begin]]
    for first, last, alternatives, piece in zip(*(rest[i::4] for i in range(4)), strict=True):
        choices += [_Range(first, last) if first else alternatives.split(","), [piece]]
    count = math.prod(len(choice) for choice in choices)
    if count > MAX_SHARDS:
        raise ValueError(f"{printable(spec)} stands for {count:,} shards; more than {MAX_SHARDS:,} are not opened")
    return ["".join(pieces) for pieces in itertools.product(*choices)]


class _Range:
    """`008..011`: upwards or downwards, both ends included."""

    def __init__(self, first: str, last: str) -> None:
        low, high = int(first), int(last)
        self.numbers = range(low, high + 1) if low <= high else range(low, high - 1, -1)
        padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
        self.width = max(len(first), len(last)) if padded else 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        return (str(number).zfill(self.width) for number in self.numbers)
