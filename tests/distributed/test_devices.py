"""Which device is used: what `--device` may say, what is here, and that it gets as far as Accelerate."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo  # which looks at functions that are replaced below while it is imported
from accelerate.state import AcceleratorState, PartialState

from fastdcgan import cli
from fastdcgan.config import ExecutionConfig, TrainConfig, flat, from_flat
from fastdcgan.distributed.accelerator import join


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate remembers the device for the whole process."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = dict(PartialState._shared_state), dict(AcceleratorState._shared_state)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._shared_state.update(before[0])
    AcceleratorState._shared_state.update(before[1])


def machine_with(monkeypatch: pytest.MonkeyPatch, *, cuda: int, mps: bool = False) -> list[int]:
    """Let PyTorch find other devices than there are. Returns a list of those that become the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps, is_built=lambda: mps))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: cuda > 0 or mps)
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device.index))
    return current


@pytest.mark.parametrize(
    "name", ["gpu", "CUDA", "cuda:", "cuda:one", "cuda:-1", "cuda:01", "cuda:0,1", "cuda\n", "xpu", ""]
)
def test_names_that_no_device_has(name: str) -> None:
    for refused in (
        lambda: TrainConfig(execution=ExecutionConfig(device=name)).resolved(),
        lambda: join(ExecutionConfig(device=name)),
    ):
        with pytest.raises(ValueError, match="must be auto, cpu, cuda, cuda:N") as error:
            refused()
        assert str(error.value).startswith(f"--device {name}: ")


@pytest.mark.parametrize(
    ("name", "cuda", "words"),
    [
        ("cuda:7", 1, "--device cuda:7: this machine has 1 CUDA device"),
        ("cuda:2", 2, "--device cuda:2: this machine has 2 CUDA devices"),
        ("cuda", 0, "--device cuda: no CUDA device was found: use --device cpu"),
        ("cuda:0", 0, "--device cuda:0: no CUDA device was found: use --device cpu"),
        ("mps", 1, "--device mps: no MPS device was found: use --device cpu"),
    ],
)
def test_devices_that_are_not_here(name: str, cuda: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, cuda=cuda)
    with pytest.raises(ValueError) as error:
        join(ExecutionConfig(device=name))
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("name", "cuda", "used", "current"),
    [
        ("auto", 0, "cpu", []),
        ("cpu", 2, "cpu", []),
        ("auto", 2, "cuda", []),
        ("cuda", 2, "cuda", []),
        ("cuda:0", 2, "cuda:0", [0]),
        ("cuda:1", 2, "cuda:1", [1]),
    ],
)
def test_the_device_that_is_used(
    name: str, cuda: int, used: str, current: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_current = machine_with(monkeypatch, cuda=cuda)
    assert join(ExecutionConfig(device=name, threads=torch.get_num_threads())).device == torch.device(used)
    assert made_current == current
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ, "which other programs of this process would heed"


def test_several_processes_do_not_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, cuda=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match=r"^--device cuda:1 is for one process: 2 take a device each, with --device cuda$"
    ):
        join(ExecutionConfig(device="cuda:1"))


@pytest.mark.parametrize("verb", ["train", "tune", "profile"])
def test_each_verb_that_trains_takes_a_device(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(monkeypatch, cuda=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--device", "cuda:7"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "fastdcgan: error: --device cuda:7: this machine has 1 CUDA device\n"


def test_a_run_remembers_its_device_and_may_go_on_elsewhere() -> None:
    begun = from_flat(json.loads(json.dumps(flat(TrainConfig(execution=ExecutionConfig(device="cuda:1")).resolved()))))
    assert begun.execution.device == "cuda:1"


@pytest.mark.gpu
def test_training_on_a_device_that_is_named(tmp_path: Path) -> None:
    device, out = f"cuda:{torch.cuda.device_count() - 1}", tmp_path / "out"
    tiny = ("--arch", "dcgan16", "--width", "4", "--batch-size", "2", "--images", "4", "--compile", "off")
    cli.main(["train", *tiny, "--plan", "default", "--device", device, "--out", str(out)])
    assert json.loads((out / "config.json").read_text())["conditions"]["device"] == device
