"""Probes of the machine: processors, memory, devices and disks."""

import os
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

from fastdcgan.doctor.finding import Finding
from fastdcgan.storage.files import nearest_existing
from fastdcgan.storage.wording import counted

_GIB = 2**30

_SIZING_SECONDS = 2.0
"""For the size of the cache folder."""


def cpu() -> Finding:
    """Model, instruction sets, and how many cores and threads are used."""
    import torch

    from fastdcgan.distributed.accelerator import default_threads
    from fastdcgan.limits.cores import usable_cores
    from fastdcgan.limits.hardware import cpu_model, physical_cores

    has = [name for name, there in torch.cpu.get_capabilities().items() if there is True]
    wide = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve", "asimd") if name in has]
    usable, threads, everything = usable_cores(), default_threads(), os.cpu_count() or 1
    limit = f" of {everything} (affinity or control group)" if usable < everything else ""
    physical = f", {physical_cores()} of them physical" if physical_cores() and usable == everything else ""
    said = os.environ.get("OMP_NUM_THREADS")
    advice = f"OMP_NUM_THREADS={said} leaves cores idle: unset it, or --threads {usable}" if threads < usable else ""
    return Finding(
        topic="cpu",
        found=f"{cpu_model()} ({', '.join(wide) or 'no known vector instructions'}); "
        f"{counted(usable, 'usable core')}{limit}{physical}; {counted(threads, 'thread')} for arithmetic",
        advice=advice,
        details={"cores": everything, "usable_cores": usable, "threads": threads},
    )


def memory() -> Finding:
    """Of the machine, and of the control group."""
    import psutil

    here = psutil.virtual_memory()
    found = f"{_gib(here.available)} of {_gib(here.total)} free"
    limit = _control_group_limit()
    if limit is not None and limit < here.total:
        found += f"; the control group may have {_gib(limit)}"
    return Finding(topic="memory", found=found)


def devices() -> Finding:
    """GPUs: those that PyTorch can use, and those that only the driver knows."""
    import torch

    driver = _driver()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    warned = next((str(warning.message).splitlines()[0] for warning in said), "")
    if usable:
        return _usable_gpus(driver)
    if torch.backends.mps.is_available():
        return Finding(topic="devices", found="MPS (Apple's GPU): used")
    if not driver:
        return Finding(topic="devices", found="no GPU: training runs on the CPU")
    if torch.version.cuda is None:
        return Finding(
            topic="devices",
            found=f"not used: {driver}; this PyTorch is built for the CPU alone",
            advice="install a PyTorch with CUDA: https://pytorch.org/get-started/locally",
        )
    return Finding(
        topic="devices",
        found=f"not used: {driver}; PyTorch can't use it: {warned or 'no reason given'}",
        advice=f"update the driver to one for CUDA {torch.version.cuda}, or install a PyTorch for an older CUDA",
    )


def cache() -> Finding:
    """The cache folder: indices, packs, plans, kernels."""
    from fastdcgan.storage.cache import cache_folder

    folder = cache_folder()
    why = _why_not_writable(folder)
    if why:
        return Finding(
            topic="cache",
            found=f"{folder}: can't be written ({why}), so nothing is kept between runs",
            advice="set FASTDCGAN_CACHE to a folder that can be written",
        )
    if not folder.exists():
        return Finding(topic="cache", found=f"{folder}, not there yet")
    size, complete = _size(folder)
    plans = len(list((folder / "plans").glob("*.json")))
    return Finding(
        topic="cache",
        found=f"{folder}: {'' if complete else 'more than '}{_gib(size)}, {plans} measured plans",
        details={"bytes": size, "plans": plans},
    )


def disk() -> Finding:
    """Free space where runs, the cache and temporary files go, and in /dev/shm."""
    from fastdcgan.storage.cache import cache_folder

    parts, advice = [], ""
    for label, folder in (("here", Path.cwd()), ("cache", cache_folder()), ("tmp", Path(tempfile.gettempdir()))):
        there = nearest_existing(folder)
        free = shutil.disk_usage(there).free
        parts.append(f"{label} {_gib(free)} free")
        if free < _GIB:
            advice = f"make room in {there}"
    if why := _why_not_writable(Path.cwd()):
        parts[0] = f"this folder can't be written ({why})"
        advice = "start it elsewhere, or name a folder with --out"
    shm = Path("/dev/shm")
    if shm.is_dir():
        parts.append(f"/dev/shm {_gib(shutil.disk_usage(shm).free)} free")
    return Finding(topic="disk", found=", ".join(parts), advice=advice)


def _usable_gpus(driver: str) -> Finding:
    import torch

    from fastdcgan.distributed.launcher import launch_command

    gpus, advice = [], ""
    count = torch.cuda.device_count()
    for index in range(count):
        card = torch.cuda.get_device_properties(index)
        gpus.append(f"{card.name}, {_gib(card.total_memory)}, compute capability {card.major}.{card.minor}")
        if not _built_for(card.major, card.minor):
            built = ", ".join(torch.cuda.get_arch_list())
            advice = f"this PyTorch is built for {built}: install one for sm_{card.major}{card.minor}"
    if not advice and count > 1:
        advice = f"one process uses one GPU; all {count}: {launch_command(count)}"
    return Finding(
        topic="devices",
        found=f"CUDA: {'; '.join(dict.fromkeys(gpus))}{f' ({count} of them)' if count > 1 else ''}: used. "
        f"Driver: {driver or 'unknown'}",
        advice=advice,
        details={"gpus": gpus},
    )


def _built_for(major: int, minor: int) -> bool:
    """Whether PyTorch has code that a GPU of this compute capability can run, or that the driver translates for it."""
    import torch

    architectures = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in torch.cuda.get_arch_list()]
    return not any(architectures) or any(
        (int(one[2]) == major and int(one[3]) <= minor) or (one[1] == "compute" and int(one[2]) <= major)
        for one in architectures
        if one
    )


def _driver() -> str:
    """What the NVIDIA driver says is here, without PyTorch; empty if there is none."""
    program = shutil.which("nvidia-smi")
    if program is not None:
        command = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return f"nvidia-smi can't be run ({error})"
        if done.returncode == 0 and (lines := done.stdout.strip().splitlines()):
            several = f" (the first of {len(lines)})" if len(lines) > 1 else ""
            name, release, size = (part.strip() for part in lines[0].split(","))
            return f"{name}, {size}, driver {release}{several}"
        return f"nvidia-smi: {(done.stdout + done.stderr).strip().splitlines()[0]}" if done.returncode else ""
    file = Path("/proc/driver/nvidia/version")
    return file.read_text().splitlines()[0] if file.exists() else ""


def _control_group_limit() -> int | None:
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(file).read_text())
        except (OSError, ValueError):
            continue
    return None


def _why_not_writable(folder: Path) -> str:
    """Empty if a file can be made in it, or in the nearest folder above that is there. Leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(folder)) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _size(folder: Path) -> tuple[int, bool]:
    """Bytes of the files in a folder, and whether all were counted in the time there is."""
    size, deadline = 0, time.monotonic() + _SIZING_SECONDS
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(root) / name).lstat().st_size
            except OSError:
                continue
        if time.monotonic() > deadline:
            return size, False
    return size, True


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
