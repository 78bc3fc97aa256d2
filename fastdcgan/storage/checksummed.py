"""Checksummed folders: written whole or not at all, with the size and SHA-256 of each file in a manifest.

A folder is written under a temporary name, flushed to the disk, and renamed. The last file written into it is

    manifest.json     {"files": {name: {"bytes": ..., "sha256": ...}, ...}, "seal": ...}

where `seal` is the SHA-256 of `files`. So truncated, changed, missing and mixed-up files are found. This guards against
accidents, not against forgers: who can write the files can write a manifest for them.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path

from fastdcgan.storage import strict_json
from fastdcgan.storage.files import open_regular, read_limited

MANIFEST = "manifest.json"

_NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a disk answers on which folders can't be flushed: some network mounts."""

MAX_MANIFEST_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """A file's entry in the manifest."""

    bytes: int
    """Its size."""

    sha256: str
    """Hexadecimal."""


@contextmanager
def writing(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a new folder to write files into. It becomes `path` at the end; on an exception nothing of it is left.

    Args:
        path: where the folder goes. What an earlier attempt has left under its temporary name is removed.
        replace: whether a folder that has that name now is removed; else it is renamed to `<name>.set-aside`.

    Raises:
        OSError: it can't be written.
    """
    unfinished = _temporary_path(path)
    _delete(unfinished)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for file in unfinished.iterdir():
            flush(file)
        _write_manifest(unfinished)
        flush(unfinished)
        former = None
        if os.path.lexists(path):
            former = _temporary_path(path, ".replaced") if replace else _set_aside_path(path)
            path.rename(former)
        unfinished.rename(path)
        flush(path.parent)
        if former is not None and replace:
            _delete(former)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a checksummed folder. It is renamed first, so that a kill leaves no half of it under its name."""
    renamed = _temporary_path(path, ".removed")
    _delete(renamed)
    path.rename(renamed)
    _delete(renamed)


def remove_unfinished(folder: Path, prefix: str) -> None:
    """Remove what killed processes have left in `folder` of checksummed folders whose names begin with `prefix`."""
    for path in folder.glob(f".{prefix}*"):
        _delete(path)


def read_manifest(path: Path) -> dict[str, FileDigest] | None:
    """A folder's manifest, by file name; None if it has none.

    Raises:
        ValueError: it can't be read, or its digest doesn't match.
    """
    try:
        text = read_limited(path / MANIFEST, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"its {MANIFEST} can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"its {MANIFEST} is {error}") from error
    try:
        manifest = strict_json.parse(text)
        files = {name: FileDigest(**entry) for name, entry in manifest["files"].items()}
        valid = manifest["seal"] == _manifest_digest(files) and all(map(_is_valid, files.items()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its {MANIFEST} is damaged") from error
    if not valid:
        raise ValueError(f"its {MANIFEST} is damaged")
    return files


def read(path: Path, expected: FileDigest | None, max_bytes: int) -> bytes:
    """A file of a checksummed folder.

    Args:
        path: of the file.
        expected: its entry in the manifest; None: nothing is compared.
        max_bytes: of a larger file nothing is read.

    Raises:
        ValueError: it is missing, larger than `max_bytes`, or doesn't match `expected`.
    """
    try:
        data = read_limited(path, max_bytes if expected is None else min(max_bytes, expected.bytes))
    except FileNotFoundError as error:
        raise ValueError(f"its {path.name} is missing") from error
    except OSError as error:
        raise ValueError(f"its {path.name} can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"its {path.name} is {error}") from error
    if expected is not None and (len(data), hashlib.sha256(data).hexdigest()) != (expected.bytes, expected.sha256):
        raise ValueError(f"its {path.name} is not what was written")
    return data


def check(path: Path, files: dict[str, FileDigest]) -> None:
    """Compare a folder's files with its manifest. Raises ValueError where they differ.

    Hashing releases the GIL, so training goes on meanwhile.
    """
    for name, expected in files.items():
        try:
            with open_regular(path / name) as file:
                same = os.fstat(file.fileno()).st_size == expected.bytes and _sha256(file) == expected.sha256
        except OSError as error:
            raise ValueError(f"its {name} can't be read ({error.strerror or error})") from error
        if not same:
            raise ValueError(f"its {name} is not what was written")


def flush(path: Path) -> None:
    """Flush a file or folder to the disk (fsync). For folders nothing is done where that can't be: see `can_flush`."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def can_flush(folder: Path) -> bool:
    """Whether a folder can be flushed: else a loss of power may take what was renamed last, whole as it was.

    Raises:
        OSError: it can't be read.
    """
    if os.name == "nt":
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            files[path.name] = FileDigest(bytes=path.stat().st_size, sha256=_sha256(file))
    manifest = {"files": {name: asdict(entry) for name, entry in files.items()}, "seal": _manifest_digest(files)}
    with (folder / MANIFEST).open("xb") as file:
        file.write(json.dumps(manifest, indent=2).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _is_valid(item: tuple[str, FileDigest]) -> bool:
    name, entry = item
    return Path(name).name == name and type(entry.bytes) is int and type(entry.sha256) is str


def _manifest_digest(files: dict[str, FileDigest]) -> str:
    entries = {name: asdict(entry) for name, entry in files.items()}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _sha256(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_path(path: Path, suffix: str = "") -> Path:
    """Where a folder is while it is written or removed."""
    return path.with_name(f".{path.name}{suffix}")


def _set_aside_path(path: Path) -> Path:
    """`<name>.set-aside`, numbered where that is taken."""
    renamed, number = path.with_name(f"{path.name}.set-aside"), 1
    while os.path.lexists(renamed):
        number += 1
        renamed = path.with_name(f"{path.name}.set-aside-{number}")
    return renamed


def _delete(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
