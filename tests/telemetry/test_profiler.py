"""A window of steps is recorded, and what can't be written is said without ending the run."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdcgan.config import RunConfig
from fastdcgan.gan import ranges
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.ranges import profiler_range
from fastdcgan.limits.roofline import Ceilings
from fastdcgan.telemetry.profiler import step_profiler
from fastdcgan.telemetry.profiler.step_profiler import ProfileFolder, StepProfiler, check_window
from fastdcgan.telemetry.profiler.summary import ProfiledRun

REQUEST = RunConfig(profile_wait=1, profile_warmup=1, profile_active=2)


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Ceilings(name="this CPU", flops={"fp32": 1e11, "bf16": 2e11}, bytes=2e10)
    monkeypatch.setattr(step_profiler, "device_ceilings", lambda device, seconds: here)


def watch(folder: Path, steps: int, said: list[str], rank: int = 0, request: RunConfig = REQUEST) -> StepProfiler:
    subject = ProfiledRun(
        arch=architecture("dcgan16"), batch=4, plan="fp32", device=torch.device("cpu"), rank=rank, world_size=1 + rank
    )
    watched = StepProfiler(ProfileFolder(folder, rank), request, subject, said.append)
    for step in range(steps):
        with profiler_range(ranges.GENERATOR):
            torch.ones(64, 64) @ torch.full((64, 64), float(step))
        watched.step()
    watched.close()
    return watched


def unpacked(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def test_the_window_is_recorded_and_written(tmp_path: Path) -> None:
    said: list[str] = []
    watched = watch(tmp_path / "profile", 6, said)
    assert said == []
    found = {str(path.relative_to(tmp_path / "profile")) for path in (tmp_path / "profile").rglob("*.*")}
    assert found == {
        *("trace.json.gz", "tensorboard/rank0.pt.trace.json.gz", "memory.png", "summary.txt", "summary.json"),
    }
    events = unpacked(tmp_path / "profile" / "trace.json.gz")["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count(ranges.GENERATOR) == 2
    assert [name for name in names if name.startswith("ProfilerStep#")] == ["ProfilerStep#2", "ProfilerStep#3"]
    summary = json.loads((tmp_path / "profile" / "summary.json").read_text())
    product = next(row for row in summary["operators"] if row["name"] == "aten::mm")
    assert product["calls"] == 1
    assert product["achieved"] * product["seconds"] == pytest.approx(2 * 64**3)
    assert sorted(summary["files"]) == sorted(found - {"summary.txt"})
    assert (tmp_path / "profile" / "summary.txt").read_text() == watched.report


def test_the_plugin_reads_its_copy(tmp_path: Path) -> None:
    consts = pytest.importorskip("torch_tb_profiler.consts")
    data = pytest.importorskip("torch_tb_profiler.profiler.data")
    watch(tmp_path, 6, [])
    copy = ProfileFolder(tmp_path).tensorboard
    assert consts.WORKER_PATTERN.match(copy.name).groups() == ("rank0", None)
    assert not any(consts.WORKER_PATTERN.match(path.name) for path in tmp_path.iterdir())
    read = data.RunProfileData.parse("rank0", None, str(copy), str(tmp_path))
    assert {"aten::mm", ranges.GENERATOR} <= {operator.name for operator in read.op_list_groupby_name}
    assert read.steps_names == ["2", "3"]


def test_ranks_write_beside_each_other(tmp_path: Path) -> None:
    watch(tmp_path, 6, [], rank=0)
    watched = watch(tmp_path, 6, [], rank=1)
    assert "rank 1 of 2" in watched.report
    for name in ("trace", "trace-rank1"):
        assert (tmp_path / f"{name}.json.gz").exists()
    for rank in (0, 1):
        assert (tmp_path / "tensorboard" / f"rank{rank}.pt.trace.json.gz").exists()
    assert (tmp_path / "summary.txt").read_text() != (tmp_path / "summary-rank1.txt").read_text()


def test_recording_tells_which_steps_are_profiled(tmp_path: Path) -> None:
    subject = ProfiledRun(arch=architecture("dcgan16"), batch=4, plan="fp32", device=torch.device("cpu"))
    watched = StepProfiler(ProfileFolder(tmp_path), REQUEST, subject, print)
    recording, turns = [], []
    for _ in range(6):
        recording.append(watched.recording)
        turns.append(watched.recording_changes)
        watched.step()
    watched.close()
    assert recording == [False, False, True, True, False, False]
    assert turns == [False, True, False, True, False, False]


def test_a_trace_that_is_too_big_is_not_written_but_the_summary_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_profiler, "MAX_TRACE_BYTES", 1000)
    said: list[str] = []
    watched = watch(tmp_path, 6, said)
    assert len(said) == 1
    assert "the trace of 2 steps takes" in said[0]
    assert "--profile-active" in said[0]
    assert "\n" not in said[0]
    assert not ProfileFolder(tmp_path).trace.exists()
    assert not ProfileFolder(tmp_path).tensorboard.exists()
    assert "aten::mm" in watched.report
    assert json.loads((tmp_path / "summary.json").read_text())["files"] == ["memory.png", "summary.json"]


def test_a_window_cut_short_is_written_as_far_as_it_goes(tmp_path: Path) -> None:
    said: list[str] = []
    assert "mean of 1" in watch(tmp_path, 3, said).report
    assert said == []


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_that_ends_before_its_window_is_reported(steps: int, tmp_path: Path) -> None:
    said: list[str] = []
    assert watch(tmp_path, steps, said).report == ""
    assert said == ["profile   no step was recorded: the run ended first"]
    assert not (tmp_path / "summary.json").exists()


def test_a_disk_that_fills_up_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step_profiler, "plot_memory", full)
    said: list[str] = []
    watch(tmp_path, 6, said)
    assert said == [f"profile   can't be written to {tmp_path}: No space left on device"]


def test_a_folder_that_is_a_file_is_refused_before_any_step(tmp_path: Path) -> None:
    (tmp_path / "profile").touch()
    with pytest.raises(ValueError, match=r"can't write to the profile's folder .*profile: .+") as error:
        watch(tmp_path / "profile", 0, [])
    assert "\n" not in str(error.value)


def test_files_of_an_earlier_profile_are_removed(tmp_path: Path) -> None:
    watch(tmp_path, 6, [])
    watch(tmp_path, 1, [])
    assert [path.name for path in tmp_path.rglob("*.*")] == []


def test_a_window_longer_than_the_run_is_refused() -> None:
    check_window(REQUEST, 4)
    with pytest.raises(ValueError, match=r"--profile-wait 1 .*--profile-active 2 need 4 steps, and the run has 3 left"):
        check_window(REQUEST, 3)
