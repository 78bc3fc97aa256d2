"""A batch that does not fit into memory: one line that says what would, and the last checkpoint as it was."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdcgan import cli
from fastdcgan.execution import prepare
from fastdcgan.gan import step
from fastdcgan.runs.checkpoints.folder import list_checkpoints

ONE_LINE = Callable[..., str]

TINY = (*("--arch", "dcgan16", "--width", "4", "--device", "cpu", "--compile", "off", "--precision", "fp32"), "--quiet")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 of them, 16x16."""
    path = tmp_path_factory.mktemp("pictures") / "noise.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (10_000, 16, 16, 3), np.uint8))
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> ONE_LINE:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            cli.main(["train", *TINY, *arguments])
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("fastdcgan: error: ")
        return lines[0]

    return run


def test_what_can_not_fit_is_refused_before_a_step(
    refused: ONE_LINE, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdcgan.tuning.memory.memory_limit", lambda: 1800 << 20)
    request = ("--data", str(pictures), "--width", "64", "--out", str(tmp_path / "run"), "--images", "8192")
    line = refused(*request, "--batch-size", "8192")
    found = re.search(r"more than the 1\.8 GiB that can be had here: --batch-size (\d+) or --accumulate (\d+) ", line)
    assert found, line
    batch, parts = found.groups()
    monkeypatch.setattr(prepare, "train_step", quick_step)
    monkeypatch.setattr(prepare, "accumulated_train_step", quick_step)
    cli.main(["train", *TINY, *request, "--batch-size", batch])
    cli.main(
        ["train", *TINY, *request, "--batch-size", "8192", "--accumulate", parts, "--out", str(tmp_path / "other")]
    )


def quick_step(state: step.TrainState, real_BCHW: Tensor, z_BL: Tensor) -> step.StepMetrics:
    return step.StepMetrics(*torch.full((4,), 0.5))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
)
def test_what_did_not_fit_is_one_line(
    error: Exception, refused: ONE_LINE, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ("--data", str(pictures), "--batch-size", "8", "--checkpoint-every", "2", "--out", str(tmp_path / "run"))
    taken = 0

    def step_without_room(state: step.TrainState, real_BCHW: Tensor, z_BL: Tensor) -> step.StepMetrics:
        nonlocal taken
        taken += 1
        if taken == 4:
            raise error
        return step.train_step(state, real_BCHW, z_BL)

    monkeypatch.setattr(prepare, "train_step", step_without_room)
    line = refused(*request, "--images", "48")
    assert "a step of --batch-size 8 does not fit into the memory of cpu: " in line
    (kept,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert kept.name == "step-00000002"
    monkeypatch.undo()
    cli.main(["train", *TINY, *request, "--images", "48"])
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000006"


def test_other_errors_stay_what_they_are(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_step(state: step.TrainState, real_BCHW: Tensor, z_BL: Tensor) -> step.StepMetrics:
        raise RuntimeError("shapes don't match")

    monkeypatch.setattr(prepare, "train_step", broken_step)
    with pytest.raises(RuntimeError, match="shapes don't match"):
        cli.main(
            ["train", *TINY, "--data", str(pictures), "--batch-size", "8", "--images", "8", "--out", str(tmp_path)]
        )


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of 1 GiB."""
    for parent, limit in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        folder = Path("/sys/fs/cgroup", parent, f"fastdcgan-test-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        if not (folder / limit).exists():
            folder.rmdir()
            continue
        (folder / limit).write_text(str(1 << 30))
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group of memory can be made here (root, and /sys/fs/cgroup writable)")


@pytest.mark.slow
def test_in_a_container(group: Path, pictures: Path, tmp_path: Path) -> None:
    def train(batch: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fastdcgan", "train", "--data", str(pictures), "--arch", "dcgan32"]
        options = ["--batch-size", str(batch), "--images", str(2 * batch), "--out", str(tmp_path / "run"), "--quiet"]
        return subprocess.run(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command, *options, "--precision", "fp32"],
            capture_output=True,
            text=True,
        )

    refused = train(8192)
    assert refused.returncode == 2, refused
    found = re.search(r"more than the 1\.0 GiB that can be had here: --batch-size (\d+)", refused.stderr)
    assert found, refused.stderr
    assert train(int(found[1])).returncode == 0, "what is advised fits"
