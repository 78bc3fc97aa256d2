"""Traces as PyTorch writes them: whose time is whose, on the CPU and on a device, and what the plugin is given."""

from typing import Any

import pytest

from fastdcgan.gan import ranges
from fastdcgan.telemetry.profiler.trace import OperatorTotal, for_tensorboard, parse, phases, read, write

Event = dict[str, Any]


def event(name: str, start: float, length: float, category: str = "cpu_op", tid: int = 1, **arguments: object) -> Event:
    """Milliseconds."""
    return {
        **{"ph": "X", "cat": category, "name": name, "pid": 1, "tid": tid},
        **{"ts": 1000 * start, "dur": 1000 * length, "args": arguments},
    }


def named(name: str, start: float, length: float) -> Event:
    return event(name, start, length, "user_annotation")


def convolution(start: float, length: float, **arguments: object) -> Event:
    dims, scalars = [[2, 3, 8, 8], [5, 3, 4, 4], []], ["", "", "", "[2, 2]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1"]
    return event(
        "aten::convolution",
        start,
        length,
        **{"Input Dims": dims, "Input type": ["c10::BFloat16"] * 2, "Concrete Inputs": scalars, **arguments},
    )


def trace(*events: Event, steps: int = 1) -> Event:
    return {"traceEvents": [*(named(f"ProfilerStep#{n}", 100 * n, 100) for n in range(steps)), *events]}


def by_name(rows: Any) -> dict[str, OperatorTotal]:
    return {row.name: row for row in rows}


def test_an_operator_counts_with_its_own_time() -> None:
    rows = by_name(read(trace(event("outer", 0, 10), event("inner", 1, 3), event("inner", 5, 2))).rows)
    assert rows["outer"].seconds == pytest.approx(5e-3)
    assert rows["inner"].seconds == pytest.approx(5e-3)
    assert (rows["outer"].calls, rows["inner"].calls) == (1, 2)


def test_a_convolution_counts_with_all_that_it_calls() -> None:
    backend = event("aten::mkldnn_convolution", 1, 8)
    rows = by_name(read(trace(event("outer", 0, 11), convolution(0, 10), backend, event("aten::copy_", 2, 1))).rows)
    assert rows.keys() == {"outer", "aten::convolution"}
    assert rows["aten::convolution"].seconds == pytest.approx(10e-3)
    assert rows["aten::convolution"].flops == 2 * 2 * 5 * 3 * 4 * 4 * 4 * 4
    assert rows["aten::convolution"].precision == "bf16"
    assert rows["outer"].seconds == pytest.approx(1e-3)


def test_threads_are_apart() -> None:
    rows = by_name(read(trace(event("one", 0, 10, tid=1), event("two", 2, 4, tid=2))).rows)
    assert rows["one"].seconds == pytest.approx(10e-3)


def test_kernels_are_the_operators_that_launched_them() -> None:
    window = read(
        trace(
            convolution(0, 1, **{"External id": 7}),
            event("aten::cudnn_convolution", 0.1, 0.5, **{"External id": 8}),
            event("implicit_gemm", 10, 30, "kernel", 9, **{"External id": 8}),
            event("elementwise", 30, 20, "kernel", 10, **{"External id": 99}),
        )
    )
    rows = by_name(window.rows)
    assert rows["aten::convolution"].seconds == pytest.approx(30e-3)
    assert rows["elementwise"].seconds == pytest.approx(20e-3)
    assert window.device == "gpu"
    assert window.device_busy == pytest.approx(40e-3)  # two at a time count once


def test_the_window_lasts_until_the_device_is_done() -> None:
    window = read(trace(event("late", 90, 30, "kernel")))
    assert window.seconds == pytest.approx(120e-3)
    assert window.rows[0].seconds == pytest.approx(30e-3)


def test_a_step_that_a_run_ended_in_does_not_count() -> None:
    window = read(trace(event("a", 10, 5), event("a", 110, 5), steps=2), complete_steps=1)
    assert (window.steps, window.seconds) == (1, pytest.approx(0.1))
    assert by_name(window.rows)["a"].calls == 1
    with pytest.raises(ValueError, match="no step was recorded"):
        read(trace(), complete_steps=0)


def test_samples_and_checkpoints_are_no_part_of_a_step() -> None:
    window = read(trace(event("a", 0, 10), named(ranges.SAMPLES, 50, 30), event("a", 60, 10), steps=2))
    assert window.seconds == pytest.approx(0.170)
    assert by_name(window.rows)["a"].seconds == pytest.approx(10e-3)
    assert phases(window) == {}


def test_ranges_add_up_in_the_order_of_a_step() -> None:
    found = phases(
        read(
            trace(
                named(ranges.BACKWARD_D, 20, 5),
                named(ranges.GENERATOR, 0, 4),
                named(ranges.GENERATOR, 10, 4),
                named(ranges.ALL_REDUCE, 21, 1),
                named("gloo:all_reduce", 22, 2),
                named("Optimizer.step#Adam.step", 30, 9),
            )
        )
    )
    assert list(found) == [ranges.GENERATOR, ranges.BACKWARD_D, ranges.ALL_REDUCE]
    assert found == pytest.approx({ranges.GENERATOR: 8e-3, ranges.BACKWARD_D: 5e-3, ranges.ALL_REDUCE: 3e-3})


def test_memory_is_that_of_the_device() -> None:
    def point(at: float, held: int, kind: int) -> Event:
        arguments = {"Total Allocated": held, "Device Type": kind}
        return {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "ts": 1000 * at, "args": arguments}

    points = point(2, 5, 0), point(1, 3, 0), point(3, 99, 1)
    assert [p.bytes for p in read(trace(*points)).memory] == [3, 5]
    assert [p.bytes for p in read(trace(*points, event("k", 5, 1, "kernel"))).memory] == [99]


def test_a_trace_without_a_complete_step_is_refused() -> None:
    with pytest.raises(ValueError, match="no step was recorded"):
        read({"traceEvents": [event("a", 0, 1)]})


def test_the_plugins_copy_knows_runtime_calls_and_our_ranges_and_the_original_stays() -> None:
    ours = trace(
        event("cudaLaunchKernel", 0, 1, "cuda_runtime"),
        event("cuLaunchKernel", 1, 1, "cuda_driver"),
        event("gemm", 2, 1, "kernel"),
        named(ranges.DATA_WAIT, 3, 1),
        named("Optimizer.step#Adam.step", 4, 1),
    )
    before = write(ours)
    copy = for_tensorboard(ours)
    found = [e["cat"] for e in copy["traceEvents"]]
    assert found == ["user_annotation", "Runtime", "Runtime", "kernel", "cpu_op", "cpu_op", "user_annotation"]
    assert write(ours) == before
    assert parse(write(copy)) == copy
