"""What is exported: a generator of a run; and that what was written makes the same pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastdcgan.api.generator import Generator
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.checkpoints.folder import Named
from fastdcgan.runs.classes import labels_in_turn
from fastdcgan.runs.generate import load_generator
from fastdcgan.runs.sampling import generate

Precision = Literal["fp32", "fp16"]

TOLERANCE: dict[Precision, float] = {"fp32": 1e-5, "fp16": 0.02}
"""Of a number in a picture, in [-1, 1]: in fp16 two and a half of 256 levels."""

CHECKED_BATCHES = (1, 3, 64)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A generator of a run, fp32 on the CPU, in evaluation mode."""

    run: Path
    generator: Generator
    step: int
    skipped: list[str]
    """Why newer checkpoints were passed over, a line each."""


def choose(run: Path, *, checkpoint: Named = "latest", raw: bool = False) -> Chosen:
    """Load what `generate` would make pictures with. Raises ValueError as `load_generator` does."""
    network, arch, progress, skipped = load_generator(run, raw=raw, checkpoint=checkpoint)
    generator = Generator.of(arch, network.cpu().state_dict())
    return Chosen(run=run, generator=generator, step=progress.step, skipped=skipped)


def check_installed(what: str, *packages: str) -> None:
    """Raises ValueError, with the command that installs them, where one is missing."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ValueError(f"--to {what} needs {', '.join(missing)}: pip install 'fastdcgan[export]'")


def in_precision(generator: Generator, precision: Precision) -> nn.Module:
    """The network to export: fp32 in and out, with weights and arithmetic in this precision."""
    return generator if precision == "fp32" else _Half(generator)


class _Half(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = Generator.of(generator.arch, generator.state_dict()).half()
        self.eval()

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        pictures_BCHW: Tensor = self.generator(z_BL.half(), labels_B).float()
        return pictures_BCHW


def largest_difference(exported: Callable[..., Tensor], chosen: Chosen, precision: Precision) -> float:
    """Of any number in pictures of several batches, from those that PyTorch makes. Raises ValueError if it is large.

    Args:
        exported: z_BL, and labels_B where there are classes, to pictures_BCHW, as what was written makes them.
        chosen: what was exported.
        precision: says what is large: `TOLERANCE`.
    """
    arch, largest = chosen.generator.arch, 0.0
    for seed, batch in enumerate(CHECKED_BATCHES):
        z_BL = latents(seed, Stream.GENERATE, 0, batch, arch.latent_dim)
        inputs = z_BL, *labels(arch, batch)
        difference = (exported(*inputs) - generate(chosen.generator, *inputs)).abs().max().item()
        largest = difference if math.isnan(difference) else max(largest, difference)
    if not largest <= TOLERANCE[precision]:
        raise ValueError(
            f"nothing is written: its pictures would differ by {largest:.1e} from those of {chosen.run}, more than "
            f"{TOLERANCE[precision]:g}" + ("; fp32 would be nearer" if precision == "fp16" else "")
        )
    return largest


def example_inputs(chosen: Chosen) -> tuple[Tensor, ...]:
    """Inputs to trace a network with: of two pictures, as 1 may be taken for a constant."""
    return torch.zeros(2, chosen.generator.arch.latent_dim), *labels(chosen.generator.arch, 2)


def dynamic_shapes(inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """The dimension of all inputs that may have any size: how many pictures are made."""
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def labels(arch: Architecture, count: int) -> tuple[Tensor, ...]:
    """labels_B of all classes in turn; nothing where there are none."""
    in_turn = labels_in_turn(range(len(arch.classes)), count)
    return () if in_turn is None else (in_turn,)
