"""Which cases are measured, the most important first: the time may end before the list does."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from benchmarks.gpu.contenders import Contender, contenders_of
from fastdcgan.execution.plan import Precision, native_precision
from fastdcgan.gan.architecture import Architecture, architecture


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A case: networks, pictures a step, and the precision of the plans."""

    arch: str
    batch: int
    precision: Precision
    width: int | None = None
    """None: the architecture's own."""

    @property
    def geometry(self) -> Architecture:
        """The networks."""
        return architecture(self.arch, width=self.width)

    def __str__(self) -> str:
        """As "dcgan64, batch 128, bf16"."""
        narrow = f", width {self.width}" if self.width else ""
        return f"{self.arch}{narrow}, batch {self.batch}, {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What the cells combine; of each axis the most important value first."""

    archs: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    width: int | None = None

    def cells(self) -> list[Cell]:
        """The headline, which is first on every axis, then those that differ from it on one axis, on two, on all."""
        axes = (self.archs, self.batches, self.precisions)
        places = itertools.product(*(range(len(axis)) for axis in axes))
        ordered = sorted(places, key=lambda place: (sum(each > 0 for each in place), sum(place), place))
        return [
            Cell(arch=self.archs[a], batch=self.batches[b], precision=self.precisions[p], width=self.width)
            for a, b, p in ordered
        ]

    @property
    def headline(self) -> Cell:
        """The most important one."""
        return self.cells()[0]


def axes_of(device: torch.device) -> Axes:
    """The axes for a device. On a CPU narrow networks and small batches: there the command itself is tried out."""
    native = native_precision(device)
    if device.type == "cpu":
        precisions: tuple[Precision, ...] = (native, "fp32")
        return Axes(
            archs=("dcgan64", "dcgan28"), batches=(16, 8, 32), precisions=tuple(dict.fromkeys(precisions)), width=16
        )
    # A GPU without bf16 would emulate it.
    precisions = ("bf16", "fp32", "fp16") if native == "bf16" else ("fp16", "fp32")
    return Axes(archs=("dcgan64", "dcgan28", "dcgan128"), batches=(128, 512, 32, 1024), precisions=precisions)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Contenders of a cell that take turns. The reference is the first of them, whatever else is."""

    cell: Cell
    contenders: tuple[Contender, ...]

    def items(self) -> list[str]:
        """What is measured in it, by name."""
        return [item(self.cell, contender) for contender in self.contenders]


def item(cell: Cell, contender: Contender) -> str:
    """The name of what is measured: "dcgan64, batch 128, bf16: reference"."""
    return f"{cell}: {contender.name}"


def visits(axes: Axes, device: torch.device) -> list[Visit]:
    """The headline without what must be compiled, which takes longest and may fail, and once more with all contenders;
    then all other cells without it; then these with it."""

    def of(cell: Cell, *, compiled: bool) -> Visit:
        rest = [each for each in contenders_of(cell.precision, device) if each.compiles == compiled]
        return Visit(cell=cell, contenders=with_reference(rest, cell, device))

    first, *others = axes.cells()
    everything = Visit(cell=first, contenders=tuple(contenders_of(first.precision, device)))
    compiled = any(each.compiles for each in everything.contenders)
    headline = [of(first, compiled=False), everything] if compiled else [everything]
    quick = [of(cell, compiled=False) for cell in others]
    slow = [of(cell, compiled=True) for cell in others]
    return [*headline, *quick, *(visit for visit in slow if len(visit.contenders) > 1)]


def with_reference(contenders: Iterable[Contender], cell: Cell, device: torch.device) -> tuple[Contender, ...]:
    """These, after the reference."""
    reference = contenders_of(cell.precision, device)[0]
    return (reference, *(each for each in contenders if each != reference))
