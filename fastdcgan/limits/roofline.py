"""The roofline model (Williams, Waterman & Patterson 2009): the most images per second that a machine could reach.

An iteration takes at least as long as its arithmetic at the machine's best rate, and at least as long as its memory
traffic at the machine's bandwidth.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdcgan.gan.architecture import Architecture, ConvSpec, Size
from fastdcgan.gan.models import Discriminator, Generator, parameter_count
from fastdcgan.gan.objectives import objective
from fastdcgan.gan.step import discriminator_loss, generator_loss
from fastdcgan.limits.hardware import third_level_cache
from fastdcgan.limits.step_memory import memory_limit
from fastdcgan.private_torch import TorchDispatchMode, tree_leaves

# --- The work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WorkPerImage:
    """Arithmetic and memory traffic of a training iteration, per picture."""

    flops: float
    """Of convolutions; a multiplication and an addition are two."""

    bytes: float
    """Memory traffic of eager execution without caches: every operator reads its inputs and writes its outputs once.
    Fused kernels and large caches move less."""


@cache
def work_per_image(
    arch: Architecture, batch: int, bytes_per_number: int = 4, relativistic: bool = False
) -> WorkPerImage:
    """The work of an iteration per picture.

    Args:
        arch: the networks.
        batch: pictures in an iteration, among which the optimizer's traffic is divided.
        bytes_per_number: 4 for fp32, 2 for bf16 or fp16; parameters and Adam's moments are fp32 in any case.
        relativistic: whether the loss is, so that D looks at real pictures once more while G learns.
    """
    generator_flops, discriminator_flops = pass_flops(arch)
    parameters = parameter_count(_on_meta(arch)[0]) + parameter_count(_on_meta(arch)[1])
    # Adam reads the parameter, its gradient and two moments, and writes all but the gradient.
    optimizer = 7 * 4 * parameters / batch
    return WorkPerImage(
        flops=iteration_flops(generator_flops, discriminator_flops, relativistic),
        bytes=bytes_per_number * numbers_moved(arch, batch, relativistic) / batch + optimizer,
    )


def pass_flops(arch: Architecture) -> tuple[list[int], list[int]]:
    """FLOPs of each layer of G and of D in one forward pass of one picture."""
    generator, size = [], Size(1, 1)
    for spec in arch.generator:
        generator.append(_layer_flops(spec, size))  # a transposed convolution multiplies for each pixel of its input
        size = spec.conv_transpose_out(size)
    discriminator = []
    for spec in arch.discriminator:
        size = spec.conv_out(size)
        discriminator.append(_layer_flops(spec, size))  # a convolution for each pixel of its output
    return generator, discriminator


def iteration_flops(generator: list[int], discriminator: list[int], relativistic: bool = False) -> int:
    """FLOPs of a whole iteration, per picture, from those of the layers' forward passes.

    The gradients with respect to a layer's input and to its weights cost a forward pass each. Noise needs no gradient,
    and pictures need none while D learns. By a relativistic loss D looks at real pictures once more while G learns.
    """
    G, D = sum(generator), sum(discriminator)
    forwards = G + (3 + relativistic) * D  # fakes; D on real, on fake, and on fake once more
    discriminator_learns = 2 * (2 * D - discriminator[0])
    generator_learns = D + (2 * G - generator[0])  # through the frozen D, which gets no weight gradients
    return forwards + discriminator_learns + generator_learns


def numbers_moved(arch: Architecture, batch: int, relativistic: bool = False) -> int:
    """How many numbers an eager iteration on a batch reads and writes, without optimizers. Runs on the meta device."""
    generator, discriminator = _on_meta(arch)
    z_BL = torch.empty(batch, arch.latent_dim, device="meta")
    real_BCHW = torch.empty(batch, arch.channels, *arch.resolution, device="meta")
    losses = objective("rpgan" if relativistic else "bce")
    traffic = _TrafficCounter()
    with traffic:
        fake_BCHW = generator(z_BL)
        discriminator_loss(discriminator, real_BCHW, fake_BCHW.detach(), losses)[0].backward()
        discriminator.requires_grad_(False)
        generator_loss(discriminator, real_BCHW, fake_BCHW, losses).backward()
    return traffic.numbers


class _TrafficCounter(TorchDispatchMode):
    """Counts the numbers in the inputs and outputs of every operator that isn't a view."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.numbers += sum(tensor.numel() for tensor in tensors)
        return out


def _layer_flops(spec: ConvSpec, size: Size) -> int:
    return 2 * spec.weights * size.area


def _on_meta(arch: Architecture) -> tuple[Generator, Discriminator]:
    with torch.device("meta"):
        return Generator(arch), Discriminator(arch)


# --- The machine ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """A machine's peak rates, per second."""

    name: str
    flops: dict[str, float]
    """By precision: fp32, bf16."""

    bytes: float
    """Memory bandwidth."""


# Datasheet peaks of the SXM versions, dense (without sparsity): bf16 on tensor cores, fp32 as TF32 on tensor cores.
KNOWN_GPUS = {
    "A100": Ceilings(name="A100 80GB (datasheet)", flops={"fp32": 156e12, "bf16": 312e12}, bytes=2.039e12),
    "H100": Ceilings(name="H100 SXM (datasheet)", flops={"fp32": 494e12, "bf16": 989e12}, bytes=3.35e12),
    "H200": Ceilings(name="H200 (datasheet)", flops={"fp32": 494e12, "bf16": 989e12}, bytes=4.8e12),
}


MOST_COPIED = 2**28
"""Bytes of an array whose copy measures a CPU's memory bandwidth, at most."""


def find_gpu(name: str) -> tuple[str, Ceilings]:
    """The key and the peaks of a GPU in `KNOWN_GPUS`, by its name in upper or lower case.

    Raises:
        ValueError: for another name.
    """
    if (key := name.upper()) not in KNOWN_GPUS:
        raise ValueError(f"--gpu {name}: know {', '.join(known.lower() for known in KNOWN_GPUS)}")
    return key, KNOWN_GPUS[key]


def device_ceilings(device: torch.device, seconds: float = 0.2) -> Ceilings | None:
    """A device's peaks: measured for a CPU (`seconds` a kernel), from the datasheet of a known GPU, else None."""
    if device.type == "cpu":
        return measure_ceilings(seconds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((ceilings for known, ceilings in KNOWN_GPUS.items() if known in name), None)


def measure_ceilings(seconds: float = 0.5) -> Ceilings:
    """This CPU's peaks, as the best of many runs of PyTorch's own kernels, each of a few milliseconds.

    Args:
        seconds: how long to run each of seven kernels.
    """
    flops = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x_BCHW = _randn(32, 128, 16, 16).to(dtype).contiguous(memory_format=torch.channels_last)
        w = _randn(256, 128, 4, 4).to(dtype).contiguous(memory_format=torch.channels_last)
        spec = ConvSpec(128, 256, Size(4, 4), 2, 1)
        amount = 32 * _layer_flops(spec, Size(8, 8))
        convolution = _best_rate(amount, partial(F.conv2d, x_BCHW, w, stride=2, padding=1), seconds)
        flops[name] = max(_matrix_rate(dtype, seconds), convolution)
    size = copied_bytes(third_level_cache(torch.get_num_threads()), memory_limit())
    source, target = torch.ones(size // 4), torch.ones(size // 4)
    copy = _best_rate(2 * size, partial(target.copy_, source), seconds)
    return Ceilings(name="this CPU", flops=flops, bytes=copy)


def copied_bytes(cache: int | None, memory: int) -> int:
    """Bytes of each of the two arrays whose copy measures the memory bandwidth.

    Twice the cache each, so four times both: a copy begins where the copy before it began, which a cache that keeps
    what was used last no longer holds, and any other holds a quarter of the arrays at most. Larger arrays measure the
    same. The size is bounded, also by a share of what the process may have, because runs end with the arrays in memory:
    in a small container on a large machine it may be the cache that is measured. Where the cache is unknown, it is the
    bound.

    Args:
        cache: bytes of the last cache before the memory; None if unknown.
        memory: bytes that the process may have.
    """
    most = min(MOST_COPIED, memory // 32)
    return most if cache is None else min(2 * cache, most)


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator())  # the global random state is the caller's


def _matrix_rate(dtype: torch.dtype, seconds: float) -> float:
    """FLOPs a second of matrix products: of small ones alone where a large one would take ten times as long as asked.

    Without bf16 instructions, two cores take 2 s for the large one.
    """
    rate = 0.0
    for side in (256, 1024):
        amount = 2 * side**3
        if rate == 0 or amount / rate < 10 * seconds:
            a, b = (_randn(side, side).to(dtype) for _ in range(2))
            rate = max(rate, _best_rate(amount, partial(torch.mm, a, b), seconds))
    return rate


def _best_rate(amount: float, kernel: Callable[[], object], seconds: float) -> float:
    """FLOPs, or bytes, a second; `amount` is what a run of the kernel has."""
    with torch.inference_mode():
        kernel()
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            kernel()
            best = min(best, time.perf_counter() - start)
    return amount / best


# --- The limit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ThroughputLimit:
    """The most images per second that a machine could reach, and what bounds it."""

    images_per_sec: float
    bound_by: str
    """ "arithmetic" or "memory"."""


def throughput_limit(needed: WorkPerImage, machine: Ceilings, precision: str) -> ThroughputLimit:
    """The images per second that a machine's arithmetic and its memory bandwidth allow: the lower of the two."""
    by_arithmetic, by_memory = machine.flops[precision] / needed.flops, machine.bytes / needed.bytes
    if by_arithmetic <= by_memory:
        return ThroughputLimit(images_per_sec=by_arithmetic, bound_by="arithmetic")
    return ThroughputLimit(images_per_sec=by_memory, bound_by="memory")
