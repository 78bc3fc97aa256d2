"""Rows with encoded pictures, read once from the first to the last and kept as a tar file in the cache folder.

Such tables can't be read at random, or only slowly. What is kept is read as any archive is.
"""

import hashlib
import importlib
import importlib.util
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

from fastdcgan.data.archives.shards import ShardIndex, open_shards
from fastdcgan.data.decoding.formats import has_picture_suffix
from fastdcgan.data.folder import OnProgress, os_error_reason
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.files import create
from fastdcgan.storage.locks import held
from fastdcgan.storage.printable import printable
from fastdcgan.storage.settled import settled_stat

FORMAT = 1
"""Version of the copy, and part of its name: another version of this package neither reads nor removes it."""


class Row(NamedTuple):
    """An encoded picture."""

    data: bytes
    name: str = ""
    """Of its file, where it had one: its suffix is kept."""

    label: str | None = None
    """Of its class."""


class Table(NamedTuple):
    """Rows that are still to be read."""

    rows: Iterable[Row]
    length: int
    """How many."""


def open_rows(
    origin: str, stamp: str, open_table: Callable[[], Table], on_progress: OnProgress | None = None
) -> ShardIndex:
    """Open a table's pictures, which are copied into the cache folder unless they are there.

    Args:
        origin: what the table is, for the user and as a key.
        stamp: another one where the table was changed.
        open_table: opens it. May raise ValueError.
        on_progress: called with ("reading rows", done, total), then as `open_shards` does.

    Raises:
        ValueError: it can't be read, has no usable picture, or there is no room for the copy.
    """
    folder = cache_folder() / "tables"
    begin = "".join(c if c.isalnum() else "-" for c in Path(origin).name)[:40]
    begin += f"-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:16]}.{FORMAT}"
    path = folder / f"{begin}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.tar"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder / f"{begin}.lock") as is_held:
                if not path.exists():
                    # What killed processes have left; without a lock another one may be writing it.
                    left = folder.glob(f"{begin}-*.unfinished") if is_held else ()
                    for old in (*folder.glob(f"{begin}-*.tar"), *left):
                        old.unlink()
                    _write(path, origin, open_table(), on_progress)
        except OSError as error:
            free = shutil.disk_usage(folder).free / 1e9 if folder.exists() else 0
            raise ValueError(
                f"{origin}: its pictures can't be copied to {printable(folder)} ({free:,.1f} GB are free): "
                f"{os_error_reason(error)}; FASTDCGAN_CACHE names another folder"
            ) from error
    return replace(open_shards(str(path), on_progress), origin=origin)


def stamp_of_files(files: Sequence[Path]) -> str:
    """Names, sizes and times of files. Raises OSError."""
    infos = [(file, settled_stat(file)) for file in files]
    return "\n".join(f"{file} {info.st_size} {info.st_mtime_ns}" for file, info in infos)


def needed(module: str, extra: str, what: str) -> ModuleType:
    """A library that not everybody has. Raises ValueError with the command that installs it."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{what} needs {module}: pip install 'fastdcgan[{extra}]'")
    return importlib.import_module(module)


def _write(path: Path, origin: str, table: Table, on_progress: OnProgress | None) -> None:
    """Copy the rows to a tar file. Raises OSError, and ValueError where they are not as many as the table says."""
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")  # as there may be no lock
    try:
        with create(unfinished) as file:
            done = 0
            for done, row in enumerate(table.rows, start=1):
                if done > table.length:
                    break
                info = tarfile.TarInfo(_name(done - 1, row))
                info.size = len(row.data)
                # Not TarFile.addfile, which keeps every header in memory.
                file.write(info.tobuf(tarfile.PAX_FORMAT) + row.data + bytes(-info.size % tarfile.BLOCKSIZE))
                if on_progress is not None:
                    on_progress("reading rows", done, table.length)
            if done != table.length:
                there = f"only {done:,}" if done < table.length else "more"
                raise ValueError(f"{origin}: damaged: of {table.length:,} rows {there} are there")
            file.write(bytes(2 * tarfile.BLOCKSIZE))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _name(number: int, row: Row) -> str:
    suffix = PurePosixPath(row.name).suffix
    file = f"{number:08d}{suffix if has_picture_suffix(suffix) else '.jpg'}"
    if row.label is None:
        return file
    folder = printable(row.label).replace("/", "_").replace("\\", "_").lstrip(".") or "_"
    return f"{folder}/{file}"
