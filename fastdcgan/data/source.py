"""The protocol of all sources of pictures.

A source is a numbered set of pictures that can be read in any order. Epochs, shuffling and ranks are not its business:
`order.py` and `stream.py` derive them from (seed, step).
"""

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that is not used, or several of one kind in an archive."""

    path: str
    reason: str
    """For the user, in a few words."""

    not_a_picture: bool = False
    """Neither its name nor its content is that of a picture: labels, archives and the like."""

    count: int = 1
    """How many files this stands for; `path` is the first."""


def count_files(skipped: Iterable[Skipped]) -> int:
    """How many files are skipped."""
    return sum(skip.count for skip in skipped)


def describe_skipped(skip: Skipped) -> str:
    """The path and the reason, and how many more there are, in one line."""
    more = f" (and {skip.count - 1:,} more in there)" if skip.count > 1 else ""
    return f"{skip.path}{more}: {skip.reason}"


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
