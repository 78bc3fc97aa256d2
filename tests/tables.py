"""Pictures as other libraries' tables have them, written by these libraries."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def needed(module: str) -> None:
    """Skip the test where a library is missing."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def write_lmdb(folder: Path, encoded: Sequence[bytes]) -> Path:
    """As LSUN has it: values of keys that say nothing."""
    needed("lmdb")
    import lmdb

    with lmdb.open(str(folder), map_size=2**26) as made, made.begin(write=True) as transaction:
        for number, data in enumerate(encoded):
            transaction.put(b"%040x" % number, data)
    return folder


def write_hdf5(path: Path, pictures_NHWC: NDArray[np.generic]) -> Path:
    """Of numbers."""
    needed("h5py")
    import h5py

    with h5py.File(path, "w") as file:
        file["images"] = pictures_NHWC
    return path


def write_encoded_hdf5(path: Path, encoded: Sequence[bytes]) -> Path:
    """Of bytes of any length."""
    needed("h5py")
    import h5py

    with h5py.File(path, "w") as file:
        images = file.create_dataset("images", (len(encoded),), h5py.vlen_dtype(np.uint8))
        for number, data in enumerate(encoded):
            images[number] = np.frombuffer(data, np.uint8)
    return path


def write_parquet(path: Path, encoded: Sequence[bytes]) -> Path:
    """As Hugging Face's hub has it."""
    needed("pyarrow")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table({"image": [{"bytes": data, "path": None} for data in encoded]}), path, row_group_size=50
    )
    return path
