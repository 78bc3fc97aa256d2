"""Our C++, compiled for the processor at hand when it is first needed, and kept in the cache folder.

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
from functools import cache
from pathlib import Path

import torch  # noqa: F401  loads its OpenMP library, which ours then shares

from fastdcgan.cache import cache_folder

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
        sources = (file.read_text() for file in (source, *sorted(source.parent.glob("*.hpp"))))
        key = hashlib.sha256("\n".join((*sources, *FLAGS, _ask(program, "--version"), target)).encode())
        library = cache_folder() / "native" / f"{name}-{key.hexdigest()[:16]}.so"
        if not library.exists():
            _build(program, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _ask(program: str, *arguments: str) -> str:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def _build(program: str, source: Path, library: Path) -> None:
    """Build beside its place and rename: another process may be doing the same."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unfinished = Path(folder) / library.name
        _ask(program, *FLAGS, "-o", str(unfinished), str(source))
        unfinished.replace(library)
