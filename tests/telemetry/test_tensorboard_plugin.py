"""The profiler's copy for TensorBoard, as the plugin itself reads it: no browser needed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from fastdcgan.gan.ranges import DATA_WAIT, DISCRIMINATOR_REAL, profiler_range
from fastdcgan.telemetry.profiler import trace
from fastdcgan.telemetry.profiler.step_profiler import ProfileFolder

pytest.importorskip("torch_tb_profiler", reason="needs the extra `profile`")

pytestmark = pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")


def read(recorded: dict[str, Any]) -> Any:
    """What the plugin shows of a trace once it is made ready for it."""
    from torch_tb_profiler.profiler.data import RunProfileData
    from torch_tb_profiler.profiler.run_generator import RunGenerator

    data = RunProfileData.from_json("rank0", None, trace.for_tensorboard(recorded))
    return RunGenerator("rank0", None, data).generate_run_profile()


def operators(recorded: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read(recorded).operation_table_by_name["data"]}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two steps that wait and multiply."""
    file = tmp_path_factory.mktemp("trace") / "trace.json"
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=0, warmup=1, active=2, repeat=1),
        on_trace_ready=lambda done: done.export_chrome_trace(str(file)),
        profile_memory=True,
        acc_events=True,
    ) as profiled:
        for _ in range(3):
            with profiler_range(DATA_WAIT):
                matrix = torch.ones(64, 64)
            with profiler_range(DISCRIMINATOR_REAL):
                matrix.mm(matrix)
            profiled.step()
    return trace.parse(file.read_text())


def test_ranges_are_rows_of_the_operator_table(recorded: dict[str, Any]) -> None:
    rows = operators(recorded)
    assert rows["aten::mm"]["calls"] == rows[DISCRIMINATOR_REAL]["calls"] == rows[DATA_WAIT]["calls"] == 2
    assert rows[DISCRIMINATOR_REAL]["host_total_duration"] >= rows["aten::mm"]["host_total_duration"] > 0
    assert {view.name for view in read(recorded).views} >= {"overall", "operator", "trace", "memory"}


def test_waiting_for_data_is_not_computing(recorded: dict[str, Any]) -> None:
    overview = read(recorded).overview
    a_step = {part["name"]: part["value"] for part in overview["performance"][0]["children"]}
    assert a_step["DataLoader"] == pytest.approx(operators(recorded)[DATA_WAIT]["host_total_duration"] / 2, abs=1)


@pytest.mark.parametrize("launch", ["cuda_runtime", "cuda_driver"])
def test_device_time_is_attributed_to_the_launching_operator(launch: str) -> None:
    """Written by hand, as PyTorch writes it where there is a GPU."""

    def event(category: str, name: str, start: int, microseconds: int, **arguments: int) -> dict[str, Any]:
        where = {"pid": 0, "tid": 7} if category == "kernel" else {"pid": 1, "tid": 1}
        return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": microseconds, "args": arguments, **where}

    rows = operators(
        {
            "deviceProperties": [{"id": 0, "name": "a GPU", "totalGlobalMem": 2**34, "computeMajor": 9}],
            "traceEvents": [
                event("user_annotation", "ProfilerStep#1", 0, 1000, **{"External id": 1}),
                event("user_annotation", DISCRIMINATOR_REAL, 10, 100, **{"External id": 2}),
                event("cpu_op", "aten::mm", 20, 50, **{"External id": 3}),
                event(launch, "launch", 30, 10, correlation=4, **{"External id": 3}),
                event("kernel", "gemm", 200, 300, correlation=4, device=0, **{"External id": 3}),
            ],
        }
    )
    assert rows["aten::mm"]["device_self_duration"] == 300
    assert rows[DISCRIMINATOR_REAL]["device_total_duration"] == 300


def test_the_plugin_finds_the_copy_of_each_rank_and_nothing_else() -> None:
    from torch_tb_profiler.consts import WORKER_PATTERN

    for rank in range(2):
        folder = ProfileFolder(Path("profile"), rank)
        worker, span = WORKER_PATTERN.match(folder.tensorboard.name).groups()
        assert (worker, span) == (f"rank{rank}", None)
        assert not WORKER_PATTERN.match(folder.trace.name)
