"""Compiles our C++ kernels: a library for each instruction set. Imports nothing of ours, as setup.py runs it too."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / f"{name}.cpp" for name in ("direct", "noise", "normalise", "sources", "thin", "winograd"))

FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-fPIC", "-w")

_AVX2 = ("-mavx2", "-mfma", "-mprfchw")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
TARGETS: dict[str, tuple[str, ...]] = {
    "avx512_amx": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    "avx512_bf16": (*_AVX512, "-mavx512bf16"),
    "avx512": _AVX512,
    "avx2": _AVX2,
}
"""The compiler's flags for each instruction set, the widest first."""


def library_path(instruction_set: str) -> Path:
    """Where the library lies that comes with the package."""
    return FOLDER / f"kernels_{instruction_set}.so"


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else g++. None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def is_supported_machine() -> bool:
    """Whether the kernels are written for this system and this family of processors."""
    return platform.system() == "Linux" and platform.machine() == "x86_64"


@cache
def source_hash() -> str:
    """16 hexadecimal digits that stand for the sources and flags. A library built from others is out of date."""
    files = sorted((*FOLDER.glob("*.cpp"), *FOLDER.glob("*.hpp")))
    texts = (*(file.read_text(encoding="utf-8") for file in files), *FLAGS, repr(TARGETS))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def is_current(library: Path) -> bool:
    """Whether a library is there and was built from these sources."""
    return library.exists() and source_hash().encode() in library.read_bytes()


def build(program: str, instruction_set: str, library: Path) -> None:
    """Compile a library. Raises OSError or subprocess.SubprocessError.

    In a temporary folder, and renamed: another process may be building the same one.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unfinished = Path(folder) / library.name
        options = (*FLAGS, *TARGETS[instruction_set], f'-DSOURCE_HASH="{source_hash()}"')
        run_compiler(program, *options, "-c", *map(str, SOURCES), cwd=folder)
        # Linked without OpenMP: its functions are found in the library that PyTorch has loaded, whatever its name is.
        objects = [str(path) for path in sorted(Path(folder).glob("*.o"))]
        run_compiler(program, "-shared", "-o", str(unfinished), *objects)
        unfinished.chmod(0o755)
        unfinished.replace(library)


def run_compiler(program: str, *arguments: str, cwd: str | None = None) -> str:
    """What the compiler writes to its standard output."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=300, cwd=cwd)
    return done.stdout
