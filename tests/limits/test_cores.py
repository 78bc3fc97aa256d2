"""How many cores a process may use: control groups as a container sees them."""

import math
import os
from pathlib import Path

import pytest

from fastdcgan.limits import cores


def group(root: Path, path: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def process(root: Path, *lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cores._quota_in_cores(tmp_path) == math.inf
    process(tmp_path, "0::/", "nonsense")
    assert cores._quota_in_cores(tmp_path) == math.inf


def test_version_2_and_the_groups_above(tmp_path: Path) -> None:
    process(tmp_path, "0::/user/job")
    group(tmp_path, "user/job", cpu__max="max 100000")
    assert cores._quota_in_cores(tmp_path) == math.inf
    group(tmp_path, "user", cpu__max="250000 100000")
    assert cores._quota_in_cores(tmp_path) == 2.5
    group(tmp_path, "", cpu__max="150000 100000")
    assert cores._quota_in_cores(tmp_path) == 1.5


def test_a_containers_own_root(tmp_path: Path) -> None:
    """`docker run --cpus 1`: the path is the host's, the files are those of the container's group."""
    process(tmp_path, "0::/docker/0123abcd")
    group(tmp_path, "", cpu__max="100000 100000")
    assert cores._quota_in_cores(tmp_path) == 1


def test_version_1(tmp_path: Path) -> None:
    process(tmp_path, "4:memory:/job", "2:cpu,cpuacct:/job", "1:cpuset:/")
    group(tmp_path, "cpu,cpuacct/job", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    group(tmp_path, "cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert cores._quota_in_cores(tmp_path) == 3


@pytest.mark.parametrize(("quota", "threads"), [(math.inf, 64), (100.0, 64), (2.9, 2), (1.0, 1), (0.5, 1)])
def test_threads_follow_the_limit(quota: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdcgan.distributed.accelerator import default_threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "_quota_in_cores", lambda root: quota)
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert cores.usable_cores() == default_threads() == threads
