"""The proof on a GPU: what is measured in which order, what a failure costs, and what is done without a device."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_benchmarks import Machine, within_2_percent

from benchmarks.budget import Budget, Case
from benchmarks.conditions import ROOT
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import launches, matrix, plan_parity, speed, supervisor
from benchmarks.gpu.choice import remember_fastest
from benchmarks.gpu.contenders import EXAMPLES, REFERENCE, Contender, contenders_of
from benchmarks.gpu.examples_loop import examples_step
from benchmarks.gpu.gpu_tests import judge
from benchmarks.gpu.journal import Journal, left_out, read_journal, under_way
from benchmarks.gpu.machine import nvidia_smi
from benchmarks.gpu.matrix import Axes, Cell, Visit, visits
from benchmarks.gpu.outcomes import VARIABLE
from benchmarks.gpu.parts import Found, Part, Session, run_parts
from benchmarks.gpu.training_run import cores_busy, steady_rate, train
from benchmarks.gpu.turns import LEAST_ROUNDS, MOST_ROUNDS, take_turns
from benchmarks.gpu.worker import ContextLostError, Request, Work
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import choose_plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.telemetry.metrics import Record
from fastdcgan.tuning.choice import choose_plan_for_run, plan_fields
from fastdcgan.tuning.implementations import random_batch, reference_implementation

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

TINY = Axes(archs=("dcgan16",), batches=(2,), precisions=("fp32",), width=4)

# --- The order --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu_axes(monkeypatch: pytest.MonkeyPatch) -> Axes:
    monkeypatch.setattr(matrix, "native_precision", lambda device: "bf16")
    return matrix.axes_of(CUDA)


def test_the_headline_comes_first_then_what_differs_from_it_least(gpu_axes: Axes) -> None:
    cells = gpu_axes.cells()
    assert str(cells[0]) == str(gpu_axes.headline) == "dcgan64, batch 128, bf16"
    assert len(set(cells)) == len(cells) == 3 * 4 * 3
    differing = [sum((cell.arch != "dcgan64", cell.batch != 128, cell.precision != "bf16")) for cell in cells]
    assert differing == sorted(differing)
    assert {cell.batch for cell in cells} == {32, 128, 512, 1024}


def test_what_compiles_waits_until_all_else_is_done_but_for_the_headline(gpu_axes: Axes) -> None:
    quick, whole, *others = found = visits(gpu_axes, CUDA)
    assert quick.cell == whole.cell == gpu_axes.headline
    assert list(whole.contenders) == contenders_of("bf16", CUDA)
    assert any(each.compiles for each in whole.contenders) and not any(each.compiles for each in quick.contenders)
    later = [any(each.compiles for each in visit.contenders) for visit in others]
    assert later == sorted(later)
    assert all(visit.contenders[0].name == REFERENCE for visit in found)
    everything = {name for cell in gpu_axes.cells() for name in of_cell(cell)}
    assert {name for visit in found for name in visit.items()} == everything


def of_cell(cell: Cell) -> list[str]:
    return [matrix.item(cell, each) for each in contenders_of(cell.precision, CUDA)]


def test_a_gpu_without_bf16_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "native_precision", lambda device: "fp16")
    assert {cell.precision for cell in matrix.axes_of(CUDA).cells()} == {"fp16", "fp32"}


def test_parity_is_checked_without_compiling_first(gpu_axes: Axes) -> None:
    pairs = plan_parity.in_order(gpu_axes, CUDA)
    compiled = [plan.backend is not None for _, plan in pairs]
    assert compiled == sorted(compiled) and any(compiled)
    assert pairs[0][0] == "dcgan64"


# --- The parts --------------------------------------------------------------------------------------------------------


def part(name: str, run: Callable[[Session, Case, Found], None], weight: float = 1.0) -> Part:
    return Part(name=name, title=name, weight=weight, run=run)


def a_session(tmp_path: Path) -> Session:
    return Session(device=CPU, folder=tmp_path, work=tmp_path)


def raises(error: BaseException) -> Callable[[Session, Case, Found], None]:
    def run(session: Session, case: Case, found: Found) -> None:
        found.records.append({"kind": "kept"})
        raise error

    return run


def test_a_part_that_fails_costs_no_other_and_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    parts = [
        part("first", raises(RuntimeError("the device fell off the bus\nand more"))),
        part("second", lambda session, case, found: found.records.append({"kind": "result"})),
    ]
    first, second = run_parts(parts, a_session(tmp_path), Budget(100.0, 2), said.append)
    assert (first["status"], first["problems"]) == ("failed", ["RuntimeError: the device fell off the bus"])
    assert first["records"] == [{"kind": "kept"}]
    assert (second["status"], second["records"]) == ("done", [{"kind": "result"}])
    assert "  FAILED: RuntimeError: the device fell off the bus" in said
    said.clear()
    results = {"parts": [first, second], "on_gpu": True}
    assert command.conclude(results, tmp_path, said.append) == 1
    assert any(line.startswith("FAILED: first") for line in said)
    assert command.conclude({"parts": [second], "on_gpu": True}, tmp_path, said.append) == 0


def test_a_part_may_use_its_share_and_what_is_too_late_is_left_out(tmp_path: Path) -> None:
    machine = Machine()
    ends: list[float] = []

    def slow(session: Session, case: Case, found: Found) -> None:
        ends.append(case.end - machine.now)
        machine.now += 99

    parts = [part("slow", slow, weight=3), part("late", slow)]
    slow_one, late = run_parts(parts, a_session(tmp_path), Budget(100.0, 4, machine.clock), lambda line: None)
    assert ends == [within_2_percent(75)]
    assert slow_one["status"] == "done"
    assert late["status"] == "left out" and late["problems"] == ["left out: 1 s were left for it"]


def test_ctrl_c_ends_the_part_and_leaves_the_rest_out(tmp_path: Path) -> None:
    parts = [part("first", raises(KeyboardInterrupt())), part("second", raises(ValueError("never")))]
    first, second = run_parts(parts, a_session(tmp_path), Budget(100.0, 2), lambda line: None)
    assert (first["status"], first["records"]) == ("failed", [{"kind": "kept"}])
    assert (second["status"], second["problems"]) == ("left out", ["interrupted"])


# --- Workers ----------------------------------------------------------------------------------------------------------


def test_a_journal_that_was_cut_short_keeps_its_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.plan(["a", "b", "c", "d"])
    journal.begin("a")
    journal.write("speed", item="a", seconds=[1.0])
    journal.begin("b")
    journal.fail("b", "no")
    journal.begin("c")
    with (tmp_path / "journal").open("a") as file:
        file.write('{"kind": "spe')
    records = read_journal(tmp_path / "journal")
    assert left_out(records) == ["c", "d"]
    assert (last := under_way(records)) and last["item"] == "c"
    assert under_way(records[:-1]) is None
    assert read_journal(tmp_path / "none") == []


def worker_that(monkeypatch: pytest.MonkeyPatch, *attempts: Callable[[Journal, Request], str]) -> list[Request]:
    """The process of a worker, replaced: what each of them writes, and returns as the reason of its end."""
    asked: list[Request] = []

    def attempt(name: str, request: Request, session: Session, case: Case) -> str:
        asked.append(request)
        return attempts[len(asked) - 1](Journal(session.work / f"{name}.jsonl"), request)

    monkeypatch.setattr(supervisor, "_attempt", attempt)
    return asked


def run_it(tmp_path: Path, seconds: float = 100.0) -> Found:
    machine, found = Machine(), Found()
    case = Case(end=machine.now + seconds, latest=machine.now + 2 * seconds, clock=machine.clock)
    supervisor.run_worker("speed", a_session(tmp_path), case, found)
    return found


def test_a_worker_that_dies_is_begun_again_without_what_it_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(journal: Journal, request: Request) -> str:
        journal.plan(["a", "b", "c"])
        journal.begin("a")
        journal.write("speed", item="a")
        journal.begin("b")
        return "ended with -11: it said nothing"

    def goes_on(journal: Journal, request: Request) -> str:
        journal.begin("c")
        journal.write("speed", item="c")
        return ""

    asked = worker_that(monkeypatch, dies, goes_on)
    found = run_it(tmp_path)
    assert [(request.attempt, request.skip) for request in asked] == [(1, []), (2, ["a", "b"])]
    assert found.problems == ["b: the process ended with -11: it said nothing"]
    assert [record["item"] for record in found.records if record["kind"] == "speed"] == ["a", "c"]
    assert found.notes == []


def test_a_worker_that_can_not_even_begin_is_not_begun_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = worker_that(monkeypatch, *[lambda journal, request: "ended with 1: no module"] * 9)
    assert run_it(tmp_path).problems == ["the process ended with 1: no module"]
    assert len(asked) == 1


@pytest.mark.parametrize(("ago", "problems"), [(5.0, 0), (500.0, 1)])
def test_what_time_ended_is_left_out_by_name_and_what_hung_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ago: float, problems: int
) -> None:
    def stops(journal: Journal, request: Request) -> str:
        journal.plan(["a", "b"])
        journal.write("begun", item="a", at=time.time() - ago)
        return supervisor.TIME_OVER

    worker_that(monkeypatch, stops)
    found = run_it(tmp_path)
    assert len(found.problems) == problems
    assert found.notes == [f"No time was left for {2 - problems}: {'a; b' if not problems else 'b'}"]


def test_a_real_worker_that_fails_says_why(tmp_path: Path) -> None:
    found = Found()
    supervisor.run_worker("no such part", a_session(tmp_path), Case(end=1e9, clock=lambda: 0.0), found)
    assert found.problems == ["the process ended with 1: KeyError: 'no such part'"]


def work(tmp_path: Path, **request: Any) -> Work:
    """By a clock that hardly goes on, so that the time is never over."""
    asked = Request(device="cpu", seconds=60.0, **request)
    return Work(asked, Journal(tmp_path / "journal"), Machine().clock, say=lambda line: None)


def test_a_device_that_answers_no_more_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doing = work(tmp_path)
    with doing.item("harmless"):
        raise ValueError("no")

    def lost() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr("benchmarks.gpu.worker.finisher", lambda device: lost)
    with pytest.raises(ContextLostError, match="after the culprit"), doing.item("the culprit"):
        raise ValueError("no")
    failed = [record["item"] for record in read_journal(tmp_path / "journal") if record["kind"] == "failed"]
    assert failed == ["harmless", "the culprit"]


def test_nothing_that_compiles_is_begun_too_late(tmp_path: Path) -> None:
    machine = Machine()
    doing = Work(Request(device="cpu", seconds=100.0), Journal(tmp_path / "journal"), machine.clock)
    assert doing.has_time_for(compiled=True)
    doing.compiled_in(60.0)
    machine.now += 50
    assert doing.has_time_for(compiled=False) and not doing.has_time_for(compiled=True)
    machine.now += 60
    assert not doing.has_time_for(compiled=False)


# --- Turns ------------------------------------------------------------------------------------------------------------


def timer(machine: Machine, name: str, seconds: float) -> Callable[[int], float]:
    return machine.contender(name, seconds).time


def test_each_takes_as_many_steps_as_a_turn_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.turns.TURN_SECONDS", 0.1)
    machine = Machine()
    costs = {"slow": 0.5, "fast": 0.01}
    taken = take_turns(
        {name: timer(machine, name, cost) for name, cost in costs.items()},
        costs,
        seconds=1e9,
        on_failure=lambda name, error: pytest.fail(name),
        clock=machine.clock,
    )
    assert {name: [within_2_percent(cost)] * MOST_ROUNDS for name, cost in costs.items()} == taken
    assert machine.log[:11] == ["slow", *["fast"] * 10]
    assert machine.log[11] == "slow"


def test_turns_end_with_their_time_and_one_that_fails_ends_its_own_alone() -> None:
    machine = Machine()
    calls = iter([0.2, 0.2])
    failed: list[str] = []
    taken = take_turns(
        {"breaks": lambda count: next(calls), "lasts": timer(machine, "lasts", 0.5)},
        {"breaks": 0.1, "lasts": 0.5},
        seconds=0.1,
        on_failure=lambda name, error: failed.append(f"{name}: {type(error).__name__}"),
        clock=machine.clock,
    )
    assert failed == ["breaks: StopIteration"]
    assert len(taken["breaks"]) == 2 and len(taken["lasts"]) == LEAST_ROUNDS


# --- Workers' work, on the CPU ----------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (speed, plan_parity, launches):
        monkeypatch.setattr(module, "axes_of", lambda device: TINY)
    monkeypatch.setattr("benchmarks.gpu.turns.TURN_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.gpu.turns.MOST_ROUNDS", LEAST_ROUNDS)
    monkeypatch.setattr(speed, "MOST_WARM_UP", 1)
    monkeypatch.setattr(speed, "measured_rates", lambda device: {"flops": {"fp32": 1e12, "bf16": 1e12}, "bytes": 1e10})


def kinds(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_journal(tmp_path / "journal") if record["kind"] == kind]


@pytest.mark.usefixtures("tiny")
def test_every_contender_is_timed_in_turns(tmp_path: Path) -> None:
    speed.time_all(work(tmp_path))
    found = {each["contender"]: each for each in kinds(tmp_path, "speed")}
    assert list(found) == [each.name for each in contenders_of("fp32", CPU)]
    assert (
        found[REFERENCE]["fields"] is None and found[str(choose_plan(ExecutionConfig(precision="fp32"), CPU))]["fields"]
    )
    assert len({each["visit"] for each in found.values()}) == 1
    assert all(len(each["seconds"]) == LEAST_ROUNDS for each in found.values())
    assert left_out(read_journal(tmp_path / "journal")) == []


@pytest.mark.usefixtures("tiny")
def test_one_without_room_is_timed_alone_and_one_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [each.name for each in contenders_of("fp32", CPU) if each.plan]
    built: list[str] = []
    original = speed.build

    def build(contender: Contender, *arguments: Any) -> Any:
        built.append(contender.name)
        if contender.name == plans[1] and built.count(contender.name) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if contender.name == EXAMPLES:
            raise RuntimeError("broken")
        return original(contender, *arguments)

    monkeypatch.setattr(speed, "build", build)
    (cell,) = TINY.cells()
    speed.time_all(work(tmp_path))
    visits_of = {each["contender"]: each["visit"] for each in kinds(tmp_path, "speed")}
    assert visits_of[plans[1]] == "0, attempt 1, alone 0"
    assert built[-2:] == [REFERENCE, plans[1]]
    assert [each["item"] for each in kinds(tmp_path, "failed")] == [f"{cell}: {EXAMPLES}"]
    assert visits_of[plans[0]] == "0, attempt 1"


@pytest.mark.usefixtures("tiny")
def test_a_plan_that_failed_parity_is_not_timed() -> None:
    (visit,) = visits(TINY, CPU)
    plan = visit.contenders[-1].plan
    assert plan is not None
    kept = speed.without_refused(visit, [plan_parity.item("dcgan16", plan)])
    assert kept.contenders == visit.contenders[:-1]
    assert speed.without_refused(visit, [plan_parity.item("dcgan64", plan)]) == visit


@pytest.mark.usefixtures("tiny")
def test_every_plan_is_held_to_fp64(tmp_path: Path) -> None:
    plan_parity.check_all(work(tmp_path))
    found = kinds(tmp_path, "parity")
    assert [each["plan"] for each in found] == [each.name for each in contenders_of("fp32", CPU) if each.plan]
    assert all(each["passed"] and 0 < each["error"] <= each["allowed"] for each in found)


@pytest.mark.usefixtures("tiny")
def test_what_a_step_starts_is_counted(tmp_path: Path) -> None:
    launches.count_all(work(tmp_path))
    found = {each["contender"]: each for each in kinds(tmp_path, "launches")}
    assert list(found) == [each.name for each in contenders_of("fp32", CPU)]
    assert found[REFERENCE]["operators"] > 100
    assert found[REFERENCE]["device_seconds"] is None and found[REFERENCE]["kernels"] == 0


@pytest.mark.usefixtures("tiny")
def test_what_is_done_already_is_not_done_again(tmp_path: Path) -> None:
    names = [plan_parity.item("dcgan16", plan) for _, plan in plan_parity.in_order(TINY, CPU)]
    plan_parity.check_all(work(tmp_path, skip=names[1:]))
    assert [each["item"] for each in kinds(tmp_path, "parity")] == names[:1]


def test_a_visit_whose_contenders_are_all_done_is_none(tmp_path: Path) -> None:
    (visit,) = visits(TINY, CPU)
    speed.time_visit(work(tmp_path, skip=visit.items()), "0", visit, seconds=1.0)
    assert read_journal(tmp_path / "journal") == []
    alone = Visit(cell=visit.cell, contenders=visit.contenders[:1])
    speed.time_visit(work(tmp_path), "0", alone, seconds=0.0)
    assert len(kinds(tmp_path, "speed")) == 1


# --- Launches ---------------------------------------------------------------------------------------------------------


def event(cat: str, name: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": 1, "args": args}


def test_launches_are_counted_from_a_trace() -> None:
    steps = [event("user_annotation", f"ProfilerStep#{number}", 1000.0 * number, 900.0) for number in (1, 2)]
    of_a_step = [
        event("cpu_op", "aten::add", 10.0, 50.0, **{"External id": 1}),
        event("cuda_runtime", "cudaLaunchKernel", 20.0, 5.0),
        event("cuda_runtime", "cudaMemcpyAsync", 30.0, 5.0),
        event("cuda_driver", "cuLaunchKernelEx", 40.0, 5.0),
        event("cuda_runtime", "cudaGraphLaunch", 50.0, 5.0),
        event("cuda_runtime", "cudaDeviceSynchronize", 60.0, 300.0),
        event("kernel", "add", 100.0, 100.0),
        event("kernel", "mul", 150.0, 100.0),  # beside the other
        event("kernel", "replayed", 300.0, 50.0),
        event("gpu_memcpy", "copy", 400.0, 10.0),
    ]
    moved = [{**each, "ts": each["ts"] + step["ts"]} for step in steps for each in of_a_step]
    before = [{**each, "ts": each["ts"]} for each in of_a_step[1:2]]  # of a step that is not recorded
    found = launches.read_counts({"traceEvents": [*before, *steps, *moved]})
    assert (found.launches, found.kernels) == (4, 4)
    assert found.device_seconds == pytest.approx((150 + 50 + 10) / 1e6)
    assert found.operators >= 1


# --- pytorch/examples' loop -------------------------------------------------------------------------------------------


def test_the_examples_loop_learns_what_the_reference_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = architecture("dcgan16", width=4)
    theirs, ours = (reference_implementation(arch, CPU) for _ in range(2))
    for one, other in ((theirs.generator, ours.generator), (theirs.discriminator, ours.discriminator)):
        other.load_state_dict(one.state_dict())
    real_BCHW, z_BL = random_batch(arch, 4, CPU)
    monkeypatch.setattr("benchmarks.gpu.examples_loop.reference_implementation", lambda *_: theirs)
    step = examples_step(arch, 4, CPU)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: z_BL)
    waits: list[str] = []
    item = torch.Tensor.item

    def counted(tensor: torch.Tensor) -> Any:
        waits.append(Path(sys._getframe(1).f_code.co_filename).name)
        return item(tensor)

    monkeypatch.setattr(torch.Tensor, "item", counted)
    d_real, d_fake, d_fooled = step()
    assert waits.count("examples_loop.py") == 3
    metrics = ours.step(real_BCHW, z_BL)
    assert d_real == pytest.approx(float(metrics["d_real"]), rel=1e-4)
    assert d_fake == pytest.approx(float(metrics["d_fake"]), rel=1e-4)
    assert d_fooled != d_fake
    for name in ("optimizer_d", "optimizer_g"):
        one, other = (
            torch.cat([state["exp_avg"].flatten() for state in getattr(each, name).state.values()])
            for each in (theirs, ours)
        )
        assert float((one - other).norm() / other.norm()) < 1e-4


def test_the_examples_loop_under_autocast() -> None:
    step = examples_step(architecture("dcgan16", width=4), 2, CPU, torch.bfloat16)
    assert all(0 < probability < 1 for _ in range(2) for probability in step())


# --- Tests, machine, runs ---------------------------------------------------------------------------------------------


def test_the_outcomes_of_tests_are_written_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='needs two')\ndef test_other(): pass\n"
    )
    (tmp_path / "test_broken.py").write_text("import nothing_of_that_name\n")
    outcomes = tmp_path / "outcomes"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", tmp_path, "-p", "benchmarks.gpu.outcomes", "-p", "no:cacheprovider",
         "--continue-on-collection-errors", "--rootdir", tmp_path],
        cwd=ROOT, env={**os.environ, VARIABLE: str(outcomes)}, capture_output=True,
    )  # fmt: skip
    found = {each["item"].rpartition("/")[2]: each for each in read_journal(outcomes)}
    assert {name: each["outcome"] for name, each in found.items()} == {
        "test_some.py::test_good": "passed",
        "test_some.py::test_bad": "failed",
        "test_some.py::test_other": "skipped",
        "test_broken.py": "failed",
    }
    assert "nothing_of_that_name" in found["test_broken.py"]["why"]
    assert found["test_some.py::test_other"]["why"] == "needs two"
    verdict = Found()
    judge(list(found.values()), done.returncode, verdict)
    assert len(verdict.records) == 4
    assert [problem.partition(": ")[0].rpartition("/")[2] for problem in verdict.problems] == ["test_some.py::test_bad"]
    assert len(verdict.notes) == 1 and "nothing_of_that_name" in verdict.notes[0]


def test_a_pytest_that_breaks_is_a_failure() -> None:
    verdict = Found()
    judge([], 4, verdict)
    assert verdict.problems == ["pytest ended with 4"]


def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(words: list[str]) -> str:
        asked.append(words)
        return "580.95, 700.00\n"

    found = nvidia_smi({"driver_version": "driver", "power.limit": "power limit, W"}, CUDA, run)
    assert found == {"driver": "580.95", "power limit, W": "700.00"}
    assert "--query-gpu=driver_version,power.limit" in asked[0]

    def nowhere(words: list[str]) -> str:
        raise FileNotFoundError(words[0])

    assert nvidia_smi({"driver_version": "driver"}, CUDA, nowhere) == {
        "nvidia-smi": "says nothing here: FileNotFoundError"
    }


def line(step: int, seconds: float) -> Record:
    return Record(
        step=step, images=100 * step, epoch=0.0, seconds=seconds, loss_d=1.0, loss_g=1.0, d_real=0.5, d_fake=0.5,
        images_per_sec=1.0, data_wait_fraction=0.0,
    )  # fmt: skip


def test_a_runs_rate_leaves_out_its_beginning() -> None:
    records = [line(10, 60.0), *(line(10 * tick, 60.0 + tick) for tick in range(2, 9))]
    assert steady_rate(records) == pytest.approx(1000)
    assert steady_rate(records[:1]) is None
    assert steady_rate([line(10, 1.0), line(20, 2.0)]) == pytest.approx(1000)


def test_cores_that_are_busy() -> None:
    assert cores_busy([(1.0, 10.0), (2.0, 11.0), (5.0, 20.0)]) == 2.5
    assert cores_busy([(1.0, 10.0)]) is None


@pytest.mark.slow
def test_a_run_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures.npy"
    np.save(pictures, np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8))
    tiny_run = ("--data", str(pictures), "--arch", "dcgan16", "--width", "4", "--batch-size", "4", "--track", "none")
    for limit in (30, 60, 120):  # a machine that has other work may not have come to the first line
        endless = [*tiny_run, "--plan", "default", "--images", "100000000"]
        done = train(endless, tmp_path / f"run{limit}", tmp_path / "log", limit_seconds=limit)
        assert done.stopped and not done.problem
        if done.records:
            break
    assert done.images_per_sec and done.first_line_seconds and done.cores_busy
    assert done.plan == str(choose_plan(ExecutionConfig(), CPU))
    failed = train([*tiny_run, "--images", "0"], tmp_path / "other", tmp_path / "log", limit_seconds=60)
    assert failed.problem.startswith("ended with 2: ") and "--images 0" in failed.problem
    assert not failed.records


def test_whole_runs_take_the_fastest_plan_that_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.gpu.parts.axes_of", lambda device: TINY)
    (visit,) = visits(TINY, CPU)
    plans = [each for each in visit.contenders if each.plan]
    assert len(plans) >= 2
    session = a_session(tmp_path)
    session.parts["speed"] = Found(
        records=[
            {"kind": "speed", "item": matrix.item(visit.cell, each), "visit": "0", "contender": each.name,
             "fields": each.plan and plan_fields(each.plan), "seconds": [0.5 if each in plans[:2] else 1.0] * 3}
            for each in visit.contenders
        ]
    )  # fmt: skip
    assert remember_fastest(session) is None  # nothing is known of its parity
    session.parts["parity"] = Found(
        records=[
            {"kind": "parity", "item": plan_parity.item("dcgan16", each.plan), "error": 1e-7, "allowed": 1e-5,
             "passed": each is not plans[0]}
            for each in plans if each.plan
        ]
    )  # fmt: skip
    fastest = remember_fastest(session)
    assert fastest and fastest.plan == plans[1].plan
    assert fastest.images_per_sec == 2 / 0.5
    request = ExecutionConfig(device="cpu")
    chosen = choose_plan_for_run(request, CPU, visit.cell.geometry, visit.cell.batch, images=10)
    if choose_plan(request, CPU).precision == "fp32":  # else a run's own plans are of another precision first
        assert chosen.plan == plans[1].plan and "by measurement" in chosen.why


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(("--minutes", "0.5"), "--minutes 0.5: must be at least 1"), (("--device", "cuda"), "no CUDA device was found")],
)
def test_the_command_refuses_in_one_line(options: tuple[str, ...], complaint: str) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert complaint in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_is_named_by_device_and_never_taken_twice(tmp_path: Path) -> None:
    first = command.new_folder(tmp_path, True, "NVIDIA H100 80GB HBM3")
    again = command.new_folder(tmp_path, True, "NVIDIA H100 80GB HBM3")
    assert first.name.endswith("-gpu-nvidia-h100-80gb-hbm3") and again.name == f"{first.name}-2"
    assert "-no-gpu-" in command.new_folder(tmp_path, False, "AMD EPYC").name
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't write to"):
        command.new_folder(tmp_path / "file", True, "x")


def test_predictions_come_from_the_datasheet_where_there_is_one() -> None:
    measured = [{"records": [{"kind": "rates", "rates": {"flops": {"fp32": 1.0, "bf16": 2.0}, "bytes": 3.0}}]}]
    known = command.peaks("NVIDIA H100 80GB HBM3", measured)
    assert known and known["flops"]["bf16"] == 989e12
    unknown = command.peaks("NVIDIA L4", measured)
    assert unknown and unknown["bytes"] == 3.0 and "NVIDIA L4" in unknown["name"]
    assert command.peaks("NVIDIA L4", []) is None


def test_a_whole_command_writes_its_page_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def works(session: Session, case: Case, found: Found) -> None:
        assert os.environ["FASTDCGAN_CACHE"] == cache.get("folder", os.environ["FASTDCGAN_CACHE"])
        assert case.end < math.inf

    cache: dict[str, str] = {}
    parts = (part("tests", raises(RuntimeError("broken"))), part("parity", works))
    monkeypatch.setattr(command, "PARTS", parts)
    with pytest.raises(SystemExit) as end:
        command.main(minutes=1.0, out=tmp_path, device="cpu")
    assert end.value.code == 1
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "results.json").read_text())["parts"][1]["status"] == "done"
    page = (folder / "report.md").read_text()
    assert page.startswith("# NO GPU") and "RuntimeError: broken" in page
    assert "FAILED: tests: RuntimeError: broken" in capsys.readouterr().out
