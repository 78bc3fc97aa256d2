"""What there is to know of a source before anything is trained on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fastdcgan.data.array import ArraySource, FittedSource
from fastdcgan.data.decoding.dali import DaliSource
from fastdcgan.data.decoding.encoded import EncodedPictures
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.pack import Pack, Standing, standing
from fastdcgan.data.source import ImageSource, Skipped
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable

SHEET = 64
"""Pictures on a contact sheet, at most."""

LOST_TO_CROP = 2
"""A picture with sides further apart than this loses more than half to the crop."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Encoded pictures, as they are before they are fitted. Sizes are width x height."""

    kinds: tuple[tuple[str, int], ...]
    """Formats and modes with their counts, the most frequent first."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    """By their number of pixels, then by width; each the size of an actual picture."""

    enlarged: int
    """How many have a side shorter than the resolution."""

    cropped: int
    """How many lose more than half of their pixels to the crop."""

    bytes: int
    """Of all files together."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Pictures that are an array already."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What `fastdcgan data` prints. Either `files` or `pixels` is known, or neither; never both."""

    source: str
    count: int
    resolution: int
    channels: int
    files: Files | None
    pixels: Pixels | None
    pack: Pack | None
    """None where the pictures are of the size asked for already."""
    standing: Standing | None
    skipped: tuple[Skipped, ...]


def describe(source: ImageSource, *, resolution: int, channels: int) -> Facts:
    """Collect the facts, without decoding anything.

    Args:
        source: as `open_source` gives it with cache="off".
        resolution: for which it was opened.
        channels: for which it was opened.
    """
    pack = None
    if not isinstance(source, ArraySource):
        pack = Pack(original=source, resolution=resolution, channels=channels)
    return Facts(
        source=source.description,
        count=len(source),
        resolution=resolution,
        channels=channels,
        files=describe_files(source.encoded, resolution) if isinstance(source, DaliSource | PillowSource) else None,
        pixels=_describe_array(source) if isinstance(source, ArraySource | FittedSource) else None,
        pack=pack,
        standing=standing(pack) if pack else None,
        skipped=tuple(source.skipped),
    )


def describe_files(encoded: EncodedPictures, resolution: int) -> Files:
    """Count kinds and sizes; about a second for a million pictures."""
    sizes = np.empty((len(encoded), 2), np.int64)
    kinds: Counter[str] = Counter()
    total_bytes = 0
    for number in range(len(encoded)):
        picture = encoded.examined(number)
        sizes[number] = picture.width, picture.height
        kinds[picture.kind] += 1
        total_bytes += picture.bytes
    shorter, longer = sizes.min(1), sizes.max(1)
    by_pixels = np.lexsort((sizes[:, 0], shorter * longer))
    smallest, median, largest = (
        (int(width), int(height)) for width, height in sizes[by_pixels[[0, (len(sizes) - 1) // 2, -1]]]
    )
    return Files(
        kinds=tuple(kinds.most_common()),
        smallest=smallest,
        median=median,
        largest=largest,
        enlarged=int((shorter < resolution).sum()),
        cropped=int((longer > LOST_TO_CROP * shorter).sum()),
        bytes=total_bytes,
    )


def contact_sheet(source: ImageSource) -> Tensor:
    """Up to 64 pictures evenly spread over the source, as training sees them: uint8 [N, H, W, C] on the CPU.

    Raises:
        ValueError: a file can't be read any more, naming it.
    """
    numbers = np.linspace(0, len(source) - 1, min(SHEET, len(source))).round().astype(int).tolist()
    (pictures_NHWC,) = source.read([numbers])
    return pictures_NHWC.cpu()


def by_reason(skipped: Sequence[Skipped]) -> list[tuple[str, list[str]]]:
    """Reasons and the files they hold for, the most frequent first."""
    paths: dict[str, list[str]] = {}
    for skip in skipped:
        paths.setdefault(skip.reason, []).append(skip.path)
    return sorted(paths.items(), key=lambda item: -len(item[1]))


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    """List files that can't be used, one a line, with reasons. Raises ValueError where that can't be written."""
    try:
        write_replacing(path, "".join(f"{skip.path!a}: {printable(skip.reason)}\n" for skip in skipped))
    except OSError as error:
        raise ValueError(f"can't write to {printable(path)}: {error.strerror or error}") from error


def _describe_array(source: ArraySource | FittedSource) -> Pixels:
    array = source.pictures_NHWC
    return Pixels(shape=array.shape, dtype=str(array.dtype), bytes=array.nbytes)
