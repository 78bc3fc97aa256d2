"""Parquet as Hugging Face's hub has it: a column of pictures' bytes, or of their bytes and paths."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastdcgan.data.archives.shards import ShardIndex
from fastdcgan.data.decoding.formats import has_picture_suffix
from fastdcgan.data.folder import OnProgress
from fastdcgan.data.hidden import is_hidden
from fastdcgan.data.tables.rows import Row, Table, needed, open_rows, stamp_of_files
from fastdcgan.storage.printable import printable

SUFFIX = ".parquet"

PICTURES = ("image", "images", "img", "picture", "bytes")
LABELS = ("label", "labels", "class")
"""Names of columns, in lower case; without one of the first the only column of pictures is taken."""

_BATCH = 64


def parquet_files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or those of a folder without pictures; of splits that to train on."""
    if path.suffix.lower() == SUFFIX and path.is_file():
        return [path]
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        if any(has_picture_suffix(name) for name in files if not is_hidden(name)):
            return []
        found += [Path(folder) / name for name in sorted(files) if name.lower().endswith(SUFFIX)]
    train = [file for file in found if file.name.lower().startswith("train") or file.parent.name.lower() == "train"]
    return train or found


def open_parquet(path: Path, files: Sequence[Path], on_progress: OnProgress | None = None) -> ShardIndex:
    """The pictures of parquet files. Raises ValueError as `open_rows`, and where `pyarrow` is not installed."""
    needed("pyarrow", "parquet", printable(path))
    import pyarrow
    import pyarrow.parquet

    def open_table() -> Table:
        try:
            tables = [pyarrow.parquet.ParquetFile(file) for file in files]
            count = sum(table.metadata.num_rows for table in tables)
            columns = [_columns(table.schema_arrow, printable(file)) for table, file in zip(tables, files, strict=True)]
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{printable(path)}: damaged, or no parquet ({_reason(error)})") from error
        return Table(_rows(tables, columns, printable(path)), count)

    return open_rows(printable(path.resolve()), stamp_of_files(files), open_table, on_progress)


def _rows(tables: Sequence[Any], columns: Sequence[tuple[str, str | None, Sequence[str]]], what: str) -> Iterator[Row]:
    import pyarrow

    try:
        for table, (pictures, labels, names) in zip(tables, columns, strict=True):
            for batch in table.iter_batches(_BATCH, columns=[pictures, labels] if labels else [pictures]):
                found = batch.column(1).to_pylist() if labels else [None] * len(batch)
                for picture, label in zip(batch.column(0).to_pylist(), found, strict=True):
                    entry = picture if isinstance(picture, dict) else {"bytes": picture}
                    yield Row(entry.get("bytes") or b"", entry.get("path") or "", label_name(label, names))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{what}: damaged ({_reason(error)})") from error


def label_name(label: object, names: Sequence[str]) -> str | None:
    """What a label is called: by its number's name, where there are names; None for none, or for what is no label."""
    if isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    return str(label) if isinstance(label, int | str) else None


def _columns(schema: Any, what: str) -> tuple[str, str | None, Sequence[str]]:
    """The column of pictures, that of labels if there is one, and the names of the classes. Raises ValueError."""
    import pyarrow

    def holds_bytes(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    fitting = [field.name for field in schema if holds_bytes(field.type)]
    named = [name for name in fitting if name.lower() in PICTURES]
    if len(named) != 1 and len(fitting) != 1:
        listed = ", ".join(f"{printable(field.name)} ({field.type})" for field in list(schema)[:8])
        raise ValueError(f"{what}: no column of pictures' bytes, or several and none called image; it has {listed}")
    labels = [field.name for field in schema if field.name.lower() in LABELS]
    return (named or fitting)[0], labels[0] if labels else None, _class_names(schema, labels)


def _class_names(schema: Any, labels: Sequence[str]) -> Sequence[str]:
    """Of the label's numbers, as `datasets` writes them into a file; empty where it hasn't."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[labels[0]]["names"]
    except (ValueError, LookupError, TypeError):
        return ()
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _reason(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:120]
