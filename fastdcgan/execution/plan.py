"""A plan: how a step is executed on a machine, as data (precision, memory layout, compilation, kernels).

All plans compute the same function; they differ in speed, memory and rounding. `prepare.py` carries one out.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from fastdcgan.config import ExecutionConfig
from fastdcgan.kernels import fused_batch_norm, native, thin, winograd
from fastdcgan.kernels.native.build import compiler, source_hash

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


KernelName = Literal["ends", "norm", "thin", "winograd"]
"""Layers that are computed by our own modules, for CPUs:

- `ends`: single-pixel layers (G's first, D's last) as matrix products;
- `norm`: BatchNorm fused with its ReLU or LeakyReLU;
- `thin`: image layers (D's first, G's last), whose picture side has few channels;
- `winograd`: the convolutions in between, by Winograd's algorithm; in bf16 on a matrix unit (AMX) by their definition.
"""

_EXACT_SUMS_NEED = ("fp32", (), None, True, 1)
"""Precision, kernels, backend, stacked and threads of plans with shares."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to execute the step. Raises ValueError for fields that exclude each other."""

    precision: Precision = "fp32"
    channels_last: bool = True
    backend: str | None = None
    """torch.compile's backend for both networks; None runs them eagerly."""

    capture: bool = False
    """The backend compiles the whole iteration as one graph (`capture.py`), instead of the two networks."""

    replay: bool = False
    """The whole iteration is recorded once and repeated: a CUDA graph, or on a CPU a list of calls (`replay.py`)."""

    fused_adam: bool = True

    stacked: bool = False
    """D gets real and fake pictures in one call (`stacked.py`); its BatchNorm normalises each by itself."""

    kernels: tuple[KernelName, ...] = ()
    """Layers computed by our own kernels instead of PyTorch's: on a CPU, channels last, not compiled."""

    shares: int = 0
    """Parts of the batch whose sums are added in a fixed order, so that results are the same bits on any number of
    ranks (`exact_sums.py`); a power of two. 0: sums in the fastest order."""

    keep_memory: bool = False
    """Whether the process keeps freed memory for the rest of its life instead of returning it to the system."""

    threads: int | None = None
    """Intra-op threads on a CPU; None leaves the number as it is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))  # a list, where it was read from JSON
        if self.kernels and (not self.channels_last or self.backend):
            raise ValueError("our own kernels need channels-last memory and can't be compiled")
        if self.replay and (self.precision == "fp16" or self.capture):
            raise ValueError("a replayed step has no gradient scaler, which fp16 needs, and is not captured as well")
        if self.stacked and self.backend:
            raise ValueError("the stacked call is not for compiled plans")
        if self.shares and (self.precision, self.kernels, self.backend, self.stacked, self.threads) != _EXACT_SUMS_NEED:
            raise ValueError("exact sums are for the stacked call, PyTorch's own kernels, fp32 and one thread")

    def __str__(self) -> str:
        """The precision and what differs from the default plan: "bf16 + ends + norm + thin + winograd"."""
        parts = (
            "" if self.channels_last else "channels first",
            f"{'captured whole' if self.capture else 'compiled'} by {self.backend}" if self.backend else "",
            "replayed" if self.replay else "",
            "" if self.fused_adam or self.capture else "plain Adam",
            "stacked" if self.stacked else "",
            *self.kernels,
            f"exact on up to {self.shares} ranks" if self.shares else "",
            "memory kept" if self.keep_memory else "",
            f"threads: {self.threads}" if self.threads else "",
        )
        return " + ".join((self.precision, *filter(None, parts)))


def choose_plan(request: ExecutionConfig, device: torch.device, world_size: int = 1) -> Plan:
    """The plan for a request and a device, by rules: nothing is measured.

    Args:
        request: what the user asked for.
        device: where the step runs.
        world_size: processes that share each batch.

    Raises:
        ValueError: if the device can't do what was asked for.
    """
    if request.exact_ranks:
        if device.type != "cpu":
            raise ValueError(f"--exact-ranks {request.exact_ranks} is for CPUs: add --device cpu")
        if request.exact_ranks % world_size:
            raise ValueError(f"--exact-ranks {request.exact_ranks} is no multiple of the {world_size} processes")
        return Plan(shares=request.exact_ranks, stacked=True, threads=1, keep_memory=True)
    precision = request.precision
    if precision == "auto":
        precision = native_precision(device)
    if precision == "fp16" and device.type == "mps":
        raise ValueError("--precision fp16 needs a gradient scaler, which MPS has not: use fp32 or bf16")
    capture = request.compile == "step"
    compiled = capture or request.compile == "on" or (request.compile == "auto" and device.type == "cuda")
    if compiled and device.type == "cpu" and not has_cpp_compiler():
        raise ValueError(
            f"--compile {request.compile} needs a C++ compiler on the CPU: install g++ or set CXX, or use --compile off"
        )
    if capture and precision == "fp16":
        raise ValueError("--compile step has no gradient scaler, which fp16 needs: use --precision bf16 or fp32")
    if request.compile == "replay" and (why := _why_not_replay(precision, device)):
        raise ValueError(f"--compile replay {why}")
    kernels = () if compiled else own_kernels(device, precision)
    return Plan(
        precision=precision,
        backend="inductor" if compiled else None,
        capture=capture,
        replay=is_replayed(request, device, kernels),
        # Half as many operators; and of several ranks real and fake pictures share BatchNorm's all-reduces.
        stacked=device.type == "cpu" and not compiled,
        kernels=kernels,
        keep_memory=device.type == "cpu",
    )


def _why_not_replay(precision: Precision, device: torch.device) -> str:
    if device.type not in ("cuda", "cpu"):
        return f"is for CUDA and CPUs, and this run is on {device.type}: use --compile auto"
    if precision == "fp16":
        return "has no gradient scaler, which fp16 needs: use --precision bf16 or fp32"
    return ""


def is_replayed(request: ExecutionConfig, device: torch.device, kernels: tuple[KernelName, ...]) -> bool:
    """Whether a step with these kernels is recorded and repeated.

    By default on a CPU with our kernels: results of PyTorch's convolutions would be copied.
    """
    by_default = device.type == "cpu" and "norm" in kernels
    return request.compile == "replay" or (request.compile == "auto" and by_default)


def own_kernels(device: torch.device, precision: Precision) -> tuple[KernelName, ...]:
    """Our kernels that are expected to be faster than PyTorch's on a device in a precision.

    Where a processor has a matrix unit for bf16 (AMX) and they don't use it, PyTorch's are.
    """
    if device.type != "cpu" or precision == "fp16":
        return ()
    dtype, capabilities = DTYPES[precision], torch.cpu.get_capabilities()
    behind = precision == "bf16" and capabilities.get("amx_bf16") and not native.has_kernel("direct_gather", dtype)
    if not behind and all(kernels.available(dtype) for kernels in (fused_batch_norm, thin, winograd)):
        return ("ends", "norm", "thin", "winograd")
    return ("ends",)


def kernel_version() -> str | None:
    """Which of our C++ kernels there are here: the instruction set and the version of their sources. None: none."""
    return None if isinstance(native.library(), str) else f"{native.instruction_set()} {source_hash()}"


def why_no_kernels(plan: Plan, device: torch.device) -> str:
    """Why a plan has none of our C++ kernels, if the machine is the reason; else empty."""
    if device.type != "cpu" or plan.backend or plan.shares or plan.precision == "fp16" or "winograd" in plan.kernels:
        return ""
    library = native.library()
    return library if isinstance(library, str) else ""


def has_cpp_compiler() -> bool:
    """Whether there is a C++ compiler, with which Inductor builds kernels for the CPU."""
    return compiler() is not None


def native_precision(device: torch.device) -> Precision:
    """The narrowest precision that the device multiplies in hardware; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
    return "fp32"
