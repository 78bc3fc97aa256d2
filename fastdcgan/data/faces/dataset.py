"""The built-in data set: portraits drawn by the package, as JPEGs in the cache folder.

A set is drawn into a temporary folder that is renamed when it is complete, so that an interrupted build isn't taken for
a set, and builds that run at the same time don't disturb each other.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fastdcgan.data.faces.portrait import DRAWING_VERSION, file_name, save_faces
from fastdcgan.limits.cores import usable_cores
from fastdcgan.storage import cache

FACES = 8000
SIZE = 96

_UNFINISHED = ".fastdcgan-drawing-"
_ABANDONED_AFTER_S = 24 * 3600
_MAX_HELPERS = 8
# A helper is a new Python process, which starts in a third of a second, the time of some 70 faces.
_FACES_PER_HELPER = 500


def faces_folder(
    count: int = FACES,
    seed: int = 0,
    size: int = SIZE,
    on_progress: Callable[[int], None] | None = None,
    cache_folder: Path | None = None,
) -> Path:
    """The folder of portraits in the cache, drawn now if it is missing.

    Args:
        count: how many portraits, from 1 up.
        seed: which set of people, from 0 up.
        size: width and height in pixels, from 8 up.
        on_progress: called now and then with the number drawn so far.
        cache_folder: where sets are kept; without it, `storage.cache.cache_folder`.

    Raises:
        ValueError: a number is below its range, the cache folder can't be written, or the set in it is damaged.
    """
    folder = (cache_folder or cache.cache_folder()) / f"faces-v{DRAWING_VERSION}-{size}px-seed{seed}-{count}"
    try:
        return write_faces(folder, count, seed, size, on_progress)
    except OSError as error:
        raise ValueError(
            f"can't write the portraits to {folder}: {error.strerror or error}; "
            "set FASTDCGAN_CACHE to a folder that can be written"
        ) from error


def write_faces(
    folder: Path,
    count: int,
    seed: int = 0,
    size: int = SIZE,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Draw portraits into a folder as 00000.jpg, 00001.jpg, ...; the same arguments give the same bytes.

    The folder appears when it is complete. A complete one is left as it is; where several processes draw the same one,
    the first to finish provides it.

    Args:
        folder: where they go; created with its parents.
        count: how many, from 1 up.
        seed: which set of people, from 0 up.
        size: width and height in pixels, from 8 up.
        on_progress: called now and then with the number drawn so far; an exception ends the build.

    Returns:
        The folder.

    Raises:
        ValueError: a number is below its range, or the folder exists and isn't such a set.
        OSError: the files can't be written.
    """
    if count < 1 or seed < 0 or size < 8:
        raise ValueError(f"faces need count >= 1, seed >= 0 and size >= 8, not {count}, {seed}, {size}")
    if _is_complete(folder, count):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_builds(folder.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        # mkdtemp gives mode 0700, but a cache may be shared by several users.
        unfinished.chmod(0o755)
        _draw_all(unfinished, count, seed, size, on_progress or (lambda done: None))
        try:
            unfinished.rename(folder)
        except OSError:
            # Another process was quicker: its set is as good as ours.
            if not _is_complete(folder, count):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _is_complete(folder: Path, count: int) -> bool:
    """Whether the folder holds the whole set; False if it doesn't exist.

    Raises:
        ValueError: it exists and lacks portraits.
    """
    try:
        present = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return False
    missing = sum(file_name(index) not in present for index in range(count))
    if missing:
        raise ValueError(f"{folder} lacks {missing:,} of its {count:,} portraits: delete it to have it drawn anew")
    return True


def _remove_abandoned_builds(parent: Path) -> None:
    """Remove temporary folders of killed builds: those that were not written to for a day."""
    for path in parent.glob(f"{_UNFINISHED}*"):
        try:
            abandoned = time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S
        except FileNotFoundError:
            continue
        if abandoned:
            shutil.rmtree(path, ignore_errors=True)


def _draw_all(folder: Path, count: int, seed: int, size: int, on_progress: Callable[[int], None]) -> None:
    helpers = min(usable_cores(), _MAX_HELPERS, count // _FACES_PER_HELPER)
    if helpers < 2 or not sys.executable:
        for done in save_faces(folder, range(count), seed, size):
            on_progress(done)
        return
    with _helpers(folder, count, seed, size, helpers) as drawn_bytes:
        done = 0
        while drawn := drawn_bytes.read(4096):
            done += len(drawn)
            on_progress(done)


_HELPER = """
import os, sys
sys.path[:] = {sys_path!r}
from fastdcgan.data.faces.portrait import save_faces
for _ in save_faces({folder!r}, {indices!r}, {seed}, {size}):
    os.write(1, b".")
"""


# Drawing holds the GIL, so threads don't speed it up. Not multiprocessing: a fork of a process with PyTorch's threads
# or CUDA may hang, and its other start methods import the user's main module again.
@contextmanager
def _helpers(folder: Path, count: int, seed: int, size: int, helpers: int) -> Iterator[BinaryIO]:
    """Start helper processes that share the faces, and yield a pipe to which they write a byte for each one drawn.

    The pipe ends when the last helper has ended; if this process is killed, they fail at their next byte.

    Raises:
        OSError: one of them failed.
    """
    with tempfile.TemporaryFile() as errors, _pipe() as (read_end, write_end):
        running: list[subprocess.Popen[bytes]] = []
        try:
            for share in range(helpers):
                code = _HELPER.format(
                    sys_path=sys.path,
                    folder=str(folder),
                    indices=range(share, count, helpers),
                    seed=seed,
                    size=size,
                )
                helper = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=errors,
                )
                running.append(helper)
            write_end.close()
            yield read_end
            failed = any(helper.wait() for helper in running)
        finally:
            for helper in running:
                helper.kill()
                helper.wait()
        if failed:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
            raise OSError(next((line for line in reversed(lines) if line), "a process that drew them was killed"))


@contextmanager
def _pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "wb", buffering=0) as writer:
        yield reader, writer
