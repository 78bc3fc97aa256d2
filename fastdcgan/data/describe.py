"""Facts about a source: kinds and sizes of its files, skipped files, its pack, a contact sheet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdcgan.data.array import ArraySource, ResizedSource
from fastdcgan.data.decoding.dali import DaliSource
from fastdcgan.data.decoding.encoded import EncodedPictures
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.duplicates import Copies, SubsetSource
from fastdcgan.data.labels import Labels
from fastdcgan.data.pack import Pack, PackStatus, pack_status
from fastdcgan.data.source import ImageSource, Skipped, and_more, count_files, is_passed_over
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable

CONTACT_SHEET_PICTURES = 64
"""At most."""

MUCH_CUT = 0.3
"""Share of a picture, in the mean, that a crop cuts off with a remark: 4:3 to a square has none, 3:2 has one."""

MOST_MEASURED = 10_000
"""Pictures that this is measured of."""


@dataclass(frozen=True, kw_only=True)
class ShapeStatistics:
    """How far pictures have the shape of the frame: 1 where both sides have the same ratio (see `Frame.agreement`)."""

    others: int
    """How many have another shape."""

    mean: float
    """Of the agreement."""

    least: float

    below_half: int
    """How many lose more than half of their pixels to a crop."""


@dataclass(frozen=True, kw_only=True)
class FileStatistics:
    """Statistics of encoded picture files. Sizes are (width, height) in pixels, before resizing."""

    kinds: tuple[tuple[str, int], ...]
    """Formats and modes with their counts, the most frequent first."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    """Ordered by number of pixels, then by width; each is the size of an actual picture."""

    enlarged: int
    """How many are smaller than what they are resized to."""

    shapes: ShapeStatistics

    bytes: int
    """Of all files together."""


@dataclass(frozen=True, kw_only=True)
class ArrayInfo:
    """An array of pictures."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    shapes: ShapeStatistics


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What `fastdcgan data` prints. At most one of `files` and `pixels` is known."""

    source: str
    count: int
    frame: Frame
    channels: int
    files: FileStatistics | None
    pixels: ArrayInfo | None
    pack: Pack | None
    """None where the pictures are an array of the size asked for, which needs no pack."""

    pack_status: PackStatus | None
    skipped: tuple[Skipped, ...]
    labels: Labels | None = None
    copies: Copies | None = None
    """None where it wasn't looked for any."""


def describe(source: ImageSource, *, frame: Frame, channels: int, copies: Copies | None = None) -> SourceFacts:
    """Collect the facts about a source, without decoding anything.

    Args:
        source: as `open_source` gives it with cache="off".
        frame: with which it was opened.
        channels: with which it was opened.
        copies: what `find_copies` has found, where it was called.
    """
    pack = None
    whole = source.source if isinstance(source, SubsetSource) else source
    if not isinstance(source, ArraySource):
        pack = Pack(original=source, frame=frame, channels=channels)
    return SourceFacts(
        source=source.description,
        count=len(source),
        frame=frame,
        channels=channels,
        files=describe_files(whole.encoded, frame) if isinstance(whole, DaliSource | PillowSource) else None,
        pixels=_describe_array(whole, frame) if isinstance(whole, ArraySource | ResizedSource) else None,
        pack=pack,
        pack_status=pack_status(pack) if pack else None,
        skipped=tuple(source.skipped),
        labels=source.labels,
        copies=copies,
    )


def facts_as_json(facts: SourceFacts) -> dict[str, Any]:
    """The facts as plain data, for other programs."""
    files = asdict(facts.files) if facts.files else None
    if files:
        files["kinds"] = dict(files["kinds"])
    labels, pack = facts.labels, facts.pack
    return {
        "source": facts.source,
        "pictures": facts.count,
        "size": list(facts.frame.size),
        "channels": facts.channels,
        "files": files,
        "array": asdict(facts.pixels) if facts.pixels else None,
        "classes": labels and dict(zip(labels.classes, labels.counts(), strict=True)),
        "copies": None if facts.copies is None else len(facts.copies),
        "pack": pack and {"path": str(pack.array), "status": facts.pack_status, "bytes": pack.bytes},
        "skipped": [
            {
                "path": skip.path,
                "reason": skip.reason,
                "files": skip.count,
                "kind": _kind_of(skip),
            }
            for skip in facts.skipped
        ],
    }


def _kind_of(skip: Skipped) -> str:
    if skip.hidden:
        return "hidden"
    return "no picture" if skip.not_a_picture else "passed over" if is_passed_over(skip) else "unusable"


def describe_files(encoded: EncodedPictures, frame: Frame) -> FileStatistics:
    """Count kinds and sizes of picture files; about a second for a million."""
    sizes = np.empty((len(encoded), 2), np.int64)
    kinds: Counter[str] = Counter()
    total_bytes = 0
    for number in range(len(encoded)):
        picture = encoded.info(number)
        sizes[number] = picture.width, picture.height
        kinds[picture.kind] += 1
        total_bytes += picture.bytes
    by_pixels = np.lexsort((sizes[:, 0], sizes.prod(1)))
    below = sizes < (frame.size.width, frame.size.height)
    smallest, median, largest = (
        (int(width), int(height)) for width, height in sizes[by_pixels[[0, (len(sizes) - 1) // 2, -1]]]
    )
    return FileStatistics(
        kinds=tuple(kinds.most_common()),
        smallest=smallest,
        median=median,
        largest=largest,
        enlarged=int((below.all(1) if frame.fit == "pad" else below.any(1)).sum()),
        shapes=_shapes(sizes, frame),
        bytes=total_bytes,
    )


def crop_remark(source: ImageSource, frame: Frame) -> str:
    """How much a crop cuts off, for the description of a source, where that is much; of many pictures, of a part."""
    if frame.fit != "crop":
        return ""
    if isinstance(source, ResizedSource):
        height, width = source.pictures_NHWC.shape[1:3]
        sizes = [(width, height)]
    elif isinstance(source, DaliSource | PillowSource):
        numbers = np.linspace(0, len(source) - 1, min(MOST_MEASURED, len(source))).round().astype(int).tolist()
        sizes = [source.encoded.info(number)[:2] for number in numbers]
    else:
        return ""
    cut = 1 - _shapes(np.array(sizes, np.int64), frame).mean
    if cut <= MUCH_CUT:
        return ""
    return f" ({cut:.0%} of a picture is cut off to make it {frame.size}; see --fit, and fastdcgan data)"


def contact_sheet(source: ImageSource) -> Tensor:
    """Up to 64 pictures evenly spread over the source, as training sees them: uint8 [N, H, W, C] on the CPU.

    Raises:
        ValueError: a picture can't be read any more; naming its file.
    """
    numbers = np.linspace(0, len(source) - 1, min(CONTACT_SHEET_PICTURES, len(source))).round().astype(int).tolist()
    (pictures_NHWC,) = source.read([numbers])
    return pictures_NHWC.cpu()


def group_by_reason(skipped: Sequence[Skipped]) -> list[tuple[str, list[Skipped]]]:
    """Each reason with its files, the most frequent first."""
    groups: dict[str, list[Skipped]] = {}
    for skip in skipped:
        groups.setdefault(skip.reason, []).append(skip)
    return sorted(groups.items(), key=lambda item: -count_files(item[1]))


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    """Write a list of skipped files, a line each, with reasons. Raises ValueError where it can't be written."""
    try:
        write_replacing(path, "".join(map(_skipped_line, skipped)))
    except OSError as error:
        raise ValueError(f"can't write to {printable(path)}: {error.strerror or error}") from error


def _skipped_line(skip: Skipped) -> str:
    return f"{skip.path!a}{and_more(skip)}: {printable(skip.reason)}\n"


def _describe_array(source: ArraySource | ResizedSource, frame: Frame) -> ArrayInfo:
    array = source.pictures_NHWC
    height, width = array.shape[1:3]
    shapes = _shapes(np.array([[width, height]]), frame, each=len(array))
    return ArrayInfo(shape=array.shape, dtype=str(array.dtype), bytes=array.nbytes, shapes=shapes)


def _shapes(sizes_N2: NDArray[np.int64], frame: Frame, each: int = 1) -> ShapeStatistics:
    """Of pictures of these (width, height), `each` of every one."""
    across_N, down_N = (sizes_N2 * frame.size).T
    agreement_N = np.minimum(across_N, down_N) / np.maximum(across_N, down_N)
    return ShapeStatistics(
        others=each * int((agreement_N < 1).sum()),
        mean=float(agreement_N.mean()),
        least=float(agreement_N.min()),
        below_half=each * int((agreement_N < 0.5).sum()),
    )
