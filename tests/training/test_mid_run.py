"""What goes wrong while a run trains: one line, and the same command goes on as if nothing had happened."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import ROOT
from learned import assert_same_weights, learned
from PIL import Image
from torch import Tensor

from fastdcgan import cli
from fastdcgan.config import DataConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.data.arrays import npy_pictures
from fastdcgan.execution import capture
from fastdcgan.execution.finite import (
    MIN_LOSS_SCALE,
    loss_scales,
    non_finite_tensors,
    overflowing_network,
)
from fastdcgan.execution.plan import Plan, own_kernels
from fastdcgan.execution.prepare import TakeStep, prepare, step_function
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import StepMetrics, TrainState
from fastdcgan.runs.folder import RunFolder
from fastdcgan.runs.lock import locked
from fastdcgan.telemetry.metrics import MetricsFile, first_non_finite_step, read_metrics
from fastdcgan.training import recorder, setup, trainer

NAN, INF = float("nan"), float("inf")
STEPS = 12
TINY = ("--arch", "dcgan16", "--width", 4, "--batch-size", 2, "--precision", "fp32", "--plan", "default")
QUICK = ("--decoder", "pillow", "--data-cache", "off", "--threads", 1, "--log-every", 2, "--checkpoint-every", 4)

Before = Callable[[int, TrainState], object]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Plots take longer than all the rest of such a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "plot_losses", lambda records, path: path.touch())
        yield


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (number * 30, 10, 200)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def data(pictures: Path, tmp_path: Path) -> Path:
    """The test's own, to be destroyed."""
    return Path(shutil.copytree(pictures, tmp_path / "pictures"))


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(pictures, out)
    return out


def arguments(data: Path, out: Path, *options: object) -> list[str]:
    return [str(a) for a in ("train", "--data", data, "--out", out, "--images", STEPS * 2, *TINY, *QUICK, *options)]


def train(data: Path, out: Path, *options: object) -> None:
    cli.main(arguments(data, out, *options))


def refusal(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *options: object) -> str:
    """The one line with which a run ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train(data, out, *options)
    assert stop.value.code == 2
    (complaint,) = capsys.readouterr().err.strip().splitlines()
    assert complaint.startswith("fastdcgan: error: ")
    return complaint


def before_step(monkeypatch: pytest.MonkeyPatch, act: Before) -> None:
    """Call act(n, state) before the n-th step that is taken, which is step n as long as the run has not gone back."""
    taken = 0

    def watched(plan: Plan, state: TrainState) -> TakeStep:
        take_step = step_function(plan, state)

        def take(real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
            nonlocal taken
            taken += 1
            act(taken, state)
            return take_step(real_BCHW, z_BL)

        return take

    monkeypatch.setattr(trainer, "step_function", watched)


def lines(out: Path) -> list[dict[str, Any]]:
    """The figures that don't depend on the clock."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMED} for r in records]


TIMED = ("seconds", "images_per_sec", "data_wait_fraction")


def saved(out: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))


def assert_same(out: Path, wanted: Path, but: tuple[str, ...] = ()) -> None:
    """But for the tensors whose names begin so."""
    found, expected = (
        {name: tensor for name, tensor in learned(run, STEPS).items() if not name.startswith(but)}
        for run in (out, wanted)
    )
    assert_same_weights(found, expected)


# Numbers


def poison(state: TrainState, label: str = "generator", value: float = NAN) -> None:
    """One gradient of one parameter, once, by a hook that leaves the loss alone; a replayed step runs none."""
    parameter = next(getattr(state, label).parameters())

    def spoil(gradient: Tensor) -> Tensor:
        handle.remove()
        gradient = gradient.clone()
        gradient[(0,) * gradient.dim()] = value
        return gradient

    handle = parameter.register_hook(spoil)


@pytest.mark.parametrize("label", ["generator", "discriminator"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_gradient_that_is_no_number_is_noticed_at_the_next_tick(
    label: str,
    value: float,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By G's loss in the same step, if the gradient was D's; by D's in the next, if it was G's."""
    before_step(monkeypatch, lambda step, state: poison(state, label, value) if step == 6 else None)
    out = tmp_path / "out"
    complaint = refusal(capsys, pictures, out, "--compile", "off", "--sample-every", 100)
    assert f"at step {6 if label == 'discriminator' else 7}" in complaint
    assert f"{label}.layers.0.weight" in complaint and "step-00000004" in complaint
    assert lines(out)[-1]["step"] == (4 if label == "discriminator" else 6) and saved(out) == [4]


@pytest.mark.parametrize(("samples", "checkpoints"), [(3, 100), (100, 3)])
def test_what_no_loss_has_seen_yet_is_looked_at_before_it_is_used(
    samples: int,
    checkpoints: int,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_step(monkeypatch, lambda step, state: poison(state) if step == 6 else None)
    out = tmp_path / "out"
    every = "--sample-every", samples, "--checkpoint-every", checkpoints
    complaint = refusal(capsys, pictures, out, "--compile", "off", *every)
    assert "at step 6" in complaint and "generator.layers.0.weight" in complaint
    assert "step-00000006.png" not in [path.name for path in (out / "samples").iterdir()] and 6 not in saved(out)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(fused_adam=False),
        Plan(stacked=True),
        Plan(precision="bf16"),
        Plan(kernels=own_kernels(torch.device("cpu"), "fp32")),
        Plan(backend="aot_eager"),
    ],
    ids=str,
)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("label", ["generator", "discriminator"])
def test_every_way_to_take_a_step_leaves_a_trace_of_a_bad_gradient(plan: Plan, accumulate: int, label: str) -> None:
    if plan.backend and accumulate > 1:
        pytest.skip("is what the others are")
    state, step = one_step(plan, accumulate)
    assert not non_finite_tensors(state)
    poison(state, label, INF)
    step()
    assert f"{label}.layers.0.weight" in non_finite_tensors(state)
    for _ in range(2):  # it stays, whatever comes after
        assert first_non_finite_step(torch.stack(step())[None], 1)


def test_a_captured_step_leaves_a_trace_of_a_bad_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    averaged = capture.all_reduce_mean
    monkeypatch.setattr(
        capture, "all_reduce_mean", lambda gradients, kind: [g * INF for g in averaged(gradients, kind)]
    )
    state, step = one_step(Plan(capture=True, backend="aot_eager"))
    assert {name.partition(".")[0] for name in non_finite_tensors(state)} == {"generator", "discriminator"}
    assert first_non_finite_step(torch.stack(step())[None], 1)


def test_steps_that_fp16s_scaler_leaves_out_are_no_failure_until_none_fits() -> None:
    state, step = one_step(Plan(precision="fp16"))
    before = [parameter.clone() for parameter in state.discriminator.parameters()]
    poison(state, "discriminator", INF)
    step()
    assert all(torch.equal(a, b) for a, b in zip(before, state.discriminator.parameters(), strict=True))
    assert not non_finite_tensors(state) and overflowing_network(loss_scales(state)) is None
    state.scaler_g.update(MIN_LOSS_SCALE / 2)
    assert overflowing_network(loss_scales(state)) == "generator"


def one_step(plan: Plan, accumulate: int = 1) -> tuple[TrainState, Callable[[], StepMetrics]]:
    """A state that has taken one, and how to take another."""
    arch = architecture("dcgan16", width=4, latent_dim=6)
    recipe = RecipeConfig(accumulate=accumulate)
    state = prepare(plan, *models.build(arch, 0), recipe, torch.device("cpu"))
    take, rng = step_function(plan, state), torch.Generator().manual_seed(0)

    def step() -> StepMetrics:
        return take(torch.rand(4, 3, 16, 16, generator=rng) * 2 - 1, torch.randn(4, 6, generator=rng))

    step()
    return state, step


def bad_noise(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, int], bool]) -> None:
    """NaN in the noise of a step, given how often the run went back before."""
    noise = trainer.noise
    monkeypatch.setattr(
        trainer, "noise", lambda run, step: noise(run, step) * (NAN if bad(step, run.start.rollbacks) else 1)
    )


def test_a_loss_that_is_no_number_names_step_and_figure(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_noise(monkeypatch, lambda step, rollbacks: step == 7)
    complaint = refusal(capsys, pictures, tmp_path / "out")
    assert "loss_d became nan at step 7" in complaint and "--on-nan rollback" in complaint


def test_a_run_goes_back_and_on_with_new_noise(
    undisturbed: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad_noise(monkeypatch, lambda step, rollbacks: (step, rollbacks) in ((7, 0), (10, 1)))
    out = tmp_path / "out"
    train(pictures, out, "--on-nan", "rollback")
    said = capsys.readouterr().out
    assert "rollback  1 of 3: after step 4" in said and "rollback  2 of 3: after step 8" in said
    assert [(line["step"], line["rollbacks"]) for line in lines(out)] == [
        *((2, 0), (4, 0), (6, 1), (8, 1), (10, 2), (12, 2))
    ]
    assert lines(out)[:2] == lines(undisturbed)[:2] and lines(out)[2]["loss_g"] != lines(undisturbed)[2]["loss_g"]
    state = json.loads((out / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert state["rollbacks"] == 2

    # Killed after it went back from 8 to 4: at 6, before a checkpoint said so; and at 9, after one did.
    for number, last in enumerate((10, 13)):
        killed = tmp_path / f"killed {number}"

        def kill(step: int, state: TrainState, last: int = last) -> None:
            if step == last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            before_step(patch, kill)
            with pytest.raises(SystemExit):
                train(pictures, killed, "--on-nan", "rollback")
        train(pictures, killed, "--on-nan", "rollback")
        assert lines(killed) == lines(out)
        assert_same(killed, out)


def test_a_run_that_fails_again_and_again_ends(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_noise(monkeypatch, lambda step, rollbacks: step == 7)
    out = tmp_path / "out"
    complaint = refusal(capsys, pictures, out, "--on-nan", "rollback", "--rollbacks", 2)
    assert "at step 7" in complaint and "rolled back 2 times already" in complaint
    bad_noise(monkeypatch, lambda step, rollbacks: step == 3)
    complaint = refusal(capsys, pictures, tmp_path / "young", "--on-nan", "rollback")
    assert "nothing to roll back to" in complaint
    assert "Begin anew with a lower --lr" in complaint and "--from-step" not in complaint


def test_noise_is_another_one_after_each_time_a_run_went_back() -> None:
    from types import SimpleNamespace

    from fastdcgan.gan.randomness import Stream
    from fastdcgan.runs.checkpoints.record import Progress

    def noise(step: int, rollbacks: int) -> Tensor:
        config = TrainConfig(data=DataConfig(batch_size=2), run=RunConfig(seed=3))
        accelerator = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
        start = Progress(rollbacks=rollbacks)
        arch = SimpleNamespace(latent_dim=8)
        run: Any = SimpleNamespace(
            config=config, accelerator=accelerator, start=start, arch=arch, noise=Stream.NOISE_BY_TABLE
        )
        return trainer.noise(run, step)

    drawn = [noise(step, rollbacks) for step in (1, 2) for rollbacks in (0, 1, 2)]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert torch.equal(noise(2, 1), noise(2, 1))


def test_a_checkpoint_of_before_rollbacks_is_read(undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "out"))
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    file = out / "checkpoints" / "step-00000008" / "state.json"
    state = json.loads(file.read_text())
    del state["rollbacks"]
    file.write_text(json.dumps({**state, "format": 1}))
    (file.parent / "manifest.json").unlink()
    (file.parent / "average.safetensors").unlink()
    train(pictures, out)
    assert_same(out, undisturbed, but=("average.",))  # which begins where it is gone on from


# The output


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


WRITES = {
    "metrics.jsonl": (MetricsFile, "write"),
    "samples": (recorder, "save_grid"),
    "losses.png": (recorder, "plot_losses"),
    "checkpoints": (safetensors.torch, "save_file"),
}


@pytest.mark.parametrize("fault", [full, read_only])
@pytest.mark.parametrize("name", WRITES)
def test_what_can_not_be_written_is_named_and_the_same_command_goes_on(
    name: str,
    fault: Callable[..., None],
    undisturbed: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        before_step(patch, lambda step, state: patch.setattr(*WRITES[name], fault) if step == 7 else None)
        patch.setattr(recorder, "PLOT_SECONDS", 0.0)
        complaint = refusal(capsys, pictures, out, "--sample-every", 3)
    reason = os.strerror(errno.ENOSPC if fault is full else errno.EROFS)
    assert str(out / name) in complaint and reason in complaint and "goes on from there" in complaint
    assert saved(out)[0] == 4
    if name != "checkpoints":  # all that was learned
        last = {"samples": 9}.get(name, 8)
        assert saved(out)[-1] == last and f"until step {last} is saved" in complaint
    train(pictures, out, "--sample-every", 3)
    assert_same(out, undisturbed)


@pytest.mark.parametrize(("least", "drawn_until"), [(0.0, [4, 8, 12]), (1e9, [12])], ids=["often", "at the end"])
def test_losses_are_drawn_at_checkpoints_now_and_then_and_at_the_end(
    least: float, drawn_until: list[int], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(recorder, "PLOT_SECONDS", least)
    monkeypatch.setattr(recorder, "plot_losses", lambda curves, path: drawn.append(int(curves["step"][-1])))
    train(pictures, tmp_path / "out")
    assert drawn == drawn_until


def test_where_nothing_could_be_saved_the_same_command_begins_anew(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*WRITES["checkpoints"], full)
    complaint = refusal(capsys, pictures, tmp_path / "out")
    assert complaint.endswith("; no checkpoint was written yet; the same command begins anew")


def test_an_output_that_is_full_from_the_start(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "write_config", full)
    assert "No space left" in refusal(capsys, pictures, tmp_path / "out")


@pytest.mark.slow(40)
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("free", [0, pytest.param(200, marks=pytest.mark.exhaustive), 600])
def test_a_disk_that_fills_up(free: int, undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    """A real one, with so many kilobytes left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        out, filler = disk / "run", disk / "filler"
        filler.write_bytes(bytes((shutil.disk_usage(disk).free // 4096 - free // 4) * 4096))
        command = [sys.executable, "-m", "fastdcgan", *arguments(pictures, out, "--keep-checkpoints", 1)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert "Traceback" not in ended.stderr, ended.stderr
        if ended.returncode or not free:
            assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
            assert "No space left" in ended.stderr
        filler.unlink()
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert ended.returncode == 0, ended.stderr
        assert_same(out, undisturbed)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# The data


def test_data_that_vanish(
    undisturbed: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    with monkeypatch.context() as patch:
        before_step(patch, lambda step, state: data.rename(away) if step == 6 else None)
        complaint = refusal(capsys, data, out)
    assert str(data) in complaint and "no such file" in complaint.lower()
    last = saved(out)[-1]
    assert f"what was learned until step {last} is saved" in complaint and last >= 6
    away.rename(data)
    train(data, out)
    assert_same(out, undisturbed)


def cut_off_below(patch: pytest.MonkeyPatch, find: Callable[[], Path]) -> None:
    """A file in the midst of a batch, after the fifth step."""
    read_at, step_taken, reads = npy_pictures.read_at, 0, 0

    def note(step: int, state: TrainState) -> None:
        nonlocal step_taken
        step_taken = step

    def read(descriptor: int, part: memoryview, at: int) -> int:
        nonlocal reads
        reads += step_taken > 5
        if reads == 2:
            os.truncate(find(), 200)
        return read_at(descriptor, part, at)

    before_step(patch, note)
    patch.setattr(npy_pictures, "read_at", read)


def test_an_array_that_is_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it mapped into memory, touching what is gone would kill the process."""
    for name, size in (("as it is", 16), ("fitted", 20)):
        file, out = tmp_path / f"{name}.npy", tmp_path / name
        np.save(file, np.random.default_rng(0).integers(0, 256, (4096, size, size, 3), dtype=np.uint8))
        with monkeypatch.context() as patch:
            cut_off_below(patch, lambda file=file: file)  # type: ignore[misc]
            complaint = refusal(capsys, file, out)
        assert "cut off" in complaint and str(file) in complaint
        assert saved(out)[-1] >= 6


def test_a_pack_that_is_cut_off_is_built_anew(
    undisturbed: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    out, packs = tmp_path / "out", tmp_path / "cache" / "packs"
    with monkeypatch.context() as patch:
        cut_off_below(patch, lambda: next(packs.glob("*.npy")))
        complaint = refusal(capsys, pictures, out, "--data-cache", "on")
    (pack,) = packs.glob("*.npy")
    assert f"{pack}: the file was cut off" in complaint and "goes on from there" in complaint
    assert saved(out)[-1] >= 6
    train(pictures, out, "--data-cache", "on")
    assert pack.stat().st_size > 200
    assert_same(out, undisturbed)


# Two runs in one folder


def test_a_second_run_is_refused_and_told_of_the_first(
    undisturbed: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "out"))
    with locked(RunFolder(out), print):
        complaint = refusal(capsys, pictures, out)
        assert f"{out} is in use by process {os.getpid()} on " in complaint and "since 20" in complaint
        refusal(capsys, pictures, out)  # and being refused changes nothing
        cli.main(["generate", str(out), "--count", "1", "--out", str(tmp_path / "one.png")])
    train(pictures, out)


def test_a_lock_ends_with_its_process(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    hold = "import sys, time; from pathlib import Path; from fastdcgan.runs.lock import *\n"
    hold += "with locked(RunFolder(Path(sys.argv[1])), print): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert f"process {holder.pid} " in refusal(capsys, pictures, out)
    holder.kill()
    holder.wait()
    train(pictures, out)


@pytest.mark.skipif(os.name == "nt", reason="locks of Unix")
def test_a_disk_without_locks_is_said_and_used(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    train(pictures, tmp_path / "out")
    assert "lock      none on this disk (No locks available)" in capsys.readouterr().out


def test_a_lock_is_no_way_to_write_elsewhere(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    out.mkdir()
    theirs.write_text("precious")
    (out / ".lock").symlink_to(theirs)
    assert "can't write" in refusal(capsys, pictures, out)
    assert theirs.read_text() == "precious"


# The clock


def test_a_clock_that_jumps(undisturbed: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    now, days = time.time(), iter((0, 400, -400, 3, -3, 9000) * 1000)
    monkeypatch.setattr(time, "time", lambda: now + next(days) * 86400)
    out = tmp_path / "out"

    def kill(step: int, state: TrainState) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_step(patch, kill)
        with pytest.raises(SystemExit):
            train(pictures, out)
    monkeypatch.setattr(time, "time", lambda: now - 86400 * 5000)  # since then the clock was set back
    train(pictures, out)
    assert lines(out) == lines(undisturbed)
    assert_same(out, undisturbed)
    seconds = [record.seconds for record in read_metrics(out / "metrics.jsonl")]
    assert seconds == sorted(seconds) and seconds[-1] < 600
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/G")] == [2, 4, 6, 8, 10, 12]
