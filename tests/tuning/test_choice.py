"""The plan of a run: a measurement is cached for its conditions and no others, and a continued run keeps its plan."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastdcgan import cli
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution import plan
from fastdcgan.execution.plan import Plan, choose_plan
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.tuning import choice, tune
from fastdcgan.tuning.choice import (
    Choice,
    choose_plan_for_run,
    find_plan,
    load_choice,
    measurement_conditions,
    plan_fields,
    save_choice,
)
from fastdcgan.tuning.paired import PairedTimes
from fastdcgan.tuning.parity import Parity
from fastdcgan.tuning.tune import Measurement, TuningResult

CPU = torch.device("cpu")
ARCH = architecture("dcgan64")
DAYS = 10**9  # images
BF16 = Plan(precision="bf16", stacked=True, keep_memory=True)
FP32 = replace(BF16, precision="fp32")
PASSED = Parity(error=1e-6, allowed=1e-5, beyond=())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, on a machine that multiplies bf16 and that our own kernels are not for."""
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    for module in (plan, tune):
        monkeypatch.setattr(module, "own_kernels", lambda device, precision: ())
    monkeypatch.setattr(plan, "native_precision", lambda device: "bf16")
    return tmp_path / "cache"


def tuning(chosen: Plan, parity: Parity = PASSED) -> TuningResult:
    times = PairedTimes((3.0,), (2.0,)) if parity.passed else None
    return TuningResult(
        arch=ARCH,
        batch=128,
        reference=Measurement(plan=None),
        plans=(Measurement(plan=chosen, parity=parity, times=times),),
        seconds=18.0,
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A log of measurements; steps take a second, and fp32 is always the fastest."""
    log: list[str] = []

    def measure(plans: list[Plan], *_: Any) -> TuningResult:
        assert plans == [BF16, replace(BF16, stacked=False), FP32]
        log.append("measured")
        return tuning(FP32)

    monkeypatch.setattr(choice, "measure_plans", measure)
    monkeypatch.setattr(choice, "time_one_step", lambda *_: log.append("timed") or 1.0)
    yield log


def chosen(images: int = DAYS, arch: Architecture = ARCH, batch: int = 128, **options: Any) -> Choice:
    rest = {key: options.pop(key) for key in ("world_size", "previous_plan", "say") if key in options}
    return choose_plan_for_run(ExecutionConfig(**options), CPU, arch, batch, images=images, **rest)


def test_a_long_run_measures_once_and_says_so(measured: list[str]) -> None:
    said: list[str] = []
    first = chosen(say=said.append)
    assert first.plan == FP32 and "1.5x the reference here, measured just now in 18 s" in first.why
    assert len(said) == 1 and "--plan default" in said[0]
    second = chosen(say=said.append)
    assert second.plan == FP32 and second.why.startswith("chosen on 20") and "1.5x" in second.why
    assert measured == ["timed", "measured"] and len(said) == 1


def test_what_is_measured_holds_for_these_conditions_alone(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen()
    others: list[dict[str, Any]] = [{"batch": 64}, {"arch": architecture("dcgan64", width=32)}, {"compile": "off"}]
    for other in others:
        assert "just now" in chosen(**other).why, other
    monkeypatch.setattr(choice, "__version__", "99")
    assert "just now" in chosen().why
    monkeypatch.setattr(choice, "describe_hardware", lambda device: {"cpu": "another"})
    assert "just now" in chosen().why
    assert measured.count("measured") == 6


def test_short_runs_measure_nothing(measured: list[str]) -> None:
    short = chosen(images=300)
    assert short.plan == BF16 and "too short" in short.why
    assert measured == [], "not even a step is timed"
    a_step_short = chosen(images=int(choice.MIN_RUN_SECONDS - 1) * 128)
    assert a_step_short.plan == BF16 and "too short" in a_step_short.why
    assert "measured" not in measured


def test_where_steps_are_slow_nothing_is_measured(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "time_one_step", lambda *_: choice.MEASURING_SECONDS / 20)
    found = chosen()
    assert found.plan == BF16 and "too long to measure plans briefly" in found.why
    assert measured == []


def test_short_runs_use_what_was_measured_before(measured: list[str]) -> None:
    chosen()
    assert chosen(images=1).plan == FP32


@pytest.mark.parametrize("options", [{"plan": "default"}, {"world_size": 2}])
def test_where_nothing_is_measured_the_rules_decide(measured: list[str], options: dict[str, Any]) -> None:
    assert chosen(**options).plan == BF16
    assert measured == []


def test_a_continued_run_keeps_its_plan(measured: list[str]) -> None:
    assert chosen(previous_plan=plan_fields(BF16)).plan == BF16
    assert chosen(previous_plan=plan_fields(FP32)).plan == FP32
    begun_before = replace(FP32, stacked=False)
    assert chosen(previous_plan=plan_fields(begun_before)).plan == begun_before
    assert measured == []


@pytest.mark.parametrize("fields", [{**plan_fields(FP32), "magic": True}, {"precision": "fp64"}, "fp32", [1]])
def test_an_impossible_previous_plan_is_replaced(measured: list[str], fields: object) -> None:
    found = chosen(previous_plan=fields)
    assert found.plan == FP32 and found.why.startswith("not the one this run was begun with")
    assert "measured" in measured


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: b"",
        lambda kept: b"\xff\xfe not json",
        lambda kept: b"[]",
        lambda kept: json.dumps({**kept, "conditions": {}}).encode(),
        lambda kept: json.dumps({**kept, "plan": {**kept["plan"], "magic": True}}).encode(),
        lambda kept: json.dumps({**kept, "plan": {**kept["plan"], "precision": "fp64"}}).encode(),
        lambda kept: json.dumps({**kept, "plan": {"precision": "fp32"}}).encode(),
        lambda kept: json.dumps({**kept, "speedup": None}).encode(),
        lambda kept: json.dumps({key: value for key, value in kept.items() if key != "date"}).encode(),
    ],
)
def test_a_cache_that_cannot_be_used_is_replaced(measured: list[str], cache: Path, change: Any) -> None:
    chosen()
    (path,) = (cache / "plans").iterdir()
    whole = path.read_bytes()
    path.write_bytes(change(json.loads(whole)))
    assert "just now" in chosen().why
    assert path.read_bytes() == whole and list((cache / "plans").iterdir()) == [path]
    assert measured.count("measured") == 2


def test_without_a_writable_cache_a_plan_is_chosen_all_the_same(measured: list[str], cache: Path) -> None:
    cache.write_text("a file, not a folder")
    assert chosen().plan == FP32
    assert chosen().plan == FP32
    assert measured.count("measured") == 2


def test_where_no_plan_passes_none_is_chosen(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing = tuning(FP32, Parity(error=1.0, allowed=1e-5, beyond=("gradients of D",)))
    monkeypatch.setattr(choice, "measure_plans", lambda *_: failing)
    with pytest.raises(ValueError, match=r"none of the plans .* --plan default"):
        chosen()


def test_a_real_run_keeps_the_plan_it_was_begun_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (number * 60, 10, 200)).save(data / f"{number}.jpg")
    command = ["train", "--data", str(data), "--batch-size", "4", "--arch", "dcgan16", "--width", "4"]
    command += ["--out", str(out), "--decoder", "pillow", "--device", "cpu", "--track", "none"]
    tiny = replace(tuning(FP32), arch=architecture("dcgan16", width=4), batch=4)
    conditions = measurement_conditions(ExecutionConfig(device="cpu"), CPU, tiny.arch, 4, 1)

    save_choice(conditions, tiny)
    cli.main([*command, "--images", "4"])
    said = capsys.readouterr().out
    assert f"plan      {FP32}: chosen on 20" in said

    save_choice(conditions, replace(tiny, plans=tuning(BF16).plans))
    known = load_choice(conditions, [BF16, FP32])
    assert known and known.plan == BF16
    cli.main([*command, "--images", "8"])
    said = capsys.readouterr().out
    assert f"plan      {FP32}: the one this run was begun with" in said and "resuming" in said
    kept = json.loads((out / "config.json").read_text())
    assert kept["conditions"]["plan_fields"] == plan_fields(FP32) and kept["config"]["precision"] == "fp32"

    kept["conditions"]["plan_fields"] = {"precision": "fp32", "magic": True}
    (out / "config.json").write_text(json.dumps(kept))
    cli.main([*command, "--images", "12"])
    said = capsys.readouterr().out
    assert f"plan      {FP32}: not the one this run was begun with" in said, "another plan, but in its precision"

    with pytest.raises(SystemExit):
        cli.main([*command, "--images", "16", "--precision", "bf16"])
    assert "--precision: fp32, now bf16" in capsys.readouterr().err


def test_a_plan_recorded_before_there_was_replay_is_found() -> None:
    fields = plan_fields(Plan())
    del fields["replay"]
    assert find_plan([Plan(replay=True), Plan()], fields) == Plan()


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("begun_with", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_goes_on_replayed_whether_it_was_begun_so_or_not(
    processes: int, begun_with: bool, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are the same."""
    for module in (plan, tune):
        monkeypatch.setattr(module, "own_kernels", lambda *_: ("ends", "norm", "thin", "winograd"))
    request = ExecutionConfig(precision="fp32")
    begun = replace(choose_plan(request, CPU), stacked=stacked, replay=begun_with)
    found = choose_plan_for_run(
        request, CPU, ARCH, 128, images=8, world_size=processes, previous_plan=plan_fields(begun)
    )
    assert found.plan == replace(begun, replay=True) and "begun with" in found.why
