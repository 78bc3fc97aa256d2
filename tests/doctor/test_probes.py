"""What the probes say of machines that are not as they should be."""

import importlib.metadata
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastdcgan.config import ExecutionConfig
from fastdcgan.doctor import machine, measuring, software
from fastdcgan.doctor.finding import Finding
from fastdcgan.doctor.probing import PROBES, ask
from fastdcgan.execution import plan as plans
from fastdcgan.kernels import native
from fastdcgan.tuning.parity import Parity, ParityCheck


def asked(topic: str) -> Finding:
    (probe,) = (probe for probe in PROBES if probe.topic == topic)
    return ask(probe)


@pytest.fixture
def broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a package before the real one whose import raises."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, message: str) -> None:
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"raise RuntimeError({message!r})")
        for loaded in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, loaded)

    return make


def test_a_torchvision_for_another_torch(broken_package: Callable[[str, str], None]) -> None:
    broken_package("torchvision", "operator torchvision::nms does not exist")
    finding = asked("torchvision")
    assert finding.broken
    assert finding.found == "can't be used: RuntimeError: operator torchvision::nms does not exist"


def test_a_dali_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdcgan.data.decoding.dali.dali_available", lambda: True)

    def without_cuda(name: str) -> types.ModuleType:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("fastdcgan.data.decoding.dali.importlib.import_module", without_cuda)
    finding = asked("dali")
    assert not finding.broken, "Pillow decodes too"
    assert "can't be used: OSError: libcuda.so.1" in finding.found and "--decoder pillow" in finding.advice


def test_no_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdcgan.data.decoding.dali.dali_available", lambda: False)
    assert asked("dali").found == "not installed: Pillow decodes pictures"


def test_a_version_that_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "requires", lambda name: ["numpy>=99", "accelerate>=1"])
    assert asked("numpy").advice == "fastdcgan asks for numpy>=99: pip install 'numpy>=99'"
    assert asked("accelerate").advice == ""

    def not_installed(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(software, "requires", not_installed)
    assert asked("numpy").advice == ""


def test_a_small_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_LIBRARIES", ("safetensors", "nosuchlibrary"))
    finding = asked("libraries")
    assert finding.broken and "nosuchlibrary (ModuleNotFoundError" in finding.found
    assert finding.advice == "pip install --force-reinstall nosuchlibrary"


def test_a_tracker_that_is_broken(broken_package: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken_package("wandb", "protobuf is too new")
    monkeypatch.setattr(software, "version", lambda name: "1.2")
    monkeypatch.setitem(sys.modules, "trackio", types.ModuleType("trackio"))
    finding = asked("trackers")
    assert "wandb 1.2 can't be used (RuntimeError: protobuf is too new), trackio 1.2" in finding.found
    assert finding.advice.startswith("--track none") and not finding.broken


def test_no_compiler_and_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "nosuchcompiler")
    assert asked("compiler").found.startswith("none") and asked("compiler").advice == "install g++"
    monkeypatch.setattr(native, "library", lambda: "they need AVX2 and FMA, which this processor lacks")
    kernels = asked("own kernels")
    assert kernels.found == "not used: they need AVX2 and FMA, which this processor lacks" and not kernels.advice
    monkeypatch.setattr(plans, "own_kernels", lambda device, precision: ("ends",))
    assert "without our kernels: they need AVX2" in asked("plan").found


def test_an_instruction_set_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library.cache_clear()
    monkeypatch.setenv("FASTDCGAN_ISA", "neon")
    finding = asked("own kernels")
    native.library.cache_clear()
    assert "FASTDCGAN_ISA=neon is not to be had here" in finding.found


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int = 0) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{said}'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_driver_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "Tesla T4, 470.82.01, 15360 MiB")

    def unavailable() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    finding = asked("devices")
    assert (
        "Tesla T4, 15360 MiB, driver 470.82.01" in finding.found and "driver on your system is too old" in finding.found
    )
    assert finding.advice.startswith("update the driver to one for CUDA 13.0")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for the CPU alone" in asked("devices").found


def test_a_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    nvidia_smi(tmp_path, monkeypatch, "Failed to initialize NVML: Driver/library version mismatch", code=18)
    assert "NVML: Driver/library version mismatch" in asked("devices").found


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, capability: tuple[int, int]) -> None:
    card = SimpleNamespace(name="NVIDIA H100", major=capability[0], minor=capability[1], total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "sm_90a", "sm_100", "compute_120"])


@pytest.mark.parametrize(
    ("count", "capability", "advice"),
    [
        (1, (9, 0), ""),
        (1, (8, 6), ""),
        (1, (10, 3), ""),
        (1, (13, 0), ""),
        (4, (9, 0), "one process uses one GPU; all 4: accelerate launch --multi_gpu --num_processes 4"),
        (1, (7, 0), "this PyTorch is built for sm_80, sm_90, sm_90a, sm_100, compute_120: install one for sm_70"),
    ],
)
def test_gpus_that_are_used(
    count: int, capability: tuple[int, int], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count, capability)
    finding = asked("devices")
    assert "NVIDIA H100, 80.0 GiB" in finding.found and ": used" in finding.found
    assert finding.advice.startswith(advice) and bool(finding.advice) == bool(advice)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "file" / "cache"))
    finding = asked("cache")
    assert "can't be written" in finding.found and "FASTDCGAN_CACHE" in finding.advice and not finding.broken
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "new" / "cache"))
    assert asked("cache").found == f"{tmp_path / 'new' / 'cache'}, not there yet"
    assert not (tmp_path / "new").exists(), "looking leaves nothing behind"
    (tmp_path / "new" / "cache" / "plans").mkdir(parents=True)
    (tmp_path / "new" / "cache" / "plans" / "one.json").write_text("{}")
    assert asked("cache").details == {"bytes": 2, "plans": 1}


def test_little_room_and_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert asked("disk").advice.startswith("make room in ")
    monkeypatch.setattr(machine, "_why_not_writable", lambda folder: "Read-only file system")
    assert "this folder can't be written (Read-only file system)" in asked("disk").found
    assert "--out" in asked("disk").advice


def test_threads_that_leave_cores_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdcgan.limits.cores.usable_cores", lambda: 8)
    monkeypatch.setattr("fastdcgan.distributed.accelerator.usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    finding = asked("cpu")
    assert "8 usable cores" in finding.found and "2 threads" in finding.found
    assert finding.advice == "OMP_NUM_THREADS=2 leaves cores idle: unset it, or --threads 8"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert asked("cpu").found.endswith("; 1 thread for arithmetic")


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ("distributed_type: 'NO'", ""),
        ("distributed_type: FSDP", "the launcher asks for FSDP"),
        (
            "distributed_type: 'NO'\ndynamo_config: {dynamo_backend: AOT_EAGER}",
            "overruled by the plan: dynamo",
        ),
        ("distributed_type: 'NO'\nmixed_precision: bf16", ""),
    ],
)
def test_a_default_configuration(settings: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "default_config.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\nmain_process_ip: 10.1.2.3\nmachine_rank: 0\n"
        f"num_machines: 1\nnum_processes: 2\n{settings}\n"
    )
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(file))
    finding = asked("launcher")
    assert "WORLD_SIZE=2" in finding.found and "10.1.2.3" not in finding.found
    assert finding.advice.startswith(advice) and bool(finding.advice) == bool(advice), finding
    file.write_text("distributed_type: [")
    assert asked("launcher").found.startswith("can't be used: ") and not asked("launcher").broken


def test_plans_that_compute_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [plans.Plan(), plans.Plan(stacked=True), plans.Plan(fused_adam=False)]
    monkeypatch.setattr(measuring, "_plans", lambda: (torch.device("cpu"), here, ""))
    wrong = Parity(error=float("inf"), allowed=1e-5, beyond=("gradients of D",))

    def check(self: ParityCheck, plan: plans.Plan) -> Parity:
        if plan.stacked:
            return wrong
        if not plan.fused_adam:
            raise RuntimeError("no kernel image is available for execution on the device")
        return Parity(error=1e-7, allowed=1e-5, beyond=())

    monkeypatch.setattr(ParityCheck, "__call__", check)
    finding = asked("parity")
    assert finding.found.startswith("1 of 3 plans compute what the reference computes (dcgan16); ")
    assert "fp32 + stacked: gradients of D off by inf" in finding.found and "no kernel image" in finding.found
    assert finding.advice and not finding.broken
    assert finding.details == {"errors": {"fp32": 1e-7, "fp32 + stacked": None, "fp32 + plain Adam": None}}
    del here[0]
    assert asked("parity").broken


def test_what_the_launcher_asks_for_and_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert asked("plan").broken and "the launcher asks for FSDP" in asked("plan").found
    assert "the launcher asks for FSDP" in asked("launcher").advice


def test_compiled_plans_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fastdcgan.distributed.accelerator.with_launcher_precision", lambda request: ExecutionConfig(compile="on")
    )
    _, found, left_out = measuring._plans()
    assert found and all(plan.backend is None for plan in found) and "fastdcgan tune" in left_out
