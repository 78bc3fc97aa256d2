"""How much memory a training step takes, from the networks' shapes; and how much a process may have."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.models import Discriminator, Generator, parameter_count
from fastdcgan.limits.control_groups import control_groups

# How often the weights and the activations that autograd keeps are in memory at a step's peak, beside each other in
# other layouts and types: fitted to what steps took beyond the process (dcgan28, 64 and 128, batches of 8 to 512, own
# kernels for AVX2 and AVX-512, two Zen 4 cores, torch 2.14.1). Our kernels in fp32 keep transformed weights.
_WEIGHTS, _WEIGHTS_OF_OUR_FP32 = 6.5, 10.0
_ACTIVATIONS_FP32, _ACTIVATIONS_HALF = 1.6, 0.8

_PROCESS_BYTES = 640 << 20
"""Python, PyTorch and its libraries, and the report at the end: a whole run of a tiny network took 612 MiB."""


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Estimates the bytes that a process needs to train."""

    weights: int
    """Bytes of both networks' parameters."""

    generator: int
    """Bytes of a picture's activations that autograd keeps of G."""

    discriminator: int
    """Likewise of D on a real and on a fake picture."""

    on_cpu: bool
    fp32: bool

    @classmethod
    def of(cls, arch: Architecture, *, on_cpu: bool, fp32: bool) -> "StepMemory":
        """Runs one picture through the networks on the meta device."""
        with torch.device("meta"):
            generator, discriminator = Generator(arch), Discriminator(arch)
            z_BL = torch.empty(1, arch.latent_dim)
            picture_BCHW = torch.empty(1, arch.channels, *arch.resolution)
        return cls(
            weights=4 * (parameter_count(generator) + parameter_count(discriminator)),
            generator=_kept_bytes(generator, z_BL),
            discriminator=2 * _kept_bytes(discriminator, picture_BCHW),
            on_cpu=on_cpu,
            fp32=fp32,
        )

    def __call__(self, batch: int, accumulate: int = 1) -> int:
        """Bytes of a process whose share of a step is `batch` pictures, in `accumulate` parts."""
        kept = batch * (self.generator + self.discriminator / accumulate)
        copies = _WEIGHTS_OF_OUR_FP32 if self.on_cpu and self.fp32 else _WEIGHTS
        step = copies * self.weights + (_ACTIVATIONS_FP32 if self.fp32 else _ACTIVATIONS_HALF) * kept
        return int(step) + (_PROCESS_BYTES if self.on_cpu else 0)

    def largest_batch(self, limit: float, accumulate: int = 1) -> int:
        """How many pictures' steps stay within `limit` bytes; 0 if not even one's does."""
        least = self(0, accumulate)
        return max(0, math.floor((limit - least) / (self(1024, accumulate) - least) * 1024))

    def least_accumulate(self, batch: int, limit: float) -> int:
        """The fewest equal parts in which a batch's step stays within `limit` bytes; 0 if there are none."""
        fitting = (parts for parts in range(1, batch + 1) if batch % parts == 0 and self(batch, parts) <= limit)
        return next(fitting, 0)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may have at most: the machine's, or the least of its control groups' limits."""
    limits: list[int] = [psutil.virtual_memory().total]
    for group in control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is no number
                limits.append(int((group / name).read_text()))
    return min(limits)


def _kept_bytes(network: nn.Module, x: Tensor) -> int:
    """Of what autograd keeps for a backward pass through a network, without its weights."""
    weights = {id(storage): storage for storage in (p.untyped_storage() for p in network.parameters())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage  # held, so that no other one gets its id
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(x)
    del out
    total: int = sum(storage.nbytes() for name, storage in kept.items() if name not in weights)
    return total
