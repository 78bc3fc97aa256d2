"""A data set of Hugging Face's hub by its name, `hub:OWNER/NAME`, through the library `datasets` and its cache."""

from collections.abc import Iterator
from typing import Any

from fastdcgan.data.archives.shards import ShardIndex
from fastdcgan.data.folder import OnProgress
from fastdcgan.data.tables.parquet import LABELS, label_name
from fastdcgan.data.tables.rows import Row, Table, needed, open_rows
from fastdcgan.storage.printable import printable

PREFIX = "hub:"

_ERRORS = (OSError, ValueError, RuntimeError, LookupError, TypeError, ImportError)
"""What `datasets` raises where a set isn't there, can't be downloaded, or is of a kind that it doesn't read."""


def open_hub(spec: str, on_progress: OnProgress | None = None) -> ShardIndex:
    """The pictures of a data set's split `train`, or of its only one.

    Args:
        spec: `hub:` and the set's name, or a folder that `datasets` reads.
        on_progress: see `open_rows`.

    Raises:
        ValueError: as `open_rows`; it isn't there, or has no column of pictures; `datasets` is not installed.
    """
    name = spec.removeprefix(PREFIX)
    datasets: Any = needed("datasets", "hub", printable(spec))
    try:
        found = datasets.load_dataset(name)
        split = found["train"] if "train" in found else found[next(iter(found))]
    except _ERRORS as error:
        reason = printable(" ".join(str(error).split()))[:160]
        raise ValueError(f"{printable(spec)}: datasets can't load it ({reason})") from error
    pictures = [column for column, kind in split.features.items() if isinstance(kind, datasets.Image)]
    if not pictures:
        listed = ", ".join(map(printable, split.features))
        raise ValueError(f"{printable(spec)}: it has no column of pictures; its columns are {listed}")
    labels = [column for column in split.features if column.lower() in LABELS]
    names = getattr(split.features[labels[0]], "names", ()) if labels else ()

    def rows() -> Iterator[Row]:
        encoded = split.select_columns([pictures[0], *labels[:1]]).cast_column(
            pictures[0], datasets.Image(decode=False)
        )
        for entry in encoded:
            picture = entry[pictures[0]] or {}
            data = picture.get("bytes")
            if data is None and picture.get("path"):
                with open(picture["path"], "rb") as file:  # noqa: PTH123
                    data = file.read()
            label = label_name(entry[labels[0]], names) if labels else None
            yield Row(data or b"", picture.get("path") or "", label)

    return open_rows(printable(spec), split._fingerprint, lambda: Table(rows(), len(split)), on_progress)
