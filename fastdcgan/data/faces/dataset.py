"""The embedded data set: portraits drawn by the package itself, kept as JPEGs in the user's cache folder.

A set is built once and then only read. It appears under its own name in one step, complete, so that a build that
was interrupted can't be taken for a set and builds that run at the same time don't disturb each other.
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

from fastdcgan.data.faces import portrait
from fastdcgan.data.faces.portrait import DRAWING_VERSION, file_name, save_faces
from fastdcgan.storage import cache

FACES = 8000
SIZE = 96

_UNFINISHED = ".fastdcgan-drawing-"
_DEAD_AFTER_S = 24 * 3600
_MOST_HELPERS = 8
# A helper is a Python of its own and takes a third of a second to start, the time of some 70 faces.
_FACES_WORTH_A_HELPER = 500


def faces_folder(
    count: int = FACES,
    seed: int = 0,
    size: int = SIZE,
    on_progress: Callable[[int], None] | None = None,
    cache_folder: Path | None = None,
) -> Path:
    """The folder of portraits in the user's cache, drawn now if it isn't there yet.

    Args:
        count: how many portraits, from 1 up.
        seed: which set of people, from 0 up.
        size: width and height in pixels, from 8 up.
        on_progress: called now and then with the number drawn so far, unless all were there.
        cache_folder: where sets are kept; without it, the environment variable FASTDCGAN_CACHE says, and without
            that the system's own folder for caches.

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

    The folder appears when it is complete. One that is complete already is left as it is, and where several
    processes draw the same one at a time, the first to finish provides it.

    Args:
        folder: where they go; created with its parents.
        count: how many, from 1 up.
        seed: which set of people, from 0 up.
        size: width and height in pixels, from 8 up.
        on_progress: called now and then with the number drawn so far; what it raises ends the build.

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
    _remove_dead_builds(folder.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        # mkdtemp shuts others out, but a cache may be shared by a class.
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
    """Whether the set is there.

    Raises:
        ValueError: something is there, but not the whole set.
    """
    try:
        present = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return False
    missing = sum(file_name(index) not in present for index in range(count))
    if missing:
        raise ValueError(f"{folder} lacks {missing:,} of its {count:,} portraits: delete it to have it drawn anew")
    return True


def _remove_dead_builds(parent: Path) -> None:
    """Builds that were killed can't clear up; a folder that nobody wrote to for a day is one of theirs."""
    for path in parent.glob(f"{_UNFINISHED}*"):
        try:
            dead = time.time() - path.stat().st_mtime > _DEAD_AFTER_S
        except FileNotFoundError:
            continue
        if dead:
            shutil.rmtree(path, ignore_errors=True)


def _draw_all(folder: Path, count: int, seed: int, size: int, on_progress: Callable[[int], None]) -> None:
    helpers = min(_usable_cores(), _MOST_HELPERS, count // _FACES_WORTH_A_HELPER)
    if helpers < 2 or not sys.executable:
        for done in save_faces(folder, range(count), seed, size):
            on_progress(done)
        return
    with _helpers(folder, count, seed, size, helpers) as dots:
        done = 0
        while drawn := dots.read(4096):
            done += len(drawn)
            on_progress(done)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# It loads the one file and not the package, which would bring PyTorch: seconds and much memory for each helper.
_HELPER = """
import importlib.util, os, sys
sys.path[:] = {sys_path!r}
spec = importlib.util.spec_from_file_location("portrait", {portrait!r})
portrait = sys.modules["portrait"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(portrait)
for _ in portrait.save_faces({folder!r}, {indices!r}, {seed}, {size}):
    os.write(1, b".")
"""


# Drawing holds Python's lock, so threads don't speed it up. The processes are plain new Pythons: a fork of a process
# that has PyTorch's threads or CUDA in it may hang, and multiprocessing's other ways run the user's main module again.
@contextmanager
def _helpers(folder: Path, count: int, seed: int, size: int, helpers: int) -> Iterator[BinaryIO]:
    """Processes that draw every so-manieth face, and a pipe that gets a dot from them for each.

    The pipe ends when the last of them has gone; if this process is killed, they fail at their next dot.

    Raises:
        OSError: one of them failed.
    """
    with tempfile.TemporaryFile() as complaints, _pipe() as (dots, their_end):
        running: list[subprocess.Popen[bytes]] = []
        try:
            for share in range(helpers):
                code = _HELPER.format(
                    sys_path=sys.path,
                    portrait=portrait.__file__,
                    folder=str(folder),
                    indices=range(share, count, helpers),
                    seed=seed,
                    size=size,
                )
                helper = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=their_end,
                    stderr=complaints,
                )
                running.append(helper)
            their_end.close()
            yield dots
            failed = any(helper.wait() for helper in running)
        finally:
            for helper in running:
                helper.kill()
                helper.wait()
        if failed:
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").split("\n")
            raise OSError(next((line for line in reversed(lines) if line), "a process that drew them was killed"))


@contextmanager
def _pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "wb", buffering=0) as writer:
        yield reader, writer
