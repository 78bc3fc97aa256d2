"""What `accelerate launch` asks for: the plan wins and says so; what can't be done is refused."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from launched import PATIENCE, QUICK, launch, write_pictures
from test_devices import alone as alone
from test_devices import machine_with

from fastdcgan.config import ExecutionConfig
from fastdcgan.distributed import accelerator as joining
from fastdcgan.distributed.accelerator import join, wrap
from fastdcgan.distributed.launcher import check_launcher, launch_command, overruled_settings
from fastdcgan.execution.plan import Plan
from fastdcgan.training.announce import announce_idle_devices

ACCELERATE = ("-m", "accelerate.commands.launch")

DYNAMO = {
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
}
"""As the launcher sets them."""


@pytest.mark.parametrize(
    ("environ", "plan", "words"),
    [
        ({}, Plan(), []),
        (DYNAMO, Plan(backend="inductor"), []),
        (DYNAMO, Plan(), ["dynamo_backend INDUCTOR: nothing is compiled, as the plan says (--compile"]),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "CUDAGRAPHS"},
            Plan(backend="inductor"),
            ["dynamo_backend CUDAGRAPHS: networks are compiled by inductor"],
        ),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, Plan(precision="bf16"), []),
        (
            {"ACCELERATE_MIXED_PRECISION": "fp8"},
            Plan(precision="bf16"),
            ["mixed_precision fp8: the plan computes in bf16 (--precision)"],
        ),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}, Plan(), []),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "fp16"},
            Plan(),
            ["mixed_precision fp16", "gradient_accumulation_steps 4: a batch is taken in 2 (--accumulate)"],
        ),
        ({"ACCELERATE_TORCH_DEVICE": "cuda:1"}, Plan(), ["a device is chosen by --device cuda:1"]),
        ({"ACCELERATE_USE_CPU": "True"}, Plan(), []),
    ],
)
def test_settings_that_differ_from_the_plan_are_named(environ: dict[str, str], plan: Plan, words: list[str]) -> None:
    lines = overruled_settings(ExecutionConfig(), plan, 2, environ)
    assert len(lines) == len(words) and all(
        word in line and "\n" not in line for word, line in zip(words, lines, strict=True)
    ), lines


def test_a_device_of_ours_wins_over_use_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"ACCELERATE_USE_CPU": "true"}
    assert overruled_settings(ExecutionConfig(device="cpu"), Plan(), 1, environ) == []
    assert overruled_settings(ExecutionConfig(device="cuda"), Plan(), 1, environ) == [
        "use_cpu: this runs on --device cuda"
    ]
    machine_with(monkeypatch, cuda=1)
    monkeypatch.setenv(*next(iter(environ.items())))
    assert join(ExecutionConfig(device="cuda")).device.type == "cuda"


def test_use_cpu_is_heeded_where_no_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, cuda=1)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert join(ExecutionConfig(threads=torch.get_num_threads())).device.type == "cpu"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "a parallelism_config"),
        (
            {"ACCELERATE_USE_SAGEMAKER": "true", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "DATA_PARALLEL"},
            "SageMaker's DATA_PARALLEL",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_command_that_can(environ: dict[str, str], words: str) -> None:
    for processes, command in (("1", "fastdcgan train"), ("8", "accelerate launch --multi_gpu --num_processes 8 ")):
        with pytest.raises(ValueError, match=f"^the launcher asks for {words}, .*: {command}") as error:
            check_launcher({**environ, "WORLD_SIZE": processes})
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"--num_processes 16 --num_machines 2 -m fastdcgan train$"):
        check_launcher({**environ, "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"})
    check_launcher(dict.fromkeys(environ, "false"))


def test_a_refusal_comes_before_accelerate_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="the launcher asks for DeepSpeed"):
        join(ExecutionConfig(device="cpu"))
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setattr(joining, "is_torch_xla_available", lambda: True)
    with pytest.raises(ValueError, match=r"torch_xla is installed.*USE_TORCH_XLA=0"):
        join(ExecutionConfig(device="cpu"))


def test_accelerate_compiles_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**DYNAMO, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}.items():
        monkeypatch.setenv(name, value)
    accelerator = join(ExecutionConfig(device="cpu", threads=torch.get_num_threads()))
    network = torch.nn.Linear(2, 2)
    assert wrap(accelerator, network) is network
    assert accelerator.gradient_accumulation_steps == 1
    assert os.environ["ACCELERATE_DYNAMO_BACKEND"] == "INDUCTOR", "which other programs of this process may heed"


@pytest.mark.parametrize(
    ("count", "device", "processes", "hint"),
    [(4, "auto", 1, True), (4, "cuda", 1, True), (4, "cuda:1", 1, False), (4, "cuda", 4, False), (1, "auto", 1, False)],
)
def test_idle_gpus_are_pointed_at(
    count: int, device: str, processes: int, hint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    said: list[str] = []
    run = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=processes, device=torch.device("cuda")),
        config=SimpleNamespace(execution=ExecutionConfig(device=device)),
    )
    announce_idle_devices(run, SimpleNamespace(say=said.append))  # type: ignore[arg-type]
    assert [line.strip() for line in said] == [
        f"one of 4 GPUs is used; the same options on all: {launch_command(4)}"
    ] * hint


def configured(folder: Path, *lines: str) -> tuple[str, ...]:
    """`accelerate launch` of two processes on the CPU, with a file of settings."""
    file = folder / "config.yaml"
    common = ("compute_environment: LOCAL_MACHINE", "num_machines: 1", "num_processes: 2", "use_cpu: true")
    file.write_text("\n".join((*common, "mixed_precision: 'no'", *lines)))
    return sys.executable, *ACCELERATE, "--config_file", str(file)


@pytest.mark.slow
def test_a_configuration_that_compiles(tmp_path: Path) -> None:
    photos, out = write_pictures(tmp_path / "photos"), tmp_path / "run"
    launcher = configured(tmp_path, "distributed_type: MULTI_GPU", "dynamo_config: {dynamo_backend: INDUCTOR}")
    code, said = launch("--data", photos, "--out", out, *QUICK, "--images", 16, launcher=launcher).ended(3 * PATIENCE)
    assert code == 0, said
    assert said.count("launcher  overruled: dynamo_backend INDUCTOR: nothing is compiled") == 1, said


@pytest.mark.slow
def test_a_configuration_that_shards(tmp_path: Path) -> None:
    """Refused; and the command that the refusal names, which is also the hint's, does what was meant."""
    photos, out = write_pictures(tmp_path / "photos"), tmp_path / "run"
    launcher = configured(tmp_path, "distributed_type: FSDP", "fsdp_config: {fsdp_version: 2}")
    asked = ("--data", photos, "--out", out, *QUICK, "--images", 16)
    code, said = launch(*asked, launcher=launcher).ended(3 * PATIENCE)
    assert code == 1 and "fastdcgan: error: the launcher asks for FSDP" in said, said
    assert not out.exists()
    # What is named to do what was meant does, whatever the file says.
    named = said.partition("saves memory: ")[2].splitlines()[0].split()
    assert named == launch_command(2).split()
    command = [*launcher, *named[2:], *map(str, asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "x 2 processes" in done.stdout
