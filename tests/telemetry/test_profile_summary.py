"""What a profile says: the right ceiling beside each operator, and the one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastdcgan.gan import ranges
from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.roofline import Ceilings
from fastdcgan.runs.folder import RunFolder
from fastdcgan.telemetry.profiler.memory_timeline import peak, plot_memory
from fastdcgan.telemetry.profiler.summary import ProfiledRun, as_text, find_bottleneck, summarise, write_summary
from fastdcgan.telemetry.profiler.trace import MemoryPoint, NamedRange, OperatorTotal, Window
from fastdcgan.telemetry.report.run_facts import read_profile

MACHINE = Ceilings(name="this CPU", flops={"fp32": 100e9, "bf16": 400e9}, bytes=20e9)

SUBJECT = ProfiledRun(arch=architecture("dcgan32"), batch=16, plan="bf16", device=torch.device("cpu"))


def window(*rows: OperatorTotal, steps: int = 1, busy: float | None = None, **seconds_by_range: float) -> Window:
    """A second long."""
    return Window(
        steps=steps,
        seconds=1.0,
        length=1.0,
        rows=rows,
        ranges=[
            NamedRange(name=name.replace("_", " "), start=0.0, seconds=seconds)
            for name, seconds in seconds_by_range.items()
        ],
        memory=[],
        device="cpu" if busy is None else "gpu",
        device_busy=busy,
    )


CONVOLUTION = OperatorTotal(name="aten::convolution", calls=4, seconds=0.6, flops=120e9, precision="bf16")
COPY = OperatorTotal(name="aten::copy_", calls=2, seconds=0.1, bytes=1e9)


def test_an_operator_stands_beside_the_ceiling_of_its_precision() -> None:
    product = OperatorTotal(name="aten::mm", calls=2, seconds=0.2, flops=10e9, precision="fp32")
    half = OperatorTotal(name="aten::bmm", calls=2, seconds=0.1, flops=10e9, precision="fp16")
    unknown = OperatorTotal(name="aten::empty", calls=9, seconds=0.01)
    found = summarise(window(CONVOLUTION, product, COPY, half, unknown, steps=2), SUBJECT, MACHINE).operators
    assert [(o.calls, o.seconds, o.share) for o in found[:1]] == [(2, 0.3, 0.6)]
    assert [(o.unit, o.achieved, o.ceiling) for o in found] == [
        ("FLOP/s", pytest.approx(200e9), 400e9),
        ("FLOP/s", pytest.approx(50e9), 100e9),
        ("B/s", pytest.approx(10e9), 20e9),
        ("FLOP/s", pytest.approx(100e9), 400e9),  # tensor cores take fp16 as fast as bf16
        (None, None, None),
    ]


@pytest.mark.parametrize(
    ("found", "by", "words"),
    [
        (window(CONVOLUTION, COPY), "arithmetic", "take 60% of it, at 50% of the best rate that this CPU"),
        (
            window(OperatorTotal(name="aten::copy_", seconds=0.7, bytes=7e9)),
            "memory",
            "take 70% of it, at 50% of the bandwidth",
        ),
        (window(COPY, data_wait=0.7), "data", "for 70% of it there is nothing to do but wait for pictures"),
        (window(COPY, **{ranges.ALL_REDUCE: 0.6}), "communication", "60% of it goes by in all-reduce"),
        (window(COPY), "overhead", "90% of it is Python"),
        (window(COPY, busy=0.2, data_wait=0.1), "launches", "for 70% of it the device waits for Python"),
        (window(COPY, busy=0.2, data_wait=0.7), "data", "for 70% of it"),
        # What the host waits for while the device works costs nothing.
        (window(CONVOLUTION, busy=0.9, data_wait=0.9), "arithmetic", "take 60% of it"),
    ],
)
def test_the_bottleneck_is_the_largest_part(found: Window, by: str, words: str) -> None:
    verdict = find_bottleneck(found, MACHINE)
    assert verdict.by == by
    assert words in verdict.sentence
    assert verdict.sentence.count(". ") == 0


def test_a_machine_that_is_not_known_has_no_ceiling() -> None:
    summary = summarise(window(CONVOLUTION), SUBJECT, None)
    assert summary.operators[0].ceiling is None
    assert summary.verdict.sentence.endswith("take 60% of it.")
    assert "machine unknown here" in " ".join(as_text(summary).split())


def test_the_text_has_ten_operators_the_ranges_and_the_sentence(tmp_path: Path) -> None:
    rows = [OperatorTotal(name=f"aten::op{n:02}", calls=1, seconds=0.05) for n in range(12)]
    summary = summarise(window(CONVOLUTION, *rows, data_wait=0.25), SUBJECT, MACHINE)
    text = as_text(summary)
    assert "aten::op08" in text
    assert "aten::op09" not in text
    assert [line.split() for line in text.splitlines() if "convolution " in line] == [
        ["aten::convolution", "4", "600.00", "60.0%", "200.0", "GFLOP/s", "400.0", "GFLOP/s", "50%"]
    ]
    assert [line.split() for line in text.splitlines() if "data wait" in line] == [["data", "wait", "250.00", "25.0%"]]
    assert text.splitlines()[-1] == summary.verdict.sentence
    assert "\x1b" not in text
    write_summary(summary, tmp_path / "summary.json", ["trace.json.gz"])
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read["verdict"] == {"by": "arithmetic", "sentence": summary.verdict.sentence}
    assert len(read["operators"]) == 10
    assert read["phases"] == [{"name": "data wait", "seconds": 0.25, "share": 0.25}]
    assert read["files"] == ["trace.json.gz"]


def test_the_report_finds_the_sentence_where_the_profiler_writes_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.profile.mkdir()
    summary = summarise(window(CONVOLUTION, data_wait=0.25), SUBJECT, MACHINE)
    write_summary(summary, folder.profile / "summary.json", [])
    found = read_profile(folder)
    assert found is not None and found[0] == summary.verdict.sentence != ""


def test_the_peak_of_memory_is_in_the_innermost_range(tmp_path: Path) -> None:
    found = Window(
        steps=1,
        seconds=1.0,
        length=1.0,
        rows=[],
        ranges=[
            NamedRange(name=ranges.BACKWARD_D, start=0.2, seconds=0.5),
            NamedRange(name=ranges.ALL_REDUCE, start=0.3, seconds=0.1),
        ],
        memory=[MemoryPoint(seconds=0.1 * n, bytes=held) for n, held in enumerate((1, 2, 3, 9, 4))],
        device="cpu",
        device_busy=None,
    )
    most = peak(found)
    assert most is not None
    assert (most[0].bytes, most[1]) == (9, ranges.ALL_REDUCE)
    plot_memory(found, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("plan", ["bf16", "bf16 + replayed"])
def test_memory_that_a_replayed_step_keeps_is_said_to_be_left_out(plan: str) -> None:
    summary = replace(summarise(window(COPY), replace(SUBJECT, plan=plan), MACHINE), peak_bytes=2**20)
    text = " ".join(as_text(summary).split())
    assert "Memory: 1.0 MiB at most" in text and ("--compile off" in text) == ("replayed" in plan)


def test_no_memory_recorded_is_no_plot(tmp_path: Path) -> None:
    assert peak(window(COPY)) is None
    plot_memory(window(COPY), tmp_path / "memory.png")
    assert not (tmp_path / "memory.png").exists()
