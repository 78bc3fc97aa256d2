"""Our C++ kernels: compiled for this processor when first needed, cached, and called through ctypes.

A library is loaded only from a folder that no other user can have written to. Where the cache folder is shared with
other users, each process builds the library in a temporary folder of its own.

The interface is plain C and links only the compiler's own libraries, so neither Python's nor PyTorch's headers are
needed. The OpenMP library is the one that PyTorch has loaded, so that both share one set of threads.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch  # loads its OpenMP library, which ours then shares
from torch import Tensor

from fastdcgan.gan import ranges
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.private import ensure_private_folder, is_private

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-w")


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else g++. None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


@cache
def load(name: str) -> ctypes.CDLL | None:
    """The library built from `name`.cpp; None where it can't be built, or on processors other than x86-64."""
    program = compiler()
    if program is None or platform.machine() not in ("x86_64", "AMD64"):
        return None
    source = Path(__file__).with_name(f"{name}.cpp")
    try:
        # Other machines may share the cache, and -march=native means another target there.
        target = _run_compiler(program, "-march=native", "-Q", "--help=target")
        sources = [file.read_text() for file in (source, *sorted(source.parent.glob("*.hpp")))]
        key = hashlib.sha256("\n".join((*sources, *FLAGS, _run_compiler(program, "--version"), target)).encode())
        library = cache_folder() / "native" / f"{name}-{key.hexdigest()[:16]}.so"
        if not ensure_private_folder(library.parent):
            with tempfile.TemporaryDirectory() as folder:  # mode 0700; a loaded library stays when its file is gone
                library = Path(folder) / library.name
                _build(program, source, library)
                return ctypes.CDLL(str(library))
        if not is_private(library):
            _build(program, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _run_compiler(program: str, *arguments: str) -> str:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def _build(program: str, source: Path, library: Path) -> None:
    """Build in a temporary folder and rename: another process may be building the same library."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unfinished = Path(folder) / library.name
        _run_compiler(program, *FLAGS, "-o", str(unfinished), str(source))
        unfinished.chmod(0o700)
        unfinished.replace(library)


# --- Calling the kernels ----------------------------------------------------------------------------------------------

_SUFFIX = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class Shape(ctypes.Structure):
    """A stride-2 convolution: batch, input channels C, output channels O, and the input's height and width."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "C", "O", "height", "width"))


def has_kernel(library: str, name: str, precision: torch.dtype) -> bool:
    """Whether a library can be built here and has this kernel in fp32 or bf16; bf16 needs AVX512_BF16."""
    loaded = load(library)
    return loaded is not None and precision in _SUFFIX and hasattr(loaded, f"{name}_{_SUFFIX[precision]}")


def kernel(library: str, name: str, precision: torch.dtype) -> Callable[..., None]:
    """A kernel by name. For a pointer it takes a tensor, contiguous in channels-last order, or None."""
    loaded = load(library)
    assert loaded is not None, "has_kernel() was not asked"
    function = getattr(loaded, f"{name}_{_SUFFIX[precision]}")

    def call(*arguments: object) -> None:
        with ranges.profiler_operator(f"fastdcgan::{library}_{name}", [x for x in arguments if isinstance(x, Tensor)]):
            function(*(_to_ctypes(argument) for argument in arguments))

    return call


def supports(x: Tensor) -> bool:
    """Whether a tensor is on the CPU, and fp32 or bf16."""
    return x.device.type == "cpu" and x.dtype in _SUFFIX


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast a tensor as autocast casts the input of a convolution."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def empty_channels_last(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor in channels-last memory, of the same dtype as another one."""
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _to_ctypes(value: object) -> object:
    match value:
        case None:
            return ctypes.c_void_p(None)
        case Tensor():
            return ctypes.c_void_p(value.data_ptr())
        case ctypes.Structure():
            return ctypes.byref(value)
        case int():
            return ctypes.c_int64(value)
    return value
