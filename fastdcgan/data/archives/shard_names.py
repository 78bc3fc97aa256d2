"""Names of archives: `photos.zip`, shards as `train-{000..127}.tar`, `{train,extra}/*.tar`, or a folder of them."""

import glob
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastdcgan.data.decoding.formats import has_picture_suffix
from fastdcgan.storage.printable import printable

MAX_SHARDS = 1_000_000
"""More are not expanded: a typo in a range should not fill the memory."""

_ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst|zip)(\.\w+)?$", re.IGNORECASE)
_SHARD_SUFFIXES = (".tar", ".zip")
_BRACES = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}")
_WILDCARD = re.compile(r"[*?[]")


def names_shards(spec: str) -> bool:
    """Whether `spec` names archives: by suffix, braces or wildcards, or as a folder of only tar and zip files."""
    path = Path(spec).expanduser()
    try:
        # Not path.is_dir() and path.exists(), which raise where long braces exceed the limit of a file name.
        if os.path.isdir(path):  # noqa: PTH112
            return _holds_shards(path)
        wild = bool(_BRACES.search(spec) or _WILDCARD.search(spec))
        return bool(_ARCHIVE.search(spec)) or (wild and not os.path.exists(path))  # noqa: PTH110
    except OSError:
        return False


def expand_shards(spec: str) -> list[str]:
    """The paths of the shards that `spec` names, in its order, each once.

    Args:
        spec: a path in which `{008..127}` stands for a range of numbers (zero-padded to one width if an end begins with
            a zero), `{a,b}` for alternatives, and `*`, `?`, `[...]` and `**` for existing files, ordered by name.
            A folder stands for the .tar and .zip files in it.

    Raises:
        ValueError: one of them is missing; the message names the first.
    """
    path = Path(spec).expanduser()
    if os.path.isdir(path):  # noqa: PTH112
        return sorted(str(entry) for entry in path.iterdir() if entry.suffix.lower() in _SHARD_SUFFIXES)
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


def make_absolute(spec: str) -> str:
    """`spec` with its folder, up to the first wildcard or brace, made absolute."""
    parts = Path(spec).expanduser().parts
    fixed = list(itertools.takewhile(lambda part: not _WILDCARD.search(part) and "{" not in part, parts))
    return str(Path(*fixed).resolve().joinpath(*parts[len(fixed) :]))


def _holds_shards(folder: Path) -> bool:
    """Whether a folder holds archives, but no pictures or folders."""
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if has_picture_suffix(entry.name) or entry.is_dir():
                return False
            found |= entry.name.lower().endswith(_SHARD_SUFFIXES)
    return found


def _matches(pattern: str) -> list[str]:
    """Existing paths that match, ordered by name."""
    if Path(pattern).exists():
        return [pattern]
    # Path.glob doesn't take make_absolute patterns.
    return sorted(glob.glob(pattern, recursive=True)) if _WILDCARD.search(pattern) else []  # noqa: PTH207


def _without_braces(spec: str) -> list[str]:
    """Every combination of what the braces stand for, the last brace changing fastest."""
    # `split` returns each match's three groups between the pieces: first, last, alternatives.
    begin, *rest = _BRACES.split(spec)
    choices: list[Sequence[str] | _NumberRange] = [[begin]]
    for first, last, alternatives, piece in zip(*(rest[i::4] for i in range(4)), strict=True):
        choices += [_NumberRange(first, last) if first else alternatives.split(","), [piece]]
    count = math.prod(len(choice) for choice in choices)
    if count > MAX_SHARDS:
        raise ValueError(f"{printable(spec)} stands for {count:,} shards; more than {MAX_SHARDS:,} are not opened")
    return ["".join(pieces) for pieces in itertools.product(*choices)]


class _NumberRange:
    """`008..011`, ascending or descending, both ends included."""

    def __init__(self, first: str, last: str) -> None:
        low, high = int(first), int(last)
        self.numbers = range(low, high + 1) if low <= high else range(low, high - 1, -1)
        padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
        self.width = max(len(first), len(last)) if padded else 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        return (str(number).zfill(self.width) for number in self.numbers)
