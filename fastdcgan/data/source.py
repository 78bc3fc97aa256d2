"""The protocol of all sources of pictures.

A source is a numbered set of pictures that can be read in any order. Epochs, shuffling and ranks are not its business:
`order.py` and `stream.py` derive them from (seed, step).
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from torch import Tensor

from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.hidden import HIDDEN_FILE, IN_HIDDEN_FOLDER
from fastdcgan.data.labels import Labels
from fastdcgan.storage.printable import printable

MOST_KINDS = 16
"""Files that are left out are counted by so many kinds, and the rest together."""

MOST_KINDS_NAMED = 4

SECOND_PICTURE = "continues the name of another picture, as x.seg.png that of x.jpg, so it is no second one"

COPY = "a copy of another picture, byte for byte"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that is not used, or several of one kind."""

    path: str
    reason: str
    """For the user, in a few words."""

    not_a_picture: bool = False
    """Neither its name nor its content is that of a picture: labels, archives and the like."""

    count: int = 1
    """How many files this stands for; `path` is the first."""

    hidden: str = ""
    """For hidden files and those of tools: the kind of name they are left out for (see `hidden.py`)."""


def is_passed_over(skip: Skipped) -> bool:
    """Whether it is a picture that could be used, but is left out by a rule."""
    return skip.reason in (SECOND_PICTURE, COPY)


def count_files(skipped: Iterable[Skipped]) -> int:
    """How many files are skipped."""
    return sum(skip.count for skip in skipped)


def describe_skipped(skip: Skipped) -> str:
    """The path and the reason, and how many more there are, in one line."""
    return f"{skip.path}{and_more(skip)}: {skip.reason}"


def and_more(skip: Skipped) -> str:
    """How many files it stands for beside the first, in brackets; "" for none."""
    return f" (and {skip.count - 1:,} more like it)" if skip.count > 1 else ""


def describe_hidden(skipped: Sequence[Skipped]) -> str:
    """ "12 files in hidden or tool folders (.git, __MACOSX), 1 hidden or tool file (._*)"; "" where there is none."""
    said = []
    for reason, one, several in (
        (IN_HIDDEN_FOLDER, "file in hidden or tool folders", "files in hidden or tool folders"),
        (HIDDEN_FILE, "hidden or tool file", "hidden or tool files"),
    ):
        counts: Counter[str] = Counter()
        for skip in skipped:
            if skip.hidden and skip.reason == reason:
                counts[skip.hidden] += skip.count
        if count := counts.total():
            kinds = [kind for kind, _ in counts.most_common(MOST_KINDS_NAMED)]
            kinds += ["..."] * (len(counts) > MOST_KINDS_NAMED)
            said.append(f"{count:,} {one if count == 1 else several} ({', '.join(map(printable, kinds))})")
    return ", ".join(said)


class SkippedCount:
    """Counts files by reason and kind: one by one, the labels of millions of pictures would take much memory."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[str, int]] = {}

    def add(self, name: str, reason: str, kind: str) -> None:
        """Count a file."""
        key = (reason, kind)
        if key not in self._found and len(self._found) >= MOST_KINDS:
            key = (reason, "")
        first, count = self._found.get(key, (name, 0))
        self._found[key] = (first, count + 1)

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        """The name of the first file of a reason and kind, the reason, how many they are."""
        return ((name, reason, count) for (reason, _), (name, count) in self._found.items())


def common_suffixes(skipped: Sequence[Skipped], limit: int = 4) -> str:
    """The commonest suffixes of files, as ".txt, .json, ..."; "" where none has one."""
    counts: Counter[str] = Counter()
    for skip in skipped:
        counts[PurePath(skip.path).suffix.lower()] += skip.count
    del counts[""]
    return ", ".join([suffix for suffix, _ in counts.most_common(limit)] + ["..."] * (len(counts) > limit))


class ImageSource(Protocol):
    """`len(source)` pictures, numbered from 0, all of one shape."""

    description: str
    """What it is and what decodes it, for the user: "8,000 images in /photos, decoded by DALI on the CPU"."""

    origin: str
    """Where the pictures come from, for the user and as the key of a pack: a path, or a data set's name."""

    skipped: Sequence[Skipped]
    """Files that can't be used, those with `not_a_picture` last."""

    value_range: ValueRange | None
    """What became 0 and 255, where the pictures were numbers of another range."""

    @property
    def labels(self) -> Labels | None:
        """Classes of the pictures, where they have some; found when they are first asked for."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the pictures, their order and the decoder's version: another one where any of them differs."""
        ...

    def __len__(self) -> int:
        """How many usable pictures there are."""
        ...

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """Decode pictures by number, one batch per entry of `batches`, in that order.

        Args:
            batches: picture numbers in [0, len(self)); may be endless, as it is consumed lazily, a few batches ahead
                of what is yielded. Batches may differ in length.

        Yields:
            uint8 [B, H, W, C] tensors on the source's device, which are never overwritten. Close the generator to stop
            decoding ahead.

        Raises:
            ValueError: a picture can't be read any more; naming its file.
        """
        ...
