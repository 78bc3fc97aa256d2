"""Probes of what is installed. Each imports what it looks at itself: it may be broken."""

import importlib
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from fastdcgan.doctor.finding import Finding, first_line

_LIBRARIES = ("safetensors", "matplotlib", "platformdirs", "filelock", "psutil", "jinja2", "rich", "tyro")
"""What training imports beside those that have a probe of their own."""


def system() -> Finding:
    """Operating system and Python."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = platform.platform(terse=True)
    parts = [name, f"{platform.system()} {platform.release()} {platform.machine()}", " ".join(platform.libc_ver())]
    if any(Path(marker).exists() for marker in ("/.dockerenv", "/run/.containerenv")):
        parts.append("in a container")
    threads = ", without the GIL" if not getattr(sys, "_is_gil_enabled", lambda: True)() else ""
    return Finding(
        topic="system", found=f"{', '.join(filter(str.strip, parts))}; Python {platform.python_version()}{threads}"
    )


def torch() -> Finding:
    """PyTorch, and what it was built with."""
    import torch

    parts = [f"CUDA {torch.version.cuda}"] if torch.version.cuda else []
    parts += [f"ROCm {torch.version.hip}"] if torch.version.hip else []
    if torch.backends.cudnn.is_available():
        parts.append(f"cuDNN {torch.backends.cudnn.version()}")
    if torch.version.cuda and torch.distributed.is_available() and torch.distributed.is_nccl_available():
        parts.append("NCCL " + ".".join(map(str, torch.cuda.nccl.version())))
    built = f"built with {', '.join(parts)}" if parts else "built for the CPU alone"
    return Finding(topic="torch", found=f"{torch.__version__}, {built}", advice=_advice_on_version("torch"))


def torchvision() -> Finding:
    """Which is built for one version of PyTorch, and can't be imported beside another."""
    return _imported("torchvision")


def accelerate() -> Finding:
    """Hugging Face Accelerate."""
    return _imported("accelerate")


def numpy() -> Finding:
    """NumPy."""
    return _imported("numpy")


def libraries() -> Finding:
    """The smaller ones, together."""
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
            found.append(f"{name} {version(name)}")
        except Exception as error:  # noqa: BLE001 (a broken library may raise anything)
            missing.append(f"{name} ({first_line(error)})")
    if missing:
        return Finding(
            topic="libraries",
            found=f"can't be used: {', '.join(missing)}",
            advice=f"pip install --force-reinstall {' '.join(text.partition(' ')[0] for text in missing)}",
            broken=True,
        )
    return Finding(topic="libraries", found=", ".join(found))


def pillow() -> Finding:
    """Pillow, and which formats it was built for."""
    import PIL
    from PIL import features

    codecs = {"jpg": "JPEG", "zlib": "PNG", "webp": "WebP"}
    built = [label for name, label in codecs.items() if features.check(name)]
    lacking = [label for name, label in codecs.items() if not features.check(name)]
    turbo = f", libjpeg-turbo {features.version('libjpeg_turbo')}" if features.check("libjpeg_turbo") else ""
    return Finding(
        topic="pillow",
        found=f"{PIL.__version__}: {', '.join(built)}{turbo}" + (f"; no {', '.join(lacking)}" if lacking else ""),
        advice=f"pip install --force-reinstall pillow, to read {', '.join(lacking)}" if lacking else "",
    )


def dali() -> Finding:
    """NVIDIA DALI, which decodes a folder's pictures where it is installed."""
    from fastdcgan.data.decoding.dali import INSTALL_DALI, dali_available, imported_dali_version

    if not dali_available():
        return Finding(
            topic="dali",
            found="not installed: Pillow decodes pictures",
            advice=f"{INSTALL_DALI} (Linux), where decoding holds training up" if platform.system() == "Linux" else "",
        )
    try:
        found = imported_dali_version()
    except Exception as error:  # noqa: BLE001 (it loads CUDA's libraries, and may raise anything)
        return Finding(
            topic="dali",
            found=f"installed, but can't be used: {first_line(error)}",
            advice="--decoder pillow trains without it; pip uninstall it to have that always",
        )
    return Finding(topic="dali", found=f"{found}: decodes a folder's pictures (--decoder)")


def trackers() -> Finding:
    """TensorBoard with its profiler's plugin, and the optional services."""
    parts, advice = [], ""
    for name, package in (("tensorboard", "tensorboard"), ("wandb", "wandb"), ("trackio", "trackio")):
        try:
            found = version(package)
        except PackageNotFoundError:
            parts.append(f"no {name}")
            continue
        try:
            importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else package)
            parts.append(f"{name} {found}")
        except Exception as error:  # noqa: BLE001 (a tracker may raise anything)
            parts.append(f"{name} {found} can't be used ({first_line(error)})")
            advice = advice or f"--track none trains without; pip install --force-reinstall {package}"
    plugin = "with" if find_spec("torch_tb_profiler") else "without"
    return Finding(topic="trackers", found=f"{', '.join(parts)}; {plugin} TensorBoard's profiler plugin", advice=advice)


def compiler() -> Finding:
    """The C++ compiler, for `--compile` on a CPU and for kernels that did not come with the package."""
    from fastdcgan.kernels.native.build import compiler as found_compiler

    program = found_compiler()
    if program is None:
        return Finding(
            topic="compiler",
            found="none (g++, or what CXX names): --compile on and step are not to be had on the CPU",
            advice="install g++",
        )
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True)
    return Finding(topic="compiler", found=f"{said.stdout.splitlines()[0]}")


def kernels() -> Finding:
    """Our C++ kernels: whether they are there, for which instruction set, and whether the default plan has them."""
    from torch import device

    from fastdcgan.config import ExecutionConfig
    from fastdcgan.execution.plan import choose_plan, kernel_version
    from fastdcgan.kernels import native

    library = native.library()
    if isinstance(library, str):
        need = {"Linux": "install g++ and run this again"}.get(platform.system(), "")
        return Finding(topic="own kernels", found=f"not used: {library}", advice=need if "compile" in library else "")
    plan = choose_plan(ExecutionConfig(compile="off", device="cpu"), device("cpu"))
    used = f"the CPU's default plan has {', '.join(plan.kernels)}" if plan.kernels else "the default plan has none"
    return Finding(topic="own kernels", found=f"{kernel_version()}: {used}")


def _imported(name: str) -> Finding:
    module = importlib.import_module(name)
    return Finding(topic=name, found=str(module.__version__), advice=_advice_on_version(name))


def _advice_on_version(name: str) -> str:
    """What to do, where the version is not one that the package asks for."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in requires("fastdcgan") or ()]
    except PackageNotFoundError:  # a checkout that is not installed
        return ""
    for requirement in asked:
        if requirement.name == name and not requirement.specifier.contains(version(name), prereleases=True):
            return f"fastdcgan asks for {requirement}: pip install '{requirement}'"
    return ""
