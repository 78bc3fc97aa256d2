"""LMDB as LSUN has it: a folder with `data.mdb`, in which each value is an encoded picture."""

from pathlib import Path

from fastdcgan.data.archives.shards import ShardIndex
from fastdcgan.data.folder import OnProgress
from fastdcgan.data.tables.row_process import RowProcess
from fastdcgan.data.tables.rows import Row, Table, needed, open_rows, stamp_of_files
from fastdcgan.storage.printable import printable

SUFFIXES = (".mdb", ".lmdb")


def is_lmdb(path: Path) -> bool:
    """Whether a path is of a folder with `data.mdb`, or of a file with a suffix of LMDB's."""
    return (path / "data.mdb").is_file() or (path.suffix.lower() in SUFFIXES and path.is_file())


def open_lmdb(path: Path, on_progress: OnProgress | None = None) -> ShardIndex:
    """The pictures of an LMDB. Raises ValueError as `open_rows`, and where `lmdb` is not installed."""
    needed("lmdb", "lmdb", printable(path))
    file = path / "data.mdb" if path.is_dir() else path

    def open_table() -> Table:
        process = RowProcess("lmdb", path)
        return Table((Row(value, key.decode("utf-8", "replace")) for key, value in process.rows()), process.length)

    return open_rows(printable(path.resolve()), stamp_of_files([file]), open_table, on_progress)
