"""Packs: pictures decoded once into one file of pixels in the cache folder, which is read from then on.

A pack is a `.npy`, uint8 [N, H, W, C], and a JSON manifest beside it. The manifest is written last, in one step, with
the fingerprint of the source; a pack without a manifest that fits is not used. One process builds a pack, and others
that want it at the same time wait. The next one removes what a killed build has left.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastdcgan.data.array import ArraySource, array_checksum
from fastdcgan.data.arrays.npy_pictures import NpyPictures, open_npy
from fastdcgan.data.decoding.fitting import Fit, Frame
from fastdcgan.data.folder import OnProgress
from fastdcgan.data.source import ImageSource, Skipped
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.files import create, read_json, write_replacing
from fastdcgan.storage.locks import Timeout, held

MAX_MANIFEST_BYTES = 2**30
"""It lists the skipped files, of which there may be millions."""

FORMAT = 1
"""Version of the manifest and of RESIZE_RULES."""

RESIZE_RULES: dict[Fit, str] = {
    "crop": "shorter side to the resolution, bilinear and antialiased; the square in the middle",
    "pad": "scaled to fit, bilinear and antialiased; in the middle of black",
    "stretch": "both sides scaled to their lengths, bilinear and antialiased",
}
"""By fit. That of a crop is worded as in packs from before there were others than squares."""

MAX_DISK_SHARE = 0.5
"""With `cache="auto"`: how much of the cache disk's free space a pack may take."""

BUILDS = 3
"""Times that a pack is built which is gone before it can be opened: the cache folder was removed, with the lock in it,
or the disk has no locks, and another version of this package builds its own in the same place."""

BATCH = 64
"""Pictures decoded at a time. More are no faster, and DALI keeps several batches of full-size pictures in memory."""

PackStatus = Literal["whole", "outdated", "damaged", "missing"]
"""`outdated`: of other pictures, or made by another version of a decoder or of this package."""


class PackWriteError(ValueError):
    """There is no room for a pack, or it can't be written: the message says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A pack's JSON manifest."""

    source: str
    fingerprint: str
    count: int
    resolution: int | str
    """`Size.short` of the pictures."""

    channels: int
    rule: str
    checksum: str
    mtime_ns: int
    skipped: tuple[Skipped, ...]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Pack:
    """The pack of a source at a size, whether it exists or not."""

    original: ImageSource
    frame: Frame
    channels: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array: [N, H, W, C]."""
        return self.frame.shape(len(self.original), self.channels)

    @property
    def array(self) -> Path:
        """The path of the pixels."""
        size = f"{self.frame.size}x{self.channels}" + ("" if self.frame.fit == "crop" else f"-{self.frame.fit}")
        key = hashlib.sha256(self.original.origin.encode()).hexdigest()[:16]
        name = "".join(c if c.isalnum() else "-" for c in Path(self.original.origin).name)[:40]
        return cache_folder() / "packs" / f"{name}-{key}-{size}.npy"

    @property
    def manifest(self) -> Path:
        """The path of the manifest."""
        return self.array.with_suffix(".json")

    @property
    def bytes(self) -> int:
        """Size of the pixels."""
        return math.prod(self.shape)


def open_packed(
    original: ImageSource,
    *,
    frame: Frame,
    channels: int,
    share_of_disk: float = 1.0,
    verify: bool = False,
    on_progress: OnProgress | None = None,
) -> ArraySource:
    """Open the pack of a source; it is built unless there is one that fits.

    Args:
        original: the source.
        frame: what its pictures are brought to.
        channels: of its pictures.
        share_of_disk: how much of the disk's free space a new pack may take, 0 to 1.
        verify: compare an existing pack with its checksum even if its time of modification is unchanged.
        on_progress: called with ("packing images", done, total), and while another process packs the same source.

    Raises:
        PackWriteError: there is no room for the pack, or it can't be written.
        ValueError: a picture of the source can't be read any more; naming its file.
    """
    pack = Pack(original=original, frame=frame, channels=channels)
    report = on_progress or (lambda what, done, total: None)
    try:
        pictures_NHWC = _open_finished(pack, verify=verify)
        if pictures_NHWC is None:
            pack.array.parent.mkdir(parents=True, exist_ok=True)
            with _hold_lock(pack.array.with_suffix(".lock"), report) as is_held:
                pictures_NHWC = _open_finished(pack, verify=verify)
                for _ in range(BUILDS):
                    if pictures_NHWC is not None:
                        break
                    pack.array.parent.mkdir(parents=True, exist_ok=True)
                    _check_disk_space(pack, share_of_disk)
                    with suppress(FileNotFoundError):  # it was removed before it was finished
                        _build(pack, report, alone=is_held)
                    pictures_NHWC = _open_finished(pack, verify=False)
    except OSError as error:
        raise PackWriteError(
            f"the packed pictures can't be written to {pack.array.parent}: {error.strerror or error}; "
            "set FASTDCGAN_CACHE to a folder that can be written, or train with --data-cache off"
        ) from error
    if pictures_NHWC is None:
        raise PackWriteError(
            f"{pack.array}: another process removes or replaces the packed pictures as soon as they are there; "
            "set FASTDCGAN_CACHE to a folder of this run's own, or train with --data-cache off"
        )
    packed = ArraySource(
        pictures_NHWC,
        description=f"{original.description}, packed in {pack.array}",
        origin=original.origin,
        fingerprint=original.fingerprint,
        skipped=original.skipped,
        find_labels=lambda: original.labels,
    )
    packed.value_range = original.value_range
    return packed


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """What `ensure_packed` has found and done."""

    found: PackStatus
    """The status before."""

    seconds: float | None
    """How long building took; None where this process built nothing."""


def ensure_packed(pack: Pack, on_progress: OnProgress | None = None) -> PackResult:
    """Compare a pack with its checksum, and build it unless it fits. Raises as `open_packed`."""
    found = pack_status(pack, verify=True)
    if found == "whole":
        return PackResult(found=found, seconds=None)
    began, built = time.monotonic(), False

    def report(what: str, done: int, total: int) -> None:
        nonlocal began, built
        if what == "packing images":
            built = True
        else:
            began = time.monotonic()  # until now it waited for another process
        if on_progress is not None:
            on_progress(what, done, total)

    open_packed(pack.original, frame=pack.frame, channels=pack.channels, verify=found == "damaged", on_progress=report)
    return PackResult(found=found, seconds=time.monotonic() - began if built else None)


def pack_status(pack: Pack, *, verify: bool = False) -> PackStatus:
    """Whether a pack exists and fits its source.

    Args:
        pack: which.
        verify: compare its pixels with its checksum even if their time of modification is unchanged.
    """
    if _open_finished(pack, verify=verify) is not None:
        return "whole"
    if not pack.manifest.exists():
        return "missing"
    manifest = read_manifest(pack.manifest)
    return "damaged" if manifest is not None and _fits_source(manifest, pack) else "outdated"


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None where it is missing, damaged, or of another version."""
    try:
        fields: dict[str, Any] = read_json(path, MAX_MANIFEST_BYTES)
        skipped = tuple(_skipped_from_json(**skip) for skip in fields.pop("skipped"))
        manifest = Manifest(**fields, skipped=skipped)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return manifest if manifest.format == FORMAT else None


def _open_finished(pack: Pack, *, verify: bool) -> NpyPictures | None:
    """Open a pack's pixels; None where it is missing, outdated or damaged."""
    manifest = read_manifest(pack.manifest)
    if manifest is None or not _fits_source(manifest, pack):
        return None
    try:
        pictures_NHWC = open_npy(pack.array, str(pack.array))
        touched = pack.array.stat().st_mtime_ns != manifest.mtime_ns
        _read_ahead(pack.array)
        described = (manifest.count, manifest.resolution, manifest.channels)
        if described != (len(pack.original), pack.frame.size.short, pack.channels):
            return None
        if pictures_NHWC.shape != pack.shape or pictures_NHWC.dtype != np.uint8:
            return None
        if (touched or verify) and array_checksum(pictures_NHWC) != manifest.checksum:
            return None
    except (OSError, ValueError):
        return None
    return pictures_NHWC


def _read_ahead(path: Path) -> None:
    """Ask the system to read a file into its page cache sequentially, in the background."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _fits_source(manifest: Manifest, pack: Pack) -> bool:
    return (manifest.fingerprint, manifest.rule) == (pack.original.fingerprint, RESIZE_RULES[pack.frame.fit])


def _build(pack: Pack, report: OnProgress, *, alone: bool) -> None:
    """Decode all pictures into a temporary file, flush and rename it, and then write the manifest.

    Not `alone`, another process may do the same, and even so if the lock was removed with the cache folder: each has a
    file of its own, and the last one's pack stays. Its time of modification is drawn, within the second: no manifest
    fits another one's file, even of the same tick of the disk's clock.
    """
    count, shape = len(pack.original), pack.shape
    pack.manifest.unlink(missing_ok=True)
    if alone:
        for left in pack.array.parent.glob(f"{pack.array.stem}.*unfinished"):  # by a build that was killed
            left.unlink(missing_ok=True)
    unfinished = pack.array.with_suffix(f".{secrets.token_hex(4)}.unfinished")
    digest = hashlib.sha256(repr(shape).encode())
    try:
        with create(unfinished) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            done = 0
            with closing(pack.original.read(_batches_in_order(count))) as batches:
                for pictures_BHWC in batches:
                    # Written, not mapped: a full disk then raises OSError, where a mapped write would get SIGBUS.
                    pixels = pictures_BHWC.numpy().data
                    file.write(pixels)
                    digest.update(pixels)
                    done += len(pictures_BHWC)
                    report("packing images", done, count)
            file.flush()
            os.fsync(file.fileno())
        second = time.time_ns() // 10**9 * 10**9
        os.utime(unfinished, ns=(second, second + secrets.randbelow(10**9)))
        mtime_ns = unfinished.stat().st_mtime_ns  # as the disk keeps it
        unfinished.replace(pack.array)
    finally:
        unfinished.unlink(missing_ok=True)
    manifest = Manifest(
        source=pack.original.origin,
        fingerprint=pack.original.fingerprint,
        count=count,
        resolution=pack.frame.size.short,
        channels=pack.channels,
        rule=RESIZE_RULES[pack.frame.fit],
        checksum=digest.hexdigest(),
        mtime_ns=mtime_ns,
        skipped=tuple(pack.original.skipped),
    )
    skipped = [_skipped_as_json(skip) for skip in manifest.skipped]
    write_replacing(pack.manifest, json.dumps({**asdict(manifest), "skipped": skipped}, indent=2) + "\n")


def _skipped_as_json(skip: Skipped) -> dict[str, Any]:
    fields = {"path": skip.path, "reason": skip.reason, "foreign": skip.not_a_picture, "count": skip.count}
    return fields | ({"hidden": skip.hidden} if skip.hidden else {})


def _skipped_from_json(path: str, reason: str, foreign: bool = False, count: int = 1, hidden: str = "") -> Skipped:
    return Skipped(path=path, reason=reason, not_a_picture=foreign, count=count, hidden=hidden)


def _batches_in_order(count: int) -> Generator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


def _check_disk_space(pack: Pack, share_of_disk: float) -> None:
    """Raises PackWriteError."""
    free = shutil.disk_usage(pack.array.parent).free
    if pack.bytes > share_of_disk * free:
        share = "what" if share_of_disk == 1 else f"{share_of_disk:.0%} of what"
        raise PackWriteError(
            f"the packed pictures would take {_format_bytes(pack.bytes)}, more than {share} is free in "
            f"{pack.array.parent} ({_format_bytes(free)}); set FASTDCGAN_CACHE to a folder on a larger disk, "
            "or train with --data-cache off"
        )


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"


@contextmanager
def _hold_lock(path: Path, report: OnProgress) -> Generator[bool]:
    """Hold a file lock, which the system releases when the process ends; False where the disk has none."""
    with ExitStack() as stack:
        try:
            is_held = stack.enter_context(held(path, blocking=False))
        except Timeout:
            report("waiting for another process that packs these images", 0, 1)
            is_held = stack.enter_context(held(path))
            report("waiting for another process that packs these images", 1, 1)
        yield is_held
