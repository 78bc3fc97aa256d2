import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from fastdcgan.gan.step import StepMetrics
from fastdcgan.telemetry.metrics import MetricsBuffer, MetricsFile, Record, first_non_finite_step, read_metrics

KEYS = [
    *("step", "images", "epoch", "seconds"),
    *("loss_d", "loss_g", "d_real", "d_fake"),
    *("images_per_sec", "data_wait_fraction", "rollbacks"),
]
CPU = torch.device("cpu")


def record(step: int) -> Record:
    return Record(
        step=step,
        images=32 * step,
        epoch=step / 250,
        seconds=0.5 * step,
        loss_d=1.25,
        loss_g=0.75,
        d_real=0.625,
        d_fake=0.375,
        images_per_sec=512.5,
        data_wait_fraction=0.015625,
    )


def metrics(value: float) -> StepMetrics:
    return StepMetrics(*(torch.tensor(value + i / 10) for i in range(4)))


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_line_has_exactly_the_promised_keys(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write(record(10))
    file.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == KEYS
    assert json.loads(line) == asdict(record(10))


def test_lines_are_on_disk_as_soon_as_written(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (10, 20):
        file.write(record(step))
        assert steps(tmp_path / "metrics.jsonl")[-1] == step
    assert list(file.curves["step"]) == [10, 20] and file.curves["loss_d"][1] == record(20).loss_d
    file.close()


def written(path: Path, *numbers: int) -> Path:
    file = MetricsFile(path / "metrics.jsonl")
    for step in numbers:
        file.write(record(step))
    file.close()
    return path / "metrics.jsonl"


@pytest.mark.parametrize(
    ("resume", "kept"), [(0, []), (9, []), (10, [10]), (25, [10, 20]), (30, [10, 20, 30]), (99, [10, 20, 30])]
)
def test_lines_beyond_the_resumed_step_are_dropped(resume: int, kept: list[int], tmp_path: Path) -> None:
    path = written(tmp_path, 10, 20, 30)
    file = MetricsFile(path, resume)
    assert list(file.curves["step"]) == steps(path) == kept
    file.write(record(resume + 10))
    file.close()
    assert steps(path) == [*kept, resume + 10]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("left", [0, 1, 2, 40, -1])
def test_a_truncated_last_line_is_left_out(left: int, tmp_path: Path) -> None:
    path = written(tmp_path, 10, 20, 30)
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(first + second + third[:left].rstrip("}\n"))
    assert read_metrics(path) == [record(10), record(20)]
    file = MetricsFile(path, 30)
    file.write(record(40))
    file.close()
    assert read_metrics(path) == [record(10), record(20), record(40)]
    assert steps(path) == [10, 20, 40]


@pytest.mark.parametrize("key", ["loss_d", "d_fake", "images_per_sec"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_line_holds_what_is_not_json(key: str, value: float, tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    with pytest.raises(AssertionError):
        file.write(replace(record(1), **{key: value}))
    file.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_buffer_gives_its_rows_in_order_and_is_empty_afterwards() -> None:
    log = MetricsBuffer(3, CPU)
    for value in (1.0, 2.0):
        log.add(metrics(value))
    first = log.take()
    assert first.dtype == torch.float32
    torch.testing.assert_close(first, torch.tensor([[1.0, 1.1, 1.2, 1.3], [2.0, 2.1, 2.2, 2.3]]))
    assert log.take().shape == (0, 4)


def test_a_buffer_is_reused_without_changing_what_was_taken() -> None:
    log = MetricsBuffer(2, CPU)
    log.add(metrics(1.0))
    log.add(metrics(2.0))
    first = log.take()
    log.add(metrics(7.0))
    log.add(metrics(8.0))
    assert first[:, 0].tolist() == [1.0, 2.0]
    assert log.take()[:, 0].tolist() == [7.0, 8.0]


def test_a_buffer_copies_the_metrics() -> None:
    log, figures = MetricsBuffer(1, CPU), metrics(1.0)
    log.add(figures)
    figures.loss_d.fill_(9)
    assert log.take()[0, 0] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("row", "column", "name"), [(0, 0, "loss_d"), (1, 1, "loss_g"), (3, 2, "d_real"), (4, 3, "d_fake")]
)
def test_the_first_non_finite_step_is_named(row: int, column: int, name: str, value: float) -> None:
    rows = torch.zeros(5, 4)
    rows[row, column] = value
    # The last row is step 105, so the first one is step 101.
    assert first_non_finite_step(rows, 105) == (101 + row, f"{name} became {value}")


def test_of_several_non_finite_steps_the_first_counts() -> None:
    rows = torch.zeros(5, 4)
    rows[2, 3] = rows[3, 0] = rows[4, :] = float("nan")
    assert first_non_finite_step(rows, 5) == (3, "d_fake became nan")


def test_finite_steps_give_none() -> None:
    assert first_non_finite_step(torch.full((5, 4), 1e30), 5) is None
    assert first_non_finite_step(torch.empty(0, 4), 5) is None
