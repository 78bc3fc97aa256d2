"""A program that reads an LMDB or an HDF5 file for its parent; see `row_process.py` and `hdf5_process.py`.

    python row_reader.py lmdb PATH
    python row_reader.py hdf5 PATH DATASET
    python row_reader.py hdf5-answers PATH

Both libraries trust what stands in a file: a damaged one ends the process that reads it, or keeps it for ever.

The first two write all rows: how many there are; of each the lengths of key and value, key, value; at the end `END` as
a length. The third writes a length and the file's datasets (see `described`) as JSON, then answers each line of its
input, `[DATASET, NUMBERS]` as JSON: a length and these rows' bytes, of the whole dataset where NUMBERS is null, and
where it is "written" a byte for each row, 1 for those that were (see `written_rows`); or `END`, a length and why they
can't be read.
A failure to open is one line on the standard error, and exit code 2.
"""

import json
import math
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


def described(file: Any) -> list[tuple[str, str, list[int], bool]]:
    """Of each dataset of an HDF5 file its name, dtype, shape, and whether it is of rows of bytes."""
    import h5py
    import numpy as np

    found: list[tuple[str, str, list[int], bool]] = []

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            is_bytes = item.dtype.hasobject and h5py.check_vlen_dtype(item.dtype) == np.uint8
            found.append((key, item.dtype.str, list(item.shape or ()), bool(is_bytes)))

    file.visititems(visit)
    return found


def written_rows(dataset: Any) -> Any:
    """Of each row, whether all of it was written: HDF5 gives its fill value for what wasn't, as if it were there.

    Raises:
        FileNotFoundError: rows lie in another file, which is not there.
    """
    import numpy as np

    shape, chunks = dataset.shape, dataset.chunks
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            other = source.file_name
            places = Path(other), Path(dataset.file.filename).parent / other
            if other != "." and "%" not in other and not any(place.exists() for place in places):
                raise FileNotFoundError(f"a file is missing whose rows these are: {other}")
    if chunks is None:
        lies_elsewhere = dataset.is_virtual or dataset.external
        return np.full(shape[0], bool(lies_elsewhere or dataset.id.get_storage_size()), np.uint8)
    of_rows, *across = (-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))
    found = np.zeros(of_rows, np.int64)

    def count(chunk: Any) -> None:
        found[chunk.chunk_offset[0] // chunks[0]] += 1

    dataset.id.chunk_iter(count)
    return np.repeat(found == math.prod(across), chunks[0])[: shape[0]].astype(np.uint8)


def rows_of(dataset: Any, numbers: Any) -> Any:
    """Rows in this order; all where none are named; for "written" the `written_rows`."""
    import numpy as np

    if numbers == "written":
        return written_rows(dataset)
    if numbers is None:
        return dataset[()]
    first, count = numbers[0], len(numbers)
    if numbers == list(range(first, first + count)):
        return dataset[first : first + count]
    return np.stack([dataset[number] for number in numbers])


def answer(path: Path, requests: BinaryIO, out: BinaryIO) -> None:
    """Say what is in an HDF5 file, then answer requests until there are none."""
    import h5py
    import numpy as np

    with h5py.File(path, "r") as file:
        datasets = json.dumps(described(file)).encode()
        out.write(LENGTH.pack(len(datasets)) + datasets)
        out.flush()
        opened: dict[str, Any] = {}
        for request in requests:
            key, numbers = json.loads(request)
            try:
                dataset = opened.get(key) or opened.setdefault(key, file[key])
                rows = np.ascontiguousarray(rows_of(dataset, numbers))
            except Exception as error:  # noqa: BLE001 (see below)
                reason = (str(error) or type(error).__name__).encode()
                out.write(LENGTH.pack(END) + LENGTH.pack(len(reason)) + reason)
            else:
                out.write(LENGTH.pack(rows.nbytes))
                out.write(rows.reshape(-1).view(np.uint8).data)
            out.flush()


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
    kind, path, *more = sys.argv[1:]
    try:
        if kind == "hdf5-answers":
            answer(Path(path), sys.stdin.buffer, sys.stdout.buffer)
        else:
            write_rows(READERS[kind](Path(path), *more), sys.stdout.buffer)
    except Exception as error:  # noqa: BLE001 (libraries raise anything for damage)
        sys.stderr.write(f"{str(error) or type(error).__name__}\n")
        sys.stderr.flush()
        raise SystemExit(2) from None
