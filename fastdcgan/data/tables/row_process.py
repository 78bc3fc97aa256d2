"""Rows of tables whose libraries may crash or hang on a damaged file, from a process of its own."""

from collections.abc import Iterator
from pathlib import Path

from fastdcgan.data.tables.reader import EndedEarlyError, Reader
from fastdcgan.data.tables.row_reader import END
from fastdcgan.storage.printable import printable


class RowProcess:
    """The rows of a table.

    Args:
        kind: as `row_reader.py` names it.
        path: of the table.
        more: its further arguments.

    Raises:
        ValueError: it can't be read.
    """

    def __init__(self, kind: str, path: Path, *more: str) -> None:
        self._name = printable(path)
        self._reader = Reader(kind, path, *more)
        try:
            self.length = self._reader.read_length("the first")
        except EndedEarlyError as error:
            raise ValueError(f"{self._name}: damaged, or of another kind ({self._reader.how_it_ended()})") from error

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of key and value, once. Raises ValueError where the table is damaged."""
        number, reader = 0, self._reader
        try:
            while (length := reader.read_length(f"key {number}")) != END:
                value_length = reader.read_length(f"length {number}")
                yield reader.read(length, f"name {number}"), reader.read(value_length, f"value {number}")
                number += 1
        except EndedEarlyError as error:
            raise ValueError(
                f"{self._name}: damaged: row {number:,} can't be read ({reader.how_it_ended()})"
            ) from error
        finally:
            reader.close()
