"""What the system says about its caches."""

import os
from pathlib import Path

import pytest

from fastdcgan.limits import hardware


@pytest.fixture
def cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four CPUs in two groups: 1 MiB of second level each, 32 and 96 MiB of third level a group."""
    monkeypatch.setattr(hardware, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    for cpu in range(4):
        group, size = ("0-1", "32768K") if cpu < 2 else ("2-3", "98304K")
        for index, level, shared, bytes_ in ((0, 2, str(cpu), "1024K"), (1, 3, group, size)):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", str(level)), ("shared_cpu_list", shared), ("size", bytes_)):
                (folder / name).write_text(f"{text}\n")
    return tmp_path


@pytest.mark.parametrize(("threads", "mib"), [(1, 96), (2, 128), (64, 128)])
def test_each_cache_counts_once_and_a_thread_uses_one(cpus: Path, threads: int, mib: int) -> None:
    assert hardware.third_level_cache(threads) == mib * 2**20


def test_only_the_usable_cpus_count(cpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1})
    assert hardware.third_level_cache(4) == 32 * 2**20


def test_a_system_that_says_nothing_of_its_caches(cpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cpus / "cpu3" / "cache" / "index1" / "size").write_text("")
    assert hardware.third_level_cache(1) is None
    for level in cpus.glob("cpu*/cache/index1/level"):
        level.write_text("2")
    assert hardware.third_level_cache(1) is None, "hidden from a virtual machine, which is still behind it"
    monkeypatch.setattr(hardware, "_CPUS", cpus / "none")
    assert hardware.third_level_cache(1) is None
    monkeypatch.delattr(os, "sched_getaffinity")
    assert hardware.third_level_cache(1) is None
