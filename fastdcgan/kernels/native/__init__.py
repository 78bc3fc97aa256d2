"""Our C++ kernels: libraries for several instruction sets, of which the widest that the processor has is used.

They come with the package. Where they don't (a checkout that was not installed, or whose sources have changed since),
the one that is needed is compiled by the machine's compiler and kept in the cache folder. Such a library is loaded only
from a folder that no other user can have written to: where the cache folder is shared with other users, each process
builds the library in a temporary folder of its own.

The interface is plain C and links only the compiler's own libraries, so neither Python's nor PyTorch's headers are
needed. The OpenMP library is the one that PyTorch has loaded, so that both share one set of threads.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch  # loads its OpenMP library, which ours then shares
from torch import Tensor

from fastdcgan.gan import ranges
from fastdcgan.kernels import recorded
from fastdcgan.kernels.native.build import (
    TARGETS,
    build,
    compiler,
    is_supported_machine,
    library_path,
    run_compiler,
    source_hash,
)
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.private import ensure_private_folder, is_private

_AVX2 = ("avx2", "fma3")
_AVX512 = (*_AVX2, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
_AVX512_BF16 = (*_AVX512, "avx512_bf16")
_NEEDED = {
    "avx2": _AVX2,
    "avx512": _AVX512,
    "avx512_bf16": _AVX512_BF16,
    "avx512_amx": (*_AVX512_BF16, "amx_tile", "amx_bf16"),
}
"""Of `torch.cpu.get_capabilities`."""


@cache
def library() -> ctypes.CDLL | str:
    """The library for this processor, or why there is none.

    Raises:
        ValueError: if $FASTDCGAN_ISA names an instruction set that this processor has not.
    """
    name = instruction_set()
    if name is None:
        return _why_no_instruction_set()
    try:
        return _shipped(name) or _built(name)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or "").splitlines() if "error" in line] or [str(error)]
        return f"they can't be compiled: {lines[0]}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"they can't be loaded: {error}"


def instruction_set() -> str | None:
    """The instruction set whose kernels are used: the widest one that the processor has, or $FASTDCGAN_ISA.

    Of those whose library has yet to be compiled only one that the compiler knows. None if there is none. Raises as
    `library` does.
    """
    here = _instruction_sets()
    wanted = os.environ.get("FASTDCGAN_ISA") or next(
        (name for name in here if library_path(name).exists() or _is_known_to_compiler(name)), "none"
    )
    if wanted not in (*here, "none"):
        raise ValueError(f"FASTDCGAN_ISA={wanted} is not to be had here, but one of: {', '.join((*here, 'none'))}")
    return None if wanted == "none" else wanted


def _instruction_sets() -> list[str]:
    """Those that there are kernels for and that this machine has, the widest first."""
    if not is_supported_machine():
        return []
    capabilities = torch.cpu.get_capabilities()
    here = [name for name in TARGETS if all(capabilities.get(feature) for feature in _NEEDED[name])]
    return [name for name in here if name != "avx512_amx" or _may_use_matrix_unit()]


def _is_known_to_compiler(name: str) -> bool:
    """Also where there is no compiler: that is said later."""
    program = compiler()
    if program is None:
        return True
    try:
        run_compiler(program, *TARGETS[name], "-E", "-x", "c++", os.devnull)
    except (OSError, subprocess.SubprocessError):
        return name == "avx2"  # the compiler fails for another reason, which is said later too
    return True


@cache
def _may_use_matrix_unit() -> bool:
    """Ask Linux for the registers of AMX, which no process has without asking: an older or a confined one refuses."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18  # Linux, Documentation/arch/x86/xstate.rst
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


def _why_no_instruction_set() -> str:
    if not is_supported_machine():
        return "they are for Linux on x86-64"
    return "FASTDCGAN_ISA=none" if _instruction_sets() else "they need AVX2 and FMA, which this processor lacks"


def _shipped(name: str) -> ctypes.CDLL | None:
    """The library that came with the package; None if there is none, or one of other sources."""
    if not library_path(name).exists():
        return None
    shipped = ctypes.CDLL(str(library_path(name)))
    shipped.kernels_source_hash.restype = ctypes.c_char_p
    return shipped if shipped.kernels_source_hash().decode() == source_hash() else None


def _built(name: str) -> ctypes.CDLL | str:
    program = compiler()
    if program is None:
        return "they were not built at installation, and there is no C++ compiler here (g++, or what CXX names)"
    key = hashlib.sha256("\n".join((source_hash(), run_compiler(program, "--version"))).encode())
    file = cache_folder() / "native" / f"{name}-{key.hexdigest()[:16]}.so"
    if not ensure_private_folder(file.parent):
        with tempfile.TemporaryDirectory() as folder:  # mode 0700; a loaded library stays when its file is gone
            file = Path(folder) / file.name
            build(program, name, file)
            return ctypes.CDLL(str(file))
    if not is_private(file):
        build(program, name, file)
    return ctypes.CDLL(str(file))


# --- Calling the kernels ----------------------------------------------------------------------------------------------

_SUFFIX = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class Shape(ctypes.Structure):
    """A stride-2 convolution: batch, input channels C, output channels O, and the input's height and width."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "C", "O", "height", "width"))


def has_kernel(name: str, precision: torch.dtype) -> bool:
    """Whether there is this kernel here, in fp32 or bf16; bf16 needs AVX512_BF16."""
    return precision in _SUFFIX and _has_function(library(), f"{name}_{_SUFFIX[precision]}")


@cache
def _has_function(library: ctypes.CDLL | str, name: str) -> bool:
    """Kept, as layers ask at each call, and a function that isn't there is looked for anew each time (4 us)."""
    return hasattr(library, name)


Tile = tuple[int, int]
"""Height and width of a tile of Winograd's algorithm."""


def kernel(name: str, precision: torch.dtype, tile: Tile | None = None) -> Callable[..., None]:
    """A kernel by name, and by size of tiles where there are several.

    For a pointer it takes a tensor, contiguous in channels-last order, or None.
    """
    size = "{}x{}".format(*tile) if tile else ""
    function = getattr(library(), f"{name}{size}_{_SUFFIX[precision]}")

    def call(*arguments: object) -> None:
        if function.argtypes is None:  # the library's own object, so once a process
            function.argtypes = [_argument_type(argument) for argument in arguments]
        with recorded.reported(function, name, arguments):
            launch(function, name, arguments)

    return call


def launch(function: Callable[..., None], name: str, arguments: Sequence[object]) -> None:
    """Call a kernel, under its name where a profiler is active."""
    with ranges.profiler_operator(f"fastdcgan::{name}", arguments):
        bound(function, arguments)()


def bound(function: Callable[..., None], arguments: Sequence[object]) -> Callable[[], None]:
    """A kernel's call with these arguments. It holds the addresses of tensors, not the tensors."""
    return partial(function, *[x.data_ptr() if isinstance(x, Tensor) else x for x in arguments])


def _argument_type(argument: object) -> Any:
    match argument:
        case None | Tensor():
            return ctypes.c_void_p
        case ctypes.Structure():
            return ctypes.POINTER(type(argument))
        case int():
            return ctypes.c_int64
    return type(argument)


def supports(x: Tensor) -> bool:
    """Whether a tensor is on the CPU, and fp32 or bf16."""
    return x.device.type == "cpu" and x.dtype in _SUFFIX


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast a tensor as autocast casts the input of a convolution."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def empty_channels_last(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor in channels-last memory, of the same dtype as another one."""
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)
