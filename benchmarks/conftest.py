"""Shared by all benchmarks: their time, this machine's ceilings, measured once, and a cache of their own."""

from pathlib import Path

import pytest

from benchmarks.conditions import device
from benchmarks.photographs import write_photographs
from benchmarks.session import pytest_addoption, pytest_configure
from fastdcgan.limits.roofline import Ceilings, device_ceilings
from fastdcgan.storage.cache import cache_folder

__all__ = ["pytest_addoption", "pytest_configure"]

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
    """Indexes of temporary folders stay out of the user's cache. Plans are kept there: none is measured twice."""
    plans, private = cache_folder() / "plans", tmp_path / "cache"
    plans.mkdir(parents=True, exist_ok=True)
    private.mkdir()
    (private / "plans").symlink_to(plans, target_is_directory=True)
    monkeypatch.setenv("FASTDCGAN_CACHE", str(private))
    return private
