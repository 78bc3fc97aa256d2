"""Whether a long run that grows is told from one that doesn't."""

import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak import EVALUATIONS, Sample, between_evaluations, growths, last_step, second_half, slope, watch

TOTAL = 20_000


def run(
    memory: Callable[[float], float] = lambda thousand: 500.0,
    fds: Callable[[int], int] = lambda step: 12,
    threads: Callable[[int], int] = lambda step: 5,
) -> list[Sample]:
    """A look every hundred steps."""
    return [
        Sample(seconds=step / 100, step=step, memory_mib=memory(step / 1000), fds=fds(step), threads=threads(step))
        for step in range(0, TOTAL + 1, 100)
    ]


def judged(samples: list[Sample]) -> list[str]:
    return growths(second_half(samples, TOTAL))


def test_the_slope_is_that_of_the_line_with_the_standard_error_of_the_textbook() -> None:
    noise = random.Random(0)
    samples = run(lambda thousand: 500 + 2 * thousand + noise.gauss(0, 3))
    found = slope(samples)
    x = [sample.step / 1000 for sample in samples]
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((each - mean) ** 2 for each in x))
    assert found.mib == pytest.approx(2, abs=4 * 3 / spread)
    assert found.standard_error == pytest.approx(3 / spread, rel=0.2)


def test_a_flat_run_is_flat_whatever_comes_and_goes_with_a_save() -> None:
    def saving(step: int) -> bool:
        return step % 400 == 0

    samples = run(
        lambda thousand: 500 + 20 * saving(round(1000 * thousand)),
        fds=lambda step: 12 + 2 * saving(step),
        threads=lambda step: 5 + saving(step),
    )
    assert judged(samples) == []


def test_what_fills_up_in_the_first_half_and_the_report_at_the_end_do_not_count() -> None:
    def report(step: float) -> float:
        return 300 * (step >= TOTAL)

    samples = run(
        lambda thousand: 400 + 20 * min(thousand, 10) + report(1000 * thousand),
        fds=lambda step: 12 + (step > 200) + round(report(step)),
    )
    assert judged(samples) == []


def test_an_evaluation_hides_nothing() -> None:
    every = TOTAL // EVALUATIONS
    samples = run(lambda thousand: 500 + 0.3 * thousand + 200 * (round(1000 * thousand) % every == 0))
    assert judged(samples) == []
    assert judged(between_evaluations(samples, TOTAL)) == [
        "memory grows by +0.300 +- 0.000 MiB per 1,000 steps, more than 0.2"
    ]


def test_memory_that_grows_is_named_with_its_slope() -> None:
    """By 2 MiB at least, which a short run doesn't tell from what comes and goes."""
    assert judged(run(lambda thousand: 500 + 0.3 * thousand)) == [
        "memory grows by +0.300 +- 0.000 MiB per 1,000 steps, more than 0.2"
    ]
    assert judged(run(lambda thousand: 500 + 0.15 * thousand)) == []
    longer = [replace(sample, step=10 * sample.step) for sample in run(lambda thousand: 500 + 0.6 * thousand)]
    assert growths(second_half(longer, 10 * TOTAL)) == [
        "memory grows by +0.060 +- 0.000 MiB per 1,000 steps, more than 0.05"
    ]


def test_a_slope_that_may_be_noise_is_none() -> None:
    noise = random.Random(1)
    samples = run(lambda thousand: 500 + 0.06 * thousand + noise.gauss(0, 3))
    assert slope(second_half(samples, TOTAL)).mib > 0.05
    assert judged(samples) == []


def test_a_file_or_a_thread_that_stays_is_named() -> None:
    assert judged(run(fds=lambda step: 12 + (step >= 15_000))) == ["file descriptors: 12 become 13"]
    assert judged(run(threads=lambda step: 5 + step // 2000)) == ["threads: 10 become 14"]


def test_a_run_too_short_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--steps 20000: .* after 10 looks"):
        second_half(run()[::10], TOTAL)


def test_the_last_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert last_step(metrics) == 0
    metrics.write_text('{"step": 1')
    assert last_step(metrics) == 0
    metrics.write_text("".join(f'{{"step": {step}}}\n' for step in range(2000)) + '{"step": 2')
    assert last_step(metrics) == 1999


LEAKING = """
import json, os, sys, threading, time
assert sys.stdout.isatty()
held = []
with open(sys.argv[1] + "/metrics.jsonl", "w") as metrics:
    for step in range(0, 1001, 10):
        held += [bytearray(2**18), os.open(os.devnull, os.O_RDONLY)]
        held[-2][::4096] = b"x" * 64
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        print(json.dumps({"step": step}), file=metrics, flush=True)
        print("." * 10_000)
        time.sleep(0.01)
"""


def test_a_process_that_leaks_is_found_out_from_outside(tmp_path: Path) -> None:
    samples = watch([sys.executable, "-c", LEAKING, str(tmp_path)], tmp_path, interval=0.01)
    memory, fds, threads = growths(second_half(samples, 1000))
    assert memory.startswith("memory grows by +2")  # 25 MiB in 1,000 steps
    assert fds.startswith("file descriptors: ")
    assert threads.startswith("threads: ")


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("step 10/20\nfastdcgan: error: no space left\n")
    with pytest.raises(ValueError, match="the run ended with 3: fastdcgan: error: no space left"):
        watch([sys.executable, "-c", "import sys; sys.exit(3)"], tmp_path, interval=0.01)
