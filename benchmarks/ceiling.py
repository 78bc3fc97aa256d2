"""The most images per second that this machine's arithmetic allows."""

from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.roofline import Ceilings, pass_flops, work_per_image


def training_ceiling(machine: Ceilings | None, arch: Architecture, batch: int, precision: str) -> float | None:
    """Images per second if the convolutions of a step ran at the machine's best rate and all else were free."""
    return _rate(machine, precision) / work_per_image(arch, batch).flops if machine else None


def sampling_ceiling(machine: Ceilings | None, arch: Architecture, precision: str) -> float | None:
    """The same for one forward pass of the generator."""
    return _rate(machine, precision) / sum(pass_flops(arch)[0]) if machine else None


def _rate(machine: Ceilings, precision: str) -> float:
    return machine.flops["bf16" if precision == "fp16" else precision]
