"""Our C++, compiled for the processor at hand when it is first needed, and kept in the cache folder.

A library is code: it is loaded only from a folder that nobody else can have written to. Where the cache is shared with
others, it is built anew for each process, in a folder of its own.

Nothing is linked but the compiler's own libraries, and the interface is plain C through ctypes: any g++ will do, and
neither Python's nor PyTorch's headers are needed. OpenMP's library is the one that PyTorch has loaded, so that both
share one set of threads.
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
    """The C++ compiler: $CXX, else g++. None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


@cache
def load(name: str) -> ctypes.CDLL | None:
    """The library built from `name`.cpp; None where it can't be built, or for another kind of processor than x86-64."""
    program = compiler()
    if program is None or platform.machine() not in ("x86_64", "AMD64"):
        return None
    source = Path(__file__).with_name(f"{name}.cpp")
    try:
        # The same cache may serve other machines: -march=native means something else there.
        target = _ask(program, "-march=native", "-Q", "--help=target")
        sources = [file.read_text() for file in (source, *sorted(source.parent.glob("*.hpp")))]
        key = hashlib.sha256("\n".join((*sources, *FLAGS, _ask(program, "--version"), target)).encode())
        library = cache_folder() / "native" / f"{name}-{key.hexdigest()[:16]}.so"
        if not ensure_private_folder(library.parent):
            with tempfile.TemporaryDirectory() as folder:  # only for us; what is loaded stays when it is gone
                library = Path(folder) / library.name
                _build(program, source, library)
                return ctypes.CDLL(str(library))
        if not is_private(library):
            _build(program, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _ask(program: str, *arguments: str) -> str:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def _build(program: str, source: Path, library: Path) -> None:
    """Build beside its place and rename: another process may be doing the same."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unfinished = Path(folder) / library.name
        _ask(program, *FLAGS, "-o", str(unfinished), str(source))
        unfinished.chmod(0o700)
        unfinished.replace(library)


# --- What the kernels and PyTorch say to each other -------------------------------------------------------------------

_SUFFIX = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class Shape(ctypes.Structure):
    """A convolution's batch, channels on its big and on its small side, and the big side's size."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "C", "O", "height", "width"))


def offers(library: str, name: str, precision: torch.dtype) -> bool:
    """Whether a library can be built here, and has a kernel for a precision: bf16 only where the processor does."""
    loaded = load(library)
    return loaded is not None and precision in _SUFFIX and hasattr(loaded, f"{name}_{_SUFFIX[precision]}")


def kernel(library: str, name: str, precision: torch.dtype) -> Callable[..., None]:
    """A kernel that takes tensors (or None) for pointers. They must be contiguous in channels-last order."""
    loaded = load(library)
    assert loaded is not None, "offers() was not asked"
    function = getattr(loaded, f"{name}_{_SUFFIX[precision]}")

    def call(*arguments: object) -> None:
        with ranges.operator(f"fastdcgan::{library}_{name}", [x for x in arguments if isinstance(x, Tensor)]):
            function(*(_argument(argument) for argument in arguments))

    return call


def knows(x: Tensor) -> bool:
    """Whether the kernels can read a tensor."""
    return x.device.type == "cpu" and x.dtype in _SUFFIX


def autocast(x: Tensor) -> Tensor:
    """As autocast would have it."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def empty(like: Tensor, *shape: int) -> Tensor:
    """Memory for a result: channels last, of the same type."""
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _argument(value: object) -> object:
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
