"""Shared by all benchmarks: this machine's ceilings, measured once, and a cache of their own."""

from pathlib import Path

import pytest

from benchmarks.conditions import device
from benchmarks.photographs import write_photographs
from fastdcgan.limits.roofline import Ceilings, device_ceilings

PHOTOGRAPHS = 2000


@pytest.fixture(scope="session")
def ceilings() -> Ceilings | None:
    """What this machine can do at most."""
    return device_ceilings(device(), seconds=0.5)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder of JPEGs in it, as torchvision's ImageFolder wants it."""
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder / "all", PHOTOGRAPHS)
    return folder


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indexes of temporary folders stay out of the user's cache. Measured plans and built kernels are kept there."""
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
