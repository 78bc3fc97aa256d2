"""Pictures that are there more than once, byte for byte: found, and left out where that is asked for."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdcgan.data.array import ArraySource, ResizedSource
from fastdcgan.data.arrays.numpy_folder import NumpyFolderSource
from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.decoding.dali import DaliSource
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.folder import OnProgress
from fastdcgan.data.labels import Labels, labels_from_numbers
from fastdcgan.data.source import COPY, ImageSource, Skipped
from fastdcgan.storage import strict_json
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached
from fastdcgan.storage.wording import counted

FORMAT = 1
"""Version of what is cached, and of which pictures count as copies."""


@dataclass(frozen=True)
class Copies:
    """Which pictures have the same bytes as an earlier one."""

    copies: NDArray[np.int64]
    """Their numbers, ascending."""

    originals: NDArray[np.int64]
    """The first picture with the bytes of each."""

    name: Callable[[int], str]
    """What a picture is called, for the user."""

    def __len__(self) -> int:
        """How many pictures could be left out."""
        return len(self.copies)

    def example(self) -> str:
        """The first copy and its original; "" where there is none."""
        return f"{self.name(int(self.copies[0]))} of {self.name(int(self.originals[0]))}" if len(self) else ""


def find_copies(source: ImageSource, on_progress: OnProgress | None = None) -> Copies:
    """Compare pictures by their bytes: of files only those that have the same size. The result is cached.

    Args:
        source: not packed.
        on_progress: called with ("looking for copies", done, total), unless it is cached.

    Raises:
        ValueError: a picture can't be read any more; naming its file.
    """
    candidates, read, name = _ways_to_read(source)
    path = cache_folder() / "copies" / hashlib.sha256(os.fsencode(source.origin)).hexdigest()[:24]
    pairs = _load(path, source)
    if pairs is None:
        first: dict[bytes, int] = {}
        pairs = []
        for done, number in enumerate(candidates, start=1):
            digest = hashlib.blake2b(read(number), digest_size=16).digest()
            original = first.setdefault(digest, number)
            if original != number:
                pairs.append((number, original))
            if on_progress is not None:
                on_progress("looking for copies", done, len(candidates))
        found = {"format": FORMAT, "fingerprint": source.fingerprint, "pairs": pairs}
        write_cached(path, json.dumps(found).encode())
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return Copies(table[:, 0], table[:, 1], name)


def without_copies(source: ImageSource, on_progress: OnProgress | None = None) -> ImageSource:
    """The source without the pictures that are copies; itself where there are none. Raises as `find_copies`."""
    found = find_copies(source, on_progress)
    if not len(found):
        return source
    skipped = [Skipped(path=found.name(number), reason=COPY) for number in found.copies.tolist()]
    return SubsetSource(source, np.delete(np.arange(len(source)), found.copies), skipped)


class SubsetSource:
    """An `ImageSource` of some of another one's pictures.

    Args:
        source: all of them.
        numbers: which of these are left, ascending.
        left_out: the others.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]
    value_range: ValueRange | None

    def __init__(self, source: ImageSource, numbers: NDArray[np.int64], left_out: Sequence[Skipped]) -> None:
        self.source, self.numbers = source, numbers
        copies = counted(len(left_out), "copy", "copies")
        self.description = f"{source.description}; {copies} left out, {len(numbers):,} used"
        self.origin = f"{source.origin} without copies"
        self.skipped = sorted([*left_out, *source.skipped], key=lambda skip: skip.not_a_picture)
        self.value_range = source.value_range

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        labels = self.source.labels
        return labels and labels_from_numbers(labels.numbers[self.numbers], labels.classes)

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        return f"{hashlib.sha256(self.numbers.tobytes()).hexdigest()} of {self.source.fingerprint}"

    def __len__(self) -> int:
        """How many are left."""
        return len(self.numbers)

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`."""
        return self.source.read(self.numbers[list(batch)].tolist() for batch in batches)


def _ways_to_read(source: ImageSource) -> tuple[Sequence[int], Callable[[int], bytes], Callable[[int], str]]:
    """Numbers of the pictures that may be copies; a picture's bytes, and its name, by number."""
    if isinstance(source, DaliSource | PillowSource):
        sizes = [source.encoded.info(number).bytes for number in range(len(source))]
        common = Counter(sizes)
        candidates = [number for number, size in enumerate(sizes) if common[size] > 1]
        return candidates, source.encoded.read_bytes, source.encoded.name
    if isinstance(source, NumpyFolderSource):
        return range(len(source)), source.read_bytes, source.name
    assert isinstance(source, ArraySource | ResizedSource), source
    pictures_NHWC = source.pictures_NHWC
    return range(len(source)), lambda number: pictures_NHWC[number].tobytes(), "picture {:,}".format


def _load(path: Path, source: ImageSource) -> list[tuple[int, int]] | None:
    """The cached pairs of copies and originals; None where there are none of this source."""
    try:
        found = strict_json.parse(read_cached(path) or b"{}")
        if (found.get("format"), found["fingerprint"]) != (FORMAT, source.fingerprint):
            return None
        pairs = [(int(copy), int(original)) for copy, original in found["pairs"]]
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return None
    return pairs if all(0 <= original < copy < len(source) for copy, original in pairs) else None
