"""What a step is said to take of memory, beside what it takes; and the limits that a process has."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.step_memory import StepMemory, memory_limit

MEASURED = """
import sys
from pathlib import Path
import torch
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import choose_plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.tuning.implementations import plan_implementation, random_batch

name, batch, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
arch, cpu = architecture(name), torch.device("cpu")
plan = choose_plan(ExecutionConfig(precision=precision, compile="auto"), cpu, 1)
step = plan_implementation(plan, arch, cpu).step
for _ in range(4):  # of a replayed one, after the second
    step(*random_batch(arch, batch, cpu))
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
# What is mapped from files, libtorch above all, the system can drop: no limit is exceeded by it.
print(*(status[name].split()[0] for name in ("VmHWM", "RssFile")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="known on Linux only")
@pytest.mark.parametrize(
    ("name", "batch", "precision"),
    [
        ("dcgan28", 512, "fp32"),
        pytest.param("dcgan64", 64, "fp32", marks=pytest.mark.exhaustive),
        ("dcgan64", 64, "bf16"),
        ("dcgan128", 8, "fp32"),
    ],
)
def test_a_step_takes_what_is_said(name: str, batch: int, precision: str) -> None:
    """Never more than a tenth above: a container ends the process. A refusal needs 0.85 of it (tuning/memory.py)."""
    command = [sys.executable, "-c", MEASURED, name, str(batch), precision]
    peak, of_files = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    measured = 2**10 * (peak - of_files)
    said = StepMemory.of(architecture(name), on_cpu=True, fp32=precision == "fp32")(batch)
    assert 0.6 * said < measured < 1.1 * said, (said, measured)


def test_what_is_advised_fits_and_one_more_does_not() -> None:
    memory = StepMemory.of(architecture("dcgan64"), on_cpu=True, fp32=True)
    batch = memory.largest_batch(2**31)
    assert memory(batch) <= 2**31 < memory(batch + 2)
    parts = memory.least_accumulate(512, 2**31)
    assert 512 % parts == 0 and memory(512, parts) <= 2**31 < memory(512, parts // 2)
    assert memory.largest_batch(2**28) == memory.least_accumulate(512, 2**28) == 0


def test_limits_of_control_groups(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert memory_limit(tmp_path) == total
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/job\n2:cpu,cpuacct:/job\n0::/user/job\n")
    version_2, version_1 = tmp_path / "sys/fs/cgroup/user/job", tmp_path / "sys/fs/cgroup/memory/job"
    for folder in (version_2, version_1):
        folder.mkdir(parents=True)
    (version_2 / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == total
    (version_1 / "memory.limit_in_bytes").write_text(f"{2**62}\n")
    assert memory_limit(tmp_path) == total
    (version_1 / "memory.limit_in_bytes").write_text(f"{2**24}\n")
    assert memory_limit(tmp_path) == 2**24
    (version_2.parent / "memory.max").write_text(f"{2**23}\n")
    assert memory_limit(tmp_path) == 2**23
