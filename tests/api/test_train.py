"""Training from a program, which goes on afterwards with all that is its own."""

import inspect
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import ROOT
from learned import assert_same_weights, learned

import fastdcgan
from fastdcgan import Run, StopTraining, Tick, train
from fastdcgan.config import ModelConfig, TrainConfig, flat
from fastdcgan.storage.signals import STOP_SIGNALS


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a run of four steps, at whose end the machine is not measured."""
    monkeypatch.setattr("fastdcgan.telemetry.report.end_of_run.device_ceilings", lambda *_: None)
    data = tmp_path / "pictures.npy"
    np.save(data, np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8))
    model = {"arch": "dcgan16", "width": 4, "latent_dim": 6, "batch_size": 4, "images": 16, "seed": 1}
    how = {"device": "cpu", "plan": "default", "precision": "fp32", "threads": 1, "log_every": 1}
    return {"data": data, **model, **how, "track": "none", "quiet": True}


def around() -> tuple[object, ...]:
    """What a run is to leave as it was."""
    return (
        [signal.getsignal(number) for number in STOP_SIGNALS],
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1)),
        os.getcwd(),  # noqa: PTH109
        random.getstate(),
        str(np.random.get_state(legacy=False)),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        matplotlib.get_backend(),
        [thread.name for thread in threading.enumerate()],
    )


@pytest.fixture
def python_handles_interrupts() -> Iterator[None]:
    """As in a kernel; what a shell starts in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_nothing_of_the_program_is_changed_twice_over(
    small: dict[str, Any], tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.undo()  # measuring the machine changes nothing either
    matplotlib.use("svg")
    before = around()
    for name in ("first", "second"):
        run = train(**small, out=tmp_path / name)
        assert run == Run(tmp_path / name) and run.metrics[-1].step == 4
        assert around() == before
    assert_same_weights(learned(tmp_path / "first", 4), learned(tmp_path / "second", 4))


def test_a_thread_trains_as_the_main_thread_does(small: dict[str, Any], tmp_path: Path) -> None:
    before = around()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, **small, out=tmp_path / "thread").result()
    assert around() == before
    train(**small, out=str(tmp_path / "main"))
    assert_same_weights(learned(tmp_path / "thread", 4), learned(tmp_path / "main", 4))


def test_an_accelerator_of_the_program_stays_its_own(small: dict[str, Any], tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # of the tests before, whichever they were
    ours = Accelerator(cpu=True, mixed_precision="bf16")  # with which ours can't be made: Accelerate has one state
    try:
        train(**small, out=tmp_path / "run")
        assert ours.mixed_precision == "bf16" and Accelerator(cpu=True).mixed_precision == "bf16"
    finally:
        ours.state._reset_state(reset_partial_state=True)


def test_quiet_is_quiet(small: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(**small, out=tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    train(**{**small, "quiet": False, "images": 24}, out=tmp_path / "run")
    assert "Done. " in capfd.readouterr().out


def test_it_is_told_of_each_tick(small: dict[str, Any], tmp_path: Path) -> None:
    ticks: list[Tick] = []
    run = train(**small, out=tmp_path / "run", on_tick=ticks.append)
    assert [(tick.record.step, tick.total, tick.run) for tick in ticks] == [(step, 4, run) for step in (1, 2, 3, 4)]
    assert [tick.record.loss_d for tick in ticks] == pytest.approx([r.loss_d for r in run.metrics], abs=1e-6)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("error", [StopTraining, KeyError])
def test_what_a_tick_raises_ends_the_run_once_all_is_saved(
    small: dict[str, Any], tmp_path: Path, error: type[Exception], in_thread: bool
) -> None:
    def stop(tick: Tick) -> None:
        if tick.record.step == 2:
            raise error

    options = {**small, "images": 400, "out": tmp_path / "run", "on_tick": stop}
    with ThreadPoolExecutor(1) as pool:

        def call() -> Run:
            return pool.submit(train, **options).result() if in_thread else train(**options)

        if error is StopTraining:
            assert call().path == tmp_path / "run"
        else:
            with pytest.raises(error):
                call()
    (step,) = Run.open(tmp_path / "run").checkpoints
    assert 2 <= step <= 3
    # The same call goes on from there.
    seen: list[int] = []
    again = {**options, "images": 16, "on_tick": lambda tick: seen.append(tick.record.step)}
    train(**again)
    assert seen == list(range(step + 1, 5))


def test_the_kernels_stop_waits_for_a_checkpoint_and_interrupts(
    small: dict[str, Any], tmp_path: Path, python_handles_interrupts: None
) -> None:
    def stop(tick: Tick) -> None:
        if tick.record.step == 2:
            signal.raise_signal(signal.SIGINT)

    before = around()
    with pytest.raises(KeyboardInterrupt):
        train(**{**small, "images": 400}, out=tmp_path / "run", on_tick=stop)
    assert around() == before
    (step,) = Run(tmp_path / "run").checkpoints
    assert 2 <= step <= 3


def test_a_programs_own_handler_is_called_when_all_is_saved(small: dict[str, Any], tmp_path: Path) -> None:
    saved: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda *_: saved.extend(Run(tmp_path / "run").checkpoints))
    try:
        run = train(
            **{**small, "images": 400},
            out=tmp_path / "run",
            on_tick=lambda tick: tick.record.step == 2 and signal.raise_signal(signal.SIGTERM),
        )
    finally:
        signal.signal(signal.SIGTERM, former)
    assert saved == list(run.checkpoints) and len(saved) == 1


def test_one_run_at_a_time(small: dict[str, Any], tmp_path: Path) -> None:
    def again(tick: Tick) -> None:
        train(**small, out=tmp_path / "second")

    with pytest.raises(ValueError, match=r"another train\(\) goes on in this process"):
        train(**small, out=tmp_path / "first", on_tick=again)
    train(**small, out=tmp_path / "second")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batchsize": 8}, TypeError, "train() has no option 'batchsize': did you mean batch_size?"),
        ({"batch_size": 0}, ValueError, "--batch-size 0: must be at least 1"),
        ({"batch_size": "8"}, ValueError, "batch_size can't be '8': it is a whole number or None"),
        ({"objective": "wgan"}, ValueError, "objective can't be 'wgan': it is bce, "),
        ({"flip": 1}, ValueError, "flip can't be 1: it is True or False"),
        ({"device": "tpu"}, ValueError, "--device tpu: must be auto, cpu, cuda"),
        ({"data": Path("/nowhere/at all")}, ValueError, "/nowhere/at all"),
    ],
)
def test_wrong_options_are_refused_in_the_words_of_the_command_line(
    options: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as refused:
        train(**{"out": tmp_path / "run", "quiet": True, **options})
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_request_and_options_above_it(small: dict[str, Any], tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(arch="dcgan16", width=8))
    run = train(config, **small, out=tmp_path / "run")
    assert run.config["width"] == small["width"] and run.config["arch"] == "dcgan16"


def test_options_are_completed_and_explained() -> None:
    names = list(inspect.signature(train).parameters)
    assert names == ["config", "on_tick", *flat(TrainConfig())]
    assert set(fastdcgan.__all__) <= set(dir(fastdcgan))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fastdcgan.trian  # noqa: B018


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there a process can only be ended, not asked to stop")
def test_ctrl_c_of_a_script(small: dict[str, Any], tmp_path: Path) -> None:
    """In a process of its own, as a kernel's stop comes: from outside, while a step is taken."""
    out = tmp_path / "run"
    options = {**small, "data": str(small["data"]), "images": 10**7, "out": str(out)}
    code = f"""
import fastdcgan
try:
    fastdcgan.train(**{options!r})
except KeyboardInterrupt:
    print(sorted(fastdcgan.Run.open({str(out)!r}).checkpoints)[-1] > 0, "interrupted")
"""
    script = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not Run(out).metrics:
        assert time.monotonic() < deadline and script.poll() is None
        time.sleep(0.05)
    script.send_signal(signal.SIGINT)
    said, _ = script.communicate(timeout=60)
    assert said.split() == ["True", "interrupted"] and script.returncode == 0
