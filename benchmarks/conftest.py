"""Shared by all benchmarks: this machine's ceilings, measured once, and a cache of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ceiling import ceilings_of
from benchmarks.conditions import device
from benchmarks.photographs import write_photographs
from fastdcgan.roofline import Ceilings

PHOTOGRAPHS = 2000


@pytest.fixture(scope="session")
def ceilings() -> Ceilings | None:
    """What this machine can do at most."""
    return ceilings_of(device())


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder of JPEGs in it, as torchvision's ImageFolder wants it."""
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder / "all", PHOTOGRAPHS)
    return folder


@pytest.fixture(scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Indexes of temporary folders stay out of the user's cache."""
    before = os.environ.get("FASTDCGAN_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FASTDCGAN_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["FASTDCGAN_CACHE"]
    else:
        os.environ["FASTDCGAN_CACHE"] = before
