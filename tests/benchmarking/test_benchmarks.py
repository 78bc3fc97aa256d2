"""The measuring code, against clocks of our own, and what a report says of figures that are known."""

import itertools
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from benchmarks import conditions, gather, measure, plans, processes, report, results, table, worker
from benchmarks.loading import Stream, array_batches
from benchmarks.measure import InProcess, Measured, take_turns
from benchmarks.photographs import link_photographs, write_photographs
from fastdcgan.data.stream import normalise
from fastdcgan.execution.plan import Plan, Precision


class Machine:
    """A clock that steps move on, each by what it costs, and every reading by a little."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []
        self.speed = 1.0

    def clock(self) -> float:
        self.now += 2e-6
        return self.now

    def contender(self, name: str, seconds: float, first: float = 0.0) -> InProcess:
        """A step of a known duration; the first takes this much longer."""
        extra = iter([first])

        def step() -> None:
            self.log.append(name)
            self.now += (seconds + next(extra, 0.0)) / self.speed

        return InProcess(step, clock=self.clock)


class Benchmark:
    """pytest-benchmark's `pedantic`, without its own timing."""

    def __init__(self) -> None:
        self.rounds = 0

    def pedantic(self, target: Callable[[], object], setup: Callable[[], object], rounds: int) -> None:
        self.rounds = rounds
        for _ in range(rounds):
            setup()
            target()


def within_2_percent(value: float) -> Any:
    return pytest.approx(value, rel=0.02)


# --- Measuring --------------------------------------------------------------------------------------------------------


def test_steps_of_known_duration_come_out_right() -> None:
    machine = Machine()
    measured = take_turns(
        Benchmark(),
        {"reference": machine.contender("reference", 0.8), "ours": machine.contender("ours", 0.25)},
    )
    info = results.throughput(measured, suite="step", case="x", images=128, ceiling=1024.0)
    assert info["images_per_sec"] == within_2_percent(512)
    assert info["reference_images_per_sec"] == within_2_percent(160)
    assert info["speedup"] == within_2_percent(3.2)
    assert info["ceiling_fraction"] == within_2_percent(0.5)
    assert info["pairs"] == 15


def test_short_steps_are_taken_many_at_a_time_and_still_come_out_right() -> None:
    machine = Machine()
    measured = take_turns(
        Benchmark(), {"reference": machine.contender("r", 0.003), "ours": machine.contender("o", 0.001)}
    )
    assert measured.steps_per_turn == pytest.approx(200, abs=1)
    assert statistics.median(measured.seconds["ours"]) == within_2_percent(0.001)
    assert statistics.median(measured.seconds["reference"]) == within_2_percent(0.003)


def test_what_the_first_step_takes_is_kept_apart() -> None:
    machine = Machine()
    measured = take_turns(
        Benchmark(), {"reference": machine.contender("r", 0.5), "ours": machine.contender("o", 0.25, first=30.0)}
    )
    info = results.throughput(measured, suite="step", case="x", images=128)
    assert info["warm_up_seconds"] == within_2_percent(30.25)
    assert info["reference_warm_up_seconds"] == within_2_percent(0.5)
    assert info["images_per_sec"] == within_2_percent(512)


def test_three_take_turns_and_ours_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_BENCH_SECONDS", "4.5")
    machine = Machine()
    measured = take_turns(
        (benchmark := Benchmark()),
        {
            "reference": machine.contender("reference", 0.6),
            "without": machine.contender("without", 0.3),
            "ours": machine.contender("ours", 0.2),
        },
    )
    assert benchmark.rounds == 4  # of 1.1 s
    assert machine.log == ["reference", "without", "ours"] * (4 + 2)
    assert measured.against("without").speedup == within_2_percent(1.5)
    assert measured.against("reference").speedup == within_2_percent(3.0)


@pytest.mark.parametrize(("seconds_per_pair", "pairs"), [(60.0, 3), (5.0, 5), (0.1, 15)])
def test_pairs_fit_the_budget_between_the_least_and_the_most(seconds_per_pair: float, pairs: int) -> None:
    assert measure.pairs_within(25.0, seconds_per_pair) == pairs


def test_a_cost_is_the_median_of_what_it_took_each_time() -> None:
    info = results.cost(suite="order", case="x", seconds=[3.0, 1.0, 2.0], peak_memory_mib=None, files=7)
    assert (info["seconds"], info["seconds_quartiles"], info["times"], info["files"]) == (2.0, [1.5, 2.5], 3, 7)
    assert "peak_memory_mib" not in info


def test_a_duration_is_what_is_left_when_the_other_is_subtracted_turn_by_turn() -> None:
    measured = Measured(
        seconds={"import torch": (1.0, 2.0, 3.0), "ours": (4.0, 5.5, 6.0)},
        warm_up_seconds={"import torch": 9.0, "ours": 20.0},
        steps_per_turn=1,
    )
    info = results.duration(measured, less="import torch", suite="start-up", case="x")
    assert (info["seconds"], info["seconds_quartiles"]) == (3.0, [3.0, 3.25])
    assert (info["seconds_in_all"], info["warm_up_seconds"]) == (5.5, 20.0)


def test_an_overhead_is_a_step_s_share_of_an_iteration_and_beside_it_what_all_takes() -> None:
    measured = Measured(
        seconds={"with pictures": (3e-3, 4e-3, 6e-3), "ours": (1e-3, 2e-3, 2.5e-3)},
        warm_up_seconds={"with pictures": 1.0, "ours": 1.0},
        steps_per_turn=1,
    )
    info = results.overhead(measured, in_all="with pictures", suite="host overhead", case="x", iterations=10, batch=8)
    assert (info["microseconds"], info["microseconds_quartiles"]) == (200.0, [150.0, 225.0])
    assert (info["microseconds_in_all"], info["microseconds_in_all_quartiles"]) == (400.0, [350.0, 500.0])
    assert (info["pairs"], info["batch"]) == (3, 8)


def test_a_stream_says_which_share_of_its_time_was_waiting() -> None:
    machine = Machine()

    def batches() -> Iterator[torch.Tensor]:
        while True:
            machine.now += 0.1
            yield torch.zeros(1)

    def train(_: torch.Tensor) -> None:
        machine.now += 0.3

    stream = Stream(batches(), train, stored=3, refill_seconds=0.0, clock=machine.clock)
    assert stream.time(5) == within_2_percent(2.0)
    assert stream.time(2) == within_2_percent(0.8)
    assert stream.waiting == [within_2_percent(0.25)] * 2


def test_a_loader_over_an_array_gives_what_ours_gives() -> None:
    pictures_NHWC = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    known = {picture.numpy().tobytes() for picture in torch.from_numpy(pictures_NHWC)}
    (batch_BHWC,) = itertools.islice(array_batches(pictures_NHWC, 6, normalised=False), 1)
    assert {picture.numpy().tobytes() for picture in batch_BHWC} == known
    (real_BCHW,) = itertools.islice(array_batches(pictures_NHWC, 6, normalised=True), 1)
    ours_BCHW = normalise(torch.from_numpy(pictures_NHWC))
    for real_CHW in real_BCHW:
        assert any(torch.allclose(real_CHW, our_CHW, atol=1e-6) for our_CHW in ours_BCHW)


def test_gathering_by_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    gather.main(megabytes=10, turns=3, batches=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["28x28x1", "64x64x3", "128x128x3"]
    for line in lines:
        values = [float(number) for number in re.findall(r"[\d.]+", line.partition(":")[2])]
        assert all(low <= median <= high for median, low, high in (values[:3], values[3:])) and min(values) > 0


def test_packing_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    write_photographs(tmp_path / "photographs", 3)
    link_photographs(tmp_path / "photographs", tmp_path / "linked", 7)
    first, again = (
        json.loads(subprocess.run([sys.executable, "-m", "benchmarks.packing", str(tmp_path / "linked"), "16", "1"],
                                  capture_output=True, cwd=conditions.ROOT, check=True).stdout)
        for _ in range(2)
    )  # fmt: skip
    assert first["pictures"] == again["pictures"] == 7
    assert 0 < first["checked_seconds"] < first["seconds"]
    assert again["checked_seconds"] == 0.0
    if sys.platform == "linux":
        assert again["peak_memory_mib"] <= first["peak_memory_mib"] < 1024
    (pack,) = (tmp_path / "cache" / "packs").glob("*.npy")
    assert pack.stat().st_size > 7 * 16 * 16 * 3


# --- Workers ----------------------------------------------------------------------------------------------------------


def served(requests: str, steps: InProcess) -> list[dict[str, float]]:
    answers: list[str] = []
    worker.serve(StringIO(requests), answers.append, steps, memory=lambda: 321.5)
    return [json.loads(answer) for answer in answers]


def test_a_worker_answers_how_long_steps_took() -> None:
    machine = Machine()
    first, five, one, memory = served("step 5\nstep 1\nmemory\n", machine.contender("x", 0.2, first=7.0))
    assert first == {"warm_up_seconds": within_2_percent(7.2)}
    assert five == {"seconds": within_2_percent(1.0)}
    assert one == {"seconds": within_2_percent(0.2)}
    assert memory == {"peak_memory_mib": 321.5}
    assert len(machine.log) == 1 + 5 + 1


@pytest.mark.parametrize("request_", ["step", "step many", "stop 3", ""])
def test_a_worker_refuses_what_is_no_request(request_: str) -> None:
    with pytest.raises(ValueError, match="not a request"):
        served(f"{request_}\n", Machine().contender("x", 0.2))


def test_a_plan_survives_the_command_line() -> None:
    plan = Plan(precision="bf16", channels_last=False, backend="inductor")
    *_, arch, batch, sent = worker.command("ours", "dcgan28", 64, plan)
    assert (arch, batch) == ("dcgan28", "64")
    assert Plan(**json.loads(sent)) == plan


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_both_ends_of_a_worker() -> None:
    code = """
import sys
print('{"warm_up_seconds": 7.5}', flush=True)
for line in sys.stdin:
    word, _, count = line.partition(" ")
    print('{"peak_memory_mib": 64.0}' if word == "memory\\n" else '{"seconds": %f}' % (0.5 * int(count)), flush=True)
"""
    with processes.worker(python(code)) as contender:
        assert contender.time(1) == 7.5  # the warm-up
        assert contender.time(4) == 2.0
        assert contender.peak_memory_mib() == 64.0
        assert contender.idle_share() in (None, pytest.approx(0.0, abs=0.5))


def test_a_worker_that_dies_says_why() -> None:
    code = """
import sys
print('{"warm_up_seconds": 1}', flush=True)
sys.stdin.readline()
sys.exit("out of memory")
"""
    with processes.worker(python(code)) as contender:
        contender.time(1)
        with pytest.raises(RuntimeError, match="ended with 1: out of memory"):
            contender.time(1)


def test_workers_start_with_the_allocator_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OTHER", "kept")
    env = processes.default_environment()
    assert env["OTHER"] == "kept"
    assert not [name for name in env if name.startswith(("THP_", "GLIBC_", "MALLOC_"))]


# --- What is timed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "count"), [("fp32", 10), ("bf16", 11)])
def test_each_technique_changes_the_step_and_predicts_a_gain(precision: Precision, count: int) -> None:
    """On every CPU: one that lacks bf16 is shown what all the others gain in fp32."""
    techniques = plans.techniques(precision)
    assert len({(technique.plan, technique.smallest_tiles) for technique in techniques}) == len(techniques) == count
    assert len({technique.name for technique in techniques}) == count
    assert all(0.5 < technique.predicted_gain < 10 for technique in techniques)


def test_a_plan_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.parity import parity
    from fastdcgan.gan.architecture import architecture
    from fastdcgan.gan.objectives import OBJECTIVES

    plan = Plan(channels_last=False)
    found = parity(architecture("dcgan28"), plan)
    assert 0 < found["parity_error"] <= found["parity_allowed"] == 1e-5
    discriminator, generator = OBJECTIVES["bce"]
    monkeypatch.setitem(OBJECTIVES, "bce", (lambda *logits: 1.01 * discriminator(*logits), generator))
    parity.cache_clear()
    with pytest.raises(ValueError, match="not timed, because its gradients"):
        parity(architecture("dcgan28"), plan)
    parity.cache_clear()


def test_conditions_are_complete_and_fit_into_json() -> None:
    found = conditions.conditions()
    assert found.keys() == {
        "date", "commit", "device", "cpu", "gpu", "cores", "threads", "versions", "load_average", "huge_pages",
        "allocator", "thread_settings", "system",
    }  # fmt: skip
    assert found["versions"].keys() == {"python", "fastdcgan", "torch", "torchvision", "accelerate", "dali"}
    assert found["cores"] >= 1
    assert json.loads(json.dumps(found)) == found


# --- Reports ----------------------------------------------------------------------------------------------------------

CONDITIONS = {
    "date": "2026-01-31 12:00 UTC", "commit": "0123456789abcdef", "device": "cpu", "cpu": "A Processor", "gpu": None,
    "cores": 2, "threads": 2, "versions": {"python": "3.11", "torch": "2.14"}, "load_average": 1.5,
    "huge_pages": "madvise", "allocator": {"MALLOC_ARENA_MAX": "1"}, "thread_settings": {}, "system": "Linux",
}  # fmt: skip


def result(suite: str, case: str, arch: str, ours: float, reference: float, **more: Any) -> dict[str, Any]:
    speedup = ours / reference
    return {
        "suite": suite,
        "case": case,
        "arch": arch,
        "images_per_sec": ours,
        "images_per_sec_quartiles": [0.95 * ours, 1.05 * ours],
        "reference_images_per_sec": reference,
        "reference_images_per_sec_quartiles": [0.9 * reference, 1.1 * reference],
        "speedup": speedup,
        "speedup_quartiles": [speedup - 0.1, speedup + 0.1],
        "pairs": 9,
        "warm_up_seconds": 1.2,
        "plan": "bf16",
        "parity_error": 3e-3,
        "conditions": CONDITIONS,
        **more,
    }


def a_run() -> list[dict[str, Any]]:
    gains: list[dict[str, Any]] = [
        {"technique": "bf16", "technique_number": 1, "predicted_gain": 1.8, "measured_gain": 1.62},
        {"technique": "channels-last", "technique_number": 0, "predicted_gain": 1.3, "measured_gain": 1.41},
    ]
    return [
        result("step", "dcgan64, batch 64", "dcgan64", 190.0, 70.0),
        result("step", "dcgan28, batch 128", "dcgan28", 2910.0, 1090.0, ceiling_images_per_sec=6000.0),
        *(
            result("technique", f"dcgan64, + {gain['technique']}", "dcgan64", 150.0, 60.0,
                   measured_gain_quartiles=[1.3, 1.7], **gain)
            for gain in gains
        ),
        result(
            "headline", "dcgan64, batch 128, bf16", "dcgan64", 200.0, 62.5, ceiling_images_per_sec=356.0,
            ceiling_fraction=0.562, peak_memory_mib=900.0, reference_peak_memory_mib=1200.0,
        ),
        {
            "suite": "start-up", "case": "dcgan64", "seconds": 4.5, "seconds_quartiles": [4.2, 4.9],
            "seconds_in_all": 7.0, "seconds_subtracted": 2.5, "pairs": 5, "warm_up_seconds": 9.0,
            "conditions": CONDITIONS,
        },
        {
            "suite": "packing", "case": "1,000 JPEGs", "seconds": 12.3, "seconds_quartiles": [12.3, 12.3], "times": 1,
            "checked_per_sec": 3100.4, "packed_per_sec": 2740.0, "seconds_again": 0.171, "peak_memory_mib": 199.6,
            "conditions": CONDITIONS,
        },
        result(
            "end to end", "dcgan64, batch 128, packed", "dcgan64", 190.0, 200.0,
            data_wait_fraction=0.00312, data_wait_fraction_quartiles=[0.003, 0.00351],
        ),
        result("packed", "64x64 to uint8", "", 512345.6, 123456.7),
        {
            "suite": "host overhead", "case": "dcgan64, batch 1024, quiet", "microseconds": 61.4,
            "microseconds_quartiles": [58.2, 66.0], "microseconds_in_all": 22345.6,
            "microseconds_in_all_quartiles": [21234.5, 23456.7], "processor_microseconds": 60.6,
            "processor_microseconds_in_all": 22001.0, "pairs": 7, "conditions": CONDITIONS,
        },
    ]  # fmt: skip


def write_run(path: Path, infos: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"benchmarks": [{"name": "x", "extra_info": info} for info in infos]}))
    return path


def row_of(text: str, beginning: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {beginning}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_report_has_all_figures_with_their_spread_and_conditions(tmp_path: Path) -> None:
    report.main(write_run(tmp_path / "bench.json", a_run()), out=tmp_path / "new" / "out")
    text = (tmp_path / "new" / "out" / "report.md").read_text()
    top = text.split("## ")[0]
    for condition in ("A Processor, 2 cores", "torch 2.14", "0123456789abcdef", "2026-01-31", "MALLOC_ARENA_MAX=1"):
        assert condition in top
    assert text.index("as its users run it") < text.index("both in one process") < text.index("technique")
    headline = row_of(text, "dcgan64, batch 128, bf16")
    assert headline[1:4] == ["200", "62", "3.20 (3.10 to 3.30)"]
    assert "56%" in headline and "900 / 1,200 = 0.75" in headline
    assert "quartiles" not in text.split("technique")[0].split("\n## ")[1]
    assert row_of(text, "+ channels-last")[1:3] == ["1.30", "1.41 (1.30 to 1.70)"]
    assert text.index("+ channels-last") < text.index("+ bf16")
    assert "4.50 (4.20 to 4.90)" in row_of(text, "dcgan64 |")
    assert row_of(text, "1,000 JPEGs")[1:6] == ["12.3", "3,100", "2,740", "0.17", "200"]
    assert "0.31% (0.30% to 0.35%)" in row_of(text, "dcgan64, batch 128, packed")
    assert row_of(text, "dcgan64, batch 1024, quiet")[1:5] == [
        "61 (58 to 66)", "61", "22,346 (21,234 to 23,457)", "22,001",
    ]  # fmt: skip
    assert row_of(text, "64x64 to uint8")[1:3] == ["512,346", "486,728 to 537,963"]
    with Image.open(tmp_path / "new" / "out" / "report.png") as picture:
        assert picture.width > 600
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 5


def test_a_case_that_failed_does_not_cost_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(report.read(write_run(tmp_path / "bench.json", [{}, *a_run()]))) == len(a_run())
    assert "1 cases are left out" in capsys.readouterr().err


def test_a_case_of_several_results_is_reported_as_if_each_were_a_case(tmp_path: Path) -> None:
    infos = a_run()
    several = [results.several(infos[:2]), *infos[2:]]
    assert report.read(write_run(tmp_path / "1.json", several)) == report.read(write_run(tmp_path / "2.json", infos))


def on_80_columns(infos: list[dict[str, Any]]) -> list[str]:
    console = Console(file=StringIO(), width=80)
    with console.capture() as capture:
        console.print(table.tables(infos))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_terminal_shows_the_headline_first_and_cuts_nothing() -> None:
    lines = on_80_columns(a_run())
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert lines[0] == report.SUITES["headline"]
    assert lines[2].split("  ")[0] == "dcgan64, batch 128, bf16"
    assert lines[2].split()[4:] == ["200", "62", "3.20", "(3.10", "to", "3.30)", "56%"]
    assert [line.split()[1:4] for line in lines if line.startswith("+ ")] == [
        ["channels-last", "150", "2.50"], ["bf16", "150", "2.50"],
    ]  # fmt: skip
    for figure in ("4.50 (4.20 to 4.90)", "512,346", "12.30", "61 (58 to 66)", "22,346 (21,234 to 23,457)"):
        assert sum(figure in line for line in lines) == 1


def test_a_long_name_takes_a_second_line() -> None:
    name = "dcgan64, batch 128, bf16, BatchNorm local"
    lines = on_80_columns([result("ranks", name, "dcgan64", 1234567.0, 1000000.0, ceiling_fraction=1.24)])
    assert max(map(len, lines)) <= 80
    above, below = lines[2:4]
    assert f"{above[:25].strip()} {below}" == name
    assert above.split()[-7:] == ["1,234,567", "1,000,000", "1.23", "(1.13", "to", "1.33)", "124%"]


def test_a_run_that_repeats_and_one_that_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = a_run()[:2], a_run()[:2]
    second[0]["speedup"] += 0.09
    second[1]["speedup"] += 0.12
    report.main(write_run(tmp_path / "1.json", first), compare=write_run(tmp_path / "2.json", second))
    text = capsys.readouterr().out
    assert row_of(text, "step: dcgan64")[-1] == "yes"
    assert row_of(text, "step: dcgan28")[-1] == "**no**"
    assert "1 of 2 lie within" in text


def test_what_is_measured_once_has_no_spread_to_lie_in() -> None:
    assert "packing" not in report.comparison(a_run(), a_run())
    assert "start-up" in report.comparison(a_run(), a_run())


def test_a_case_that_one_run_lacks_is_counted() -> None:
    assert "4 are in one of the runs alone" in report.comparison(a_run()[:2], a_run()[2:4])
    assert "0 of 0" in report.comparison(a_run()[:2], a_run()[2:4])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        ("{", "is not JSON"),
        ('{"benchmarks": [{"extra_info": {}}]}', "holds no run of these benchmarks"),
        ('{"benchmarks": []}', "holds no run of these benchmarks"),
        ("[]", "holds no run of these benchmarks"),
    ],
)
def test_files_that_are_no_run_cost_one_line(tmp_path: Path, content: str | None, complaint: str) -> None:
    path = tmp_path / "bench.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        report.read(path)
    assert "\n" not in str(caught.value)


def test_the_command_ends_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.report", str(tmp_path / "none.json")],
        capture_output=True, text=True, cwd=conditions.ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "none.json: no such file" in done.stderr
