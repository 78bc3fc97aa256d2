"""A program that writes the rows of an LMDB, or of an HDF5 dataset, to its output; see `row_process.py`.

    python row_reader.py lmdb PATH
    python row_reader.py hdf5 PATH DATASET

Both libraries trust what stands in a file: a damaged one ends the process that reads it, or keeps it for ever.

The output: how many rows there are; of each row the lengths of key and value, key, value; at the end `END` as a length.
A failure is one line on the standard error, and exit code 2.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

LENGTH = struct.Struct("<Q")
END = 2**64 - 1

MOST_MEMORY = 2**31
"""Bytes that the program may take: HDF5 takes what a damaged length says. Files that are mapped don't count."""


def lmdb_rows(path: Path) -> Iterator[Any]:
    """How many rows, then pairs of key and value."""
    import lmdb

    size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    with (
        lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=True) as environment,
        environment.begin(buffers=True) as transaction,
    ):
        yield environment.stat()["entries"]
        for key, value in transaction.cursor():
            if len(value) > size:
                raise ValueError("a row is longer than the file")
            yield key, value


def hdf5_rows(path: Path, dataset: str) -> Iterator[Any]:
    """How many rows, then pairs of nothing and value."""
    import h5py
    import numpy as np

    with h5py.File(path, "r") as file:
        rows = file[dataset]
        yield len(rows)
        for number in range(len(rows)):
            yield b"", np.asarray(rows[number], np.uint8).tobytes()


def write_rows(rows: Iterator[Any], out: BinaryIO) -> None:
    """Write all rows."""
    out.write(LENGTH.pack(next(rows)))
    for key, value in rows:
        out.write(LENGTH.pack(len(key)) + LENGTH.pack(len(value)))
        out.write(key)
        out.write(value)
    out.write(LENGTH.pack(END))
    out.flush()


def take_little_memory() -> None:
    """Fail where more than `MOST_MEMORY` is asked for, as far as the system can."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, most))


if __name__ == "__main__":
    READERS: dict[str, Callable[..., Iterator[Any]]] = {"lmdb": lmdb_rows, "hdf5": hdf5_rows}
    take_little_memory()
    try:
        write_rows(READERS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]), sys.stdout.buffer)
    except Exception as error:  # noqa: BLE001 (libraries raise anything for damage)
        sys.stderr.write(f"{str(error) or type(error).__name__}\n")
        sys.stderr.flush()
        raise SystemExit(2) from None
