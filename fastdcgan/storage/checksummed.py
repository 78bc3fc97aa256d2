"""Folders that are there whole or not at all, and whose files are known by their checksums.

A sealed folder is written beside its place, flushed to the disk, and renamed. The last file written into it is

    manifest.json     {"files": {name: {"bytes": ..., "sha256": ...}, ...}, "seal": ...}

where the seal is the SHA-256 of the list. So what is cut, flipped, emptied, missing, or of another folder is found out.
That is a guard against accidents, not against forgers: who can write the files can write a manifest for them.
"""

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

MOST_MANIFEST_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What is known of a file."""

    bytes: int
    sha256: str


@contextmanager
def writing(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yields a new folder to write files into, which becomes `path` when all went well, and else leaves no trace.

    Args:
        path: its place. Leftovers of earlier attempts beside it (`hidden`) go.
        replace: whether what has that name now goes; else it is set aside, as `<name>.set-aside`.

    Raises:
        OSError: it can't be written.
    """
    unfinished = hidden(path)
    _delete(unfinished)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for file in unfinished.iterdir():
            flush(file)
        _seal(unfinished)
        flush(unfinished)
        former = None
        if os.path.lexists(path):
            former = hidden(path, ".replaced") if replace else _aside(path)
            path.rename(former)
        unfinished.rename(path)
        flush(path.parent)
        if former is not None and replace:
            _delete(former)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a sealed folder: in one step by name, so that no half of it is ever taken for a damaged one."""
    gone = hidden(path, ".removed")
    _delete(gone)
    path.rename(gone)
    _delete(gone)


def hidden(path: Path, ending: str = "") -> Path:
    """Where a folder is while it is written or removed."""
    return path.with_name(f".{path.name}{ending}")


def sweep(folder: Path, beginning: str) -> None:
    """Remove what killed processes have left of folders whose names begin so."""
    for left in folder.glob(f".{beginning}*"):
        _delete(left)


def read_manifest(path: Path) -> dict[str, Sealed] | None:
    """What a folder's manifest says of its files; None if it has none.

    Raises:
        ValueError: it can't be read, or is not as it was written.
    """
    try:
        text = read_limited(path / MANIFEST, MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"its {MANIFEST} can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"its {MANIFEST} is {error}") from error
    try:
        manifest = strict_json.parse(text)
        files = {name: Sealed(**about) for name, about in manifest["files"].items()}
        sound = manifest["seal"] == _sum_of(files) and all(_is_sound(name, sealed) for name, sealed in files.items())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its {MANIFEST} is damaged") from error
    if not sound:
        raise ValueError(f"its {MANIFEST} is damaged")
    return files


def read(path: Path, sealed: Sealed | None, most: int) -> bytes:
    """A file of a sealed folder, as it was written.

    Args:
        path: of the file.
        sealed: what the manifest says of it; None: nothing is known, and nothing compared.
        most: bytes that it may have; of a longer one nothing is read.

    Raises:
        ValueError: it is missing, longer than `most`, or not what was written.
    """
    try:
        data = read_limited(path, most if sealed is None else min(most, sealed.bytes))
    except FileNotFoundError as error:
        raise ValueError(f"its {path.name} is missing") from error
    except OSError as error:
        raise ValueError(f"its {path.name} can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"its {path.name} is {error}") from error
    if sealed is not None and (len(data), hashlib.sha256(data).hexdigest()) != (sealed.bytes, sealed.sha256):
        raise ValueError(f"its {path.name} is not what was written")
    return data


def check(path: Path, files: dict[str, Sealed]) -> None:
    """Compare a folder's files with what its manifest says. Raises ValueError where they differ.

    Nothing in here holds Python's lock for long: training may go on meanwhile.
    """
    for name, sealed in files.items():
        try:
            with open_regular(path / name) as file:
                same = os.fstat(file.fileno()).st_size == sealed.bytes and _sha256(file) == sealed.sha256
        except OSError as error:
            raise ValueError(f"its {name} can't be read ({error.strerror or error})") from error
        if not same:
            raise ValueError(f"its {name} is not what was written")


def flush(path: Path) -> None:
    """Make sure that a file or folder has reached the disk. Windows has no such thing for folders: there we don't."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(folder: Path) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            files[path.name] = Sealed(bytes=path.stat().st_size, sha256=_sha256(file))
    manifest = {"files": {name: asdict(sealed) for name, sealed in files.items()}, "seal": _sum_of(files)}
    with (folder / MANIFEST).open("xb") as file:
        file.write(json.dumps(manifest, indent=2).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _is_sound(name: str, sealed: Sealed) -> bool:
    return Path(name).name == name and type(sealed.bytes) is int and type(sealed.sha256) is str


def _sum_of(files: dict[str, Sealed]) -> str:
    listed = {name: asdict(sealed) for name, sealed in files.items()}
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _sha256(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _aside(path: Path) -> Path:
    aside, number = path.with_name(f"{path.name}.set-aside"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.set-aside-{number}")
    return aside


def _delete(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
