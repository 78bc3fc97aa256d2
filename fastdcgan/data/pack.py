"""Packed pictures: decoded once into one file of pixels in the cache folder, and mapped into memory ever after.

A pack is an uint8 [N, H, W, C] `.npy` and a manifest beside it. The manifest is written last, in one step, and says
which source, as it was then, the pixels are of: without one that fits there is no pack. One process builds; those that
want the same pack at the same time wait for it. What a killed build leaves is written over by the next.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from fastdcgan.data.array import ArraySource, array_fingerprint
from fastdcgan.data.folder import OnProgress
from fastdcgan.data.numpy_file import map_pictures
from fastdcgan.data.source import ImageSource, Skipped
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.files import create, read_json, write_replacing

MAX_MANIFEST = 2**30
"""Bytes: it lists the files that are skipped, of which there may be millions."""

FORMAT = 1
"""Version of the manifest and of the rule below."""

RULE = "shorter side to the resolution, bilinear and antialiased; the square in the middle"

SHARE_OF_DISK = 0.5
"""Of what is free on the cache's disk, how much a pack may take that nobody asked for."""

BATCH = 64
"""Pictures decoded at a time. More are no faster, and DALI keeps room for several batches of whole pictures."""

Standing = Literal["whole", "outdated", "damaged", "missing"]
"""Of a pack. Outdated: of other pictures, or made by another version of a decoder or of this package."""


class NoRoomError(ValueError):
    """The pack can't be written: the message says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of a pack."""

    source: str
    fingerprint: str
    count: int
    resolution: int
    channels: int
    rule: str
    checksum: str
    mtime_ns: int
    skipped: tuple[Skipped, ...]
    format: int = FORMAT

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array."""
        return self.count, self.resolution, self.resolution, self.channels


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Where a source's pictures are packed, or would be."""

    original: ImageSource
    resolution: int
    channels: int

    @property
    def array(self) -> Path:
        """The pixels."""
        size = f"{self.resolution}x{self.resolution}x{self.channels}"
        key = hashlib.sha256(self.original.origin.encode()).hexdigest()[:16]
        name = "".join(c if c.isalnum() else "-" for c in Path(self.original.origin).name)[:40]
        return cache_folder() / "packs" / f"{name}-{key}-{size}.npy"

    @property
    def manifest(self) -> Path:
        """What they are of."""
        return self.array.with_suffix(".json")

    @property
    def bytes(self) -> int:
        """Of the pixels."""
        return len(self.original) * self.resolution**2 * self.channels


def packed(
    original: ImageSource,
    *,
    resolution: int,
    channels: int,
    share_of_disk: float = 1.0,
    verify: bool = False,
    on_progress: OnProgress | None = None,
) -> ArraySource:
    """A source's pictures from its pack, which is built now unless it is there.

    Args:
        original: decodes them.
        resolution: side of the pictures that it gives out.
        channels: of the pictures that it gives out.
        share_of_disk: how much of what is free on the disk the pack may take at most.
        verify: compare a pack that is there with its checksum, however untouched it looks.
        on_progress: called with ("packing images", done, total), and while another process packs the same.

    Raises:
        NoRoomError: there is no room for the pack, or it can't be written.
        ValueError: the original can't be read any more, naming the file.
    """
    pack = Pack(original=original, resolution=resolution, channels=channels)
    report = on_progress or (lambda what, done, total: None)
    try:
        pictures_NHWC = _finished(pack, verify=verify)
        if pictures_NHWC is None:
            pack.array.parent.mkdir(parents=True, exist_ok=True)
            with _alone(pack.array.with_suffix(".lock"), report):
                pictures_NHWC = _finished(pack, verify=verify)
                if pictures_NHWC is None:
                    _check_room(pack, share_of_disk)
                    _build(pack, report)
                    pictures_NHWC = _finished(pack, verify=False)
    except OSError as error:
        raise NoRoomError(
            f"the packed pictures can't be written to {pack.array.parent}: {error.strerror or error}; "
            "set FASTDCGAN_CACHE to a folder that can be written, or train with --data-cache off"
        ) from error
    assert pictures_NHWC is not None, pack.array
    return ArraySource(
        pictures_NHWC,
        description=f"{original.description}, packed in {pack.array}",
        origin=original.origin,
        fingerprint=original.fingerprint,
        skipped=original.skipped,
    )


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What was done to have a pack."""

    found: Standing
    """What was there before."""

    seconds: float | None
    """How long decoding took; None where nothing was decoded here."""


def pack_by_hand(pack: Pack, on_progress: OnProgress | None = None) -> Packing:
    """See to it that a pack is whole: compare all of it with its checksum, and build it anew unless it fits.

    Raises: as `packed`.
    """
    found = standing(pack, verify=True)
    if found == "whole":
        return Packing(found=found, seconds=None)
    began, built = time.monotonic(), False

    def report(what: str, done: int, total: int) -> None:
        nonlocal began, built
        if what == "packing images":
            built = True
        else:
            began = time.monotonic()  # it waited for another process till now
        if on_progress is not None:
            on_progress(what, done, total)

    packed(
        pack.original, resolution=pack.resolution, channels=pack.channels, verify=found == "damaged", on_progress=report
    )
    return Packing(found=found, seconds=time.monotonic() - began if built else None)


def standing(pack: Pack, *, verify: bool = False) -> Standing:
    """Whether a pack is there, and of what the source holds now.

    Args:
        pack: which.
        verify: compare its pixels with its checksum, however untouched they look.
    """
    if _finished(pack, verify=verify) is not None:
        return "whole"
    if not pack.manifest.exists():
        return "missing"
    manifest = read_manifest(pack.manifest)
    return "damaged" if manifest is not None and _fits(manifest, pack) else "outdated"


def read_manifest(path: Path) -> Manifest | None:
    """A manifest; None where it is missing, damaged, or of another version."""
    try:
        fields: dict[str, Any] = read_json(path, MAX_MANIFEST)
        skipped = tuple(Skipped(**skip) for skip in fields.pop("skipped"))
        manifest = Manifest(**fields, skipped=skipped)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return manifest if manifest.format == FORMAT else None


def _finished(pack: Pack, *, verify: bool) -> NDArray[np.uint8] | None:
    """The pack's pixels; None where it isn't there, is of other pictures, or damaged."""
    manifest = read_manifest(pack.manifest)
    if manifest is None or not _fits(manifest, pack):
        return None
    try:
        pictures_NHWC, _ = map_pictures(pack.array, "")
        touched = pack.array.stat().st_mtime_ns != manifest.mtime_ns
    except (OSError, ValueError):
        return None
    wanted = (len(pack.original), pack.resolution, pack.resolution, pack.channels)
    if not pictures_NHWC.shape == manifest.shape == wanted:
        return None
    if (touched or verify) and array_fingerprint(pictures_NHWC) != manifest.checksum:
        return None
    _ask_for(pack.array)
    return pictures_NHWC


def _ask_for(path: Path) -> None:
    """Have the system read a file into its cache while we do something else: from end to end, not at random."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _fits(manifest: Manifest, pack: Pack) -> bool:
    return (manifest.fingerprint, manifest.rule) == (pack.original.fingerprint, RULE)


def _build(pack: Pack, report: OnProgress) -> None:
    """Decode everything into a file, flush it to the disk, give it its name, and then write the manifest."""
    count, shape = len(pack.original), (len(pack.original), pack.resolution, pack.resolution, pack.channels)
    pack.manifest.unlink(missing_ok=True)
    unfinished = pack.array.with_suffix(".unfinished")
    digest = hashlib.sha256(repr(shape).encode())
    try:
        with create(unfinished) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            done = 0
            with closing(pack.original.read(_in_order(count))) as batches:
                for pictures_BHWC in batches:
                    # Written and not mapped: a disk that is full is then an error, and no signal that kills.
                    pixels = pictures_BHWC.numpy().data
                    file.write(pixels)
                    digest.update(pixels)
                    done += len(pictures_BHWC)
                    report("packing images", done, count)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(pack.array)
    finally:
        unfinished.unlink(missing_ok=True)
    manifest = Manifest(
        source=pack.original.origin,
        fingerprint=pack.original.fingerprint,
        count=count,
        resolution=pack.resolution,
        channels=pack.channels,
        rule=RULE,
        checksum=digest.hexdigest(),
        mtime_ns=pack.array.stat().st_mtime_ns,
        skipped=tuple(pack.original.skipped),
    )
    write_replacing(pack.manifest, json.dumps(asdict(manifest), indent=2) + "\n")


def _in_order(count: int) -> Generator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


def _check_room(pack: Pack, share_of_disk: float) -> None:
    """Raises NoRoomError."""
    free = shutil.disk_usage(pack.array.parent).free
    if pack.bytes > share_of_disk * free:
        share = "what" if share_of_disk == 1 else f"{share_of_disk:.0%} of what"
        raise NoRoomError(
            f"the packed pictures would take {_in_words(pack.bytes)}, more than {share} is free in "
            f"{pack.array.parent} ({_in_words(free)}); set FASTDCGAN_CACHE to a folder on a larger disk, "
            "or train with --data-cache off"
        )


def _in_words(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"


@contextmanager
def _alone(path: Path, report: OnProgress) -> Generator[None]:
    """Hold a lock that ends with the process, whatever ends it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        report("waiting for another process that packs these images", 0, 1)
        lock.acquire()
        report("waiting for another process that packs these images", 1, 1)
    try:
        yield
    finally:
        lock.release()
