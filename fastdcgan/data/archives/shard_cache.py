"""Indexes of archives, kept in the cache folder, so that only new and changed archives are read and checked."""

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.archives.shard import PICTURE_DTYPE, PassedOver, Shard
from fastdcgan.data.decoding.formats import decoder_versions
from fastdcgan.data.decoding.picture import MAX_PIXELS
from fastdcgan.data.folder import MAX_BYTES
from fastdcgan.storage import strict_json
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached


def cache_path(shard: str) -> Path:
    """Where the index of a shard is kept."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(shard))).hexdigest()[:24]
    return cache_folder() / "shards" / name


def _format() -> str:
    return f"fastdcgan shard 6, {decoder_versions()}"


def load_cached(path: str, size: int, mtime_ns: int) -> Shard | None:
    """The cached index of a shard; None where it is missing, damaged, of another version or of a changed shard."""
    line, _, body = (read_cached(cache_path(path)) or b"{}").partition(b"\n")
    try:
        found = strict_json.parse(line)
        if found.get("format") != _format() or found["stamp"] != [size, mtime_ns]:
            return None
        pictures = np.frombuffer(body, PICTURE_DTYPE, found["pictures"])
        _check_cached(found, pictures, size)
        if pictures.nbytes + 4 * found["labels"] + found["names"] != len(body):
            return None
        labels_N = np.frombuffer(body, np.int32, found["labels"], pictures.nbytes) if found["labels"] else None
        names = body[pictures.nbytes + 4 * found["labels"] :]
        return _shard_from_cache(path, size, mtime_ns, found, pictures, labels_N, names)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return None


def _check_cached(found: dict[str, Any], pictures: NDArray[np.void], size: int) -> None:
    """Raises ValueError where a cached index can't be of a shard of `size` bytes."""
    ends = pictures["offset"] + np.where(pictures["deflated"], pictures["deflated"], pictures["bytes"])
    sides = (pictures["width"], pictures["height"])
    passed_over = [PassedOver(*passed) for passed in found["passed_over"]]
    named = (text for passed in passed_over for text in (passed.name, passed.reason))
    texts = (*found["kinds"], *itertools.chain.from_iterable(found["skipped"]), *named)
    reasons = (*(reason for _, reason in found["skipped"]), *(passed.reason for passed in passed_over))
    counts = (found["sharing"], *(passed.members for passed in passed_over))
    if (
        (pictures["offset"] < 0).any()
        or (ends > size).any()
        or any((side < 1).any() or (side > MAX_PIXELS).any() for side in sides)
        or (pictures["bytes"] > MAX_BYTES).any()
        or (pictures["kind"] >= len(found["kinds"])).any()
        or found["labels"] not in (0, len(pictures))
        or not all(type(count) is int and 0 <= count <= size for count in counts)
        or not all(isinstance(text, str) for text in texts)
        or not all(text.isprintable() for text in (*reasons, *found["kinds"]))
    ):
        raise ValueError("not an index of this shard")


def _shard_from_cache(
    path: str,
    size: int,
    mtime_ns: int,
    found: dict[str, Any],
    pictures: NDArray[np.void],
    labels_N: NDArray[np.int32] | None,
    names: bytes,
) -> Shard:
    return Shard(
        path=path,
        size=size,
        mtime_ns=mtime_ns,
        pictures=pictures,
        labels=labels_N,
        kinds=tuple(found["kinds"]),
        names=names,
        skipped=tuple((name, reason) for name, reason in found["skipped"]),
        passed_over=tuple(PassedOver(*passed) for passed in found["passed_over"]),
        sharing=found["sharing"],
    )


def save_cached(shard: Shard) -> None:
    """Cache a shard's index: a line of JSON, the array, the labels if there are any, the names."""
    found = {
        "format": _format(),
        "stamp": [shard.size, shard.mtime_ns],
        "pictures": len(shard.pictures),
        "labels": 0 if shard.labels is None else len(shard.labels),
        "names": len(shard.names),
        "kinds": shard.kinds,
        "skipped": shard.skipped,
        "passed_over": shard.passed_over,
        "sharing": shard.sharing,
    }
    labels = b"" if shard.labels is None else shard.labels.tobytes()
    body = json.dumps(found).encode("ascii") + b"\n" + shard.pictures.tobytes() + labels + shard.names
    write_cached(cache_path(shard.path), body)
