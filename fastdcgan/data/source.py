"""The one protocol that every source of images satisfies.

A source is a numbered set of pictures that can be read in any order. It knows nothing of epochs, shuffling, ranks or
devices: those are functions of (seed, step) and live in `order.py` and `stream.py`. Adding a source is one file.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that was left out, and why, in words for its owner."""

    path: str
    reason: str
    foreign: bool = False
    """Nobody takes it for a picture: labels, archives and the like that lie among pictures."""


def endings(skipped: Sequence[Skipped], most: int = 4) -> str:
    """What files are called, the commonest first, for people: ".txt, .json, ...", or "" where they have no endings."""
    counted = Counter(PurePath(skip.path).suffix.lower() for skip in skipped)
    del counted[""]
    return ", ".join([ending for ending, _ in counted.most_common(most)] + ["..."] * (len(counted) > most))


class ImageSource(Protocol):
    """`len(source)` pictures, numbered from 0, all of one size."""

    description: str
    """What it is and who decodes it, for people: "8,000 images in /photos, decoded by DALI on the CPU"."""

    origin: str
    """Where the pictures come from, for people and as a cache's key: a folder's path, or a data set's name."""

    skipped: Sequence[Skipped]
    """Files that could not be used, the foreign ones last."""

    @property
    def fingerprint(self) -> str:
        """The same only where the same pictures are given out, in the same order and decoded by the same program."""
        ...

    def __len__(self) -> int:
        """How many usable pictures there are."""
        ...

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """Decode pictures by number, one batch per entry of `batches`, in that order.

        Args:
            batches: picture numbers in [0, len(self)); consumed lazily, a few batches ahead of what is yielded, so an
                endless iterator is welcome. Every batch may have its own length.

        Yields:
            uint8 [B, H, W, C] tensors on the source's device that the caller owns (never overwritten later). Close the
            generator to stop decoding ahead.
        """
        ...
