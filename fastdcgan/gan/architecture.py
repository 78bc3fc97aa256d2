"""The geometry of a DCGAN: its convolutions in order, and the size of each one's output.

Everything here is arithmetic on plain numbers; `models.py` turns it into modules. `dcganR`, and `dcganHxW` for pictures
that aren't square, follow one rule (Radford, Metz & Chintala 2016, figure 1, with the widths of the common PyTorch
tutorial): both sides are halved until the shorter one has 4 to 7 pixels. That base is the kernel of G's first layer
and of D's last; all others double or halve. A base of 6 for 48x48 is that of Miyato et al. 2018 (arXiv:1802.05957,
table 3). `dcgan28` is the layout that courses use for 28x28 digits (MNIST) and fashion (Fashion-MNIST).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

MIN_SIDE, MAX_SIDE = 16, 512
"""Of a picture, in pixels."""

MIN_BASE, MAX_BASE = 4, 7
"""Pixels of the shorter side where G begins."""

MAX_ASPECT = 4
"""How many times the shorter side the longer one may be."""

CHANNELS = (1, 3, 4)
"""Greyscale, RGB, RGB with alpha."""

MAX_CLASSES = 1000
"""That pictures may be of, as many as ImageNet has."""


class Size(NamedTuple):
    """Height and width in pixels: of a picture, or of a kernel."""

    height: int
    width: int

    @classmethod
    def of(cls, resolution: "Resolution") -> "Size":
        """64 or "64" is 64x64; "128x64" is 128 high and 64 wide. Raises ValueError for other texts."""
        if isinstance(resolution, Size):
            return resolution
        if isinstance(resolution, int):
            return cls(resolution, resolution)
        if not (match := re.fullmatch(rf"({_NUMBER})(?:x({_NUMBER}))?", resolution)):
            raise ValueError(
                f"--resolution {resolution}: must be a number of pixels, as 96, or HEIGHTxWIDTH, as 128x64"
            )
        return cls(int(match[1]), int(match[2] or match[1]))

    @property
    def short(self) -> int | str:
        """As options, names and records have it: 64 for a square, else "128x64"."""
        return self.height if self.height == self.width else str(self)

    @property
    def area(self) -> int:
        """Height times width."""
        return self.height * self.width

    def __str__(self) -> str:
        """ "128x64": the height first."""
        return f"{self.height}x{self.width}"


Resolution = int | str | Size
"""The size of a picture as users may say it: 64, "64", "128x64"."""

_NUMBER = "[1-9][0-9]{0,4}"


@dataclass(frozen=True)
class ConvSpec:
    """One convolution, or one transposed convolution, without bias."""

    in_channels: int
    out_channels: int
    kernel: Size
    stride: int
    padding: int

    @property
    def weights(self) -> int:
        """How many there are."""
        return self.in_channels * self.out_channels * self.kernel.area

    def conv_out(self, size: Size) -> Size:
        """The size of the convolution's output. Raises ValueError as the function of this name."""
        return Size(*(conv_out(side, k, self.stride, self.padding) for side, k in zip(size, self.kernel, strict=True)))

    def conv_transpose_out(self, size: Size) -> Size:
        """The size of the transposed convolution's output. Raises ValueError as the function of this name."""
        return Size(
            *(conv_transpose_out(side, k, self.stride, self.padding) for side, k in zip(size, self.kernel, strict=True))
        )


@dataclass(frozen=True)
class Architecture:
    """The layers of a generator (noise to picture) and of a discriminator (picture to logit), first layer first."""

    name: str
    resolution: Size
    """Of a picture."""

    channels: int
    """Of a picture."""

    width: int
    """Feature maps at the finest hidden level."""

    latent_dim: int
    """Numbers in a noise vector."""

    generator: tuple[ConvSpec, ...]
    discriminator: tuple[ConvSpec, ...]

    classes: tuple[str, ...] = ()
    """Names of the classes that pictures are made of, by number. None: G makes pictures, D judges them, of no class."""

    def with_classes(self, names: Sequence[str]) -> "Architecture":
        """The networks that learn classes: a number for each is joined with G's noise.

        Args:
            names: of the classes, by number; none: no classes.

        Raises:
            ValueError: there is one alone, there are more than MAX_CLASSES, or two of one name.
        """
        if len(names) == 1:
            raise ValueError(f"all pictures are of one class, {names[0]}: leave --conditional away")
        if len(names) > MAX_CLASSES:
            raise ValueError(f"{len(names):,} classes are too many to learn: at most {MAX_CLASSES:,}")
        if len(set(names)) < len(names):
            raise ValueError(f"several classes have the name {max(names, key=list(names).count)}: give each its own")
        first, *others = self.generator
        first = replace(first, in_channels=self.latent_dim + len(names))
        return replace(self, generator=(first, *others), classes=tuple(names))

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it. Squares are one number, and no classes nothing, as in records from before."""

        def layers(specs: tuple[ConvSpec, ...]) -> list[dict[str, Any]]:
            return [{**asdict(spec), "kernel": _one_or_two(spec.kernel)} for spec in specs]

        record = {
            **asdict(self),
            "resolution": self.resolution.short,
            "generator": layers(self.generator),
            "discriminator": layers(self.discriminator),
            "classes": list(self.classes),
        }
        if not self.classes:
            del record["classes"]
        return record


def conv_out(size: int, kernel: int, stride: int, padding: int) -> int:
    """Side of a convolution's output: (W - k + 2p)/s + 1, rounded down (then the last pixels are not read).

    Raises:
        ValueError: if the kernel does not fit.
    """
    _check_window(size, kernel, stride, padding)
    span = size - kernel + 2 * padding
    if span < 0:
        raise ValueError(
            f"a kernel of {kernel} does not fit into a side of {size} with padding {padding}: "
            f"(W - k + 2p) = {span} is negative"
        )
    return span // stride + 1


def conv_transpose_out(size: int, kernel: int, stride: int, padding: int) -> int:
    """Side of a transposed convolution's output: (i - 1)s + k - 2p.

    Raises:
        ValueError: if nothing would be left of the output.
    """
    _check_window(size, kernel, stride, padding)
    out = (size - 1) * stride + kernel - 2 * padding
    if out < 1:
        raise ValueError(
            f"a transposed convolution with kernel {kernel}, stride {stride} and padding {padding} makes a side of "
            f"{out} from {size}: (i - 1)s + k - 2p must be at least 1"
        )
    return out


def architecture(
    name: str = "dcgan64",
    *,
    resolution: Resolution | None = None,
    channels: int | None = None,
    width: int | None = None,
    latent_dim: int | None = None,
) -> Architecture:
    """An architecture by name; the arguments override its defaults.

    Args:
        name: `dcgan28`, `dcganR` or `dcganHxW`: for the sizes that are possible, see the top of this file.
        resolution: of the picture; overrides the size in the name. 28 is always `dcgan28`.
        channels: 1, 3 or 4 (default 3; 1 for dcgan28).
        width: feature maps at the finest hidden level (default 64; 32 for dcgan28); doubles at each coarser one.
        latent_dim: size of the noise vector (default 100; 50 for dcgan28).

    Raises:
        ValueError: for an unknown name, or a value that is not possible.
    """
    for label, value in (("--width", width), ("--latent-dim", latent_dim)):
        if value is not None and value < 1:
            raise ValueError(f"{label} {value}: must be at least 1")
    if channels is not None and channels not in CHANNELS:
        raise ValueError(f"--channels {channels}: must be one of {', '.join(map(str, CHANNELS))}")
    if not re.fullmatch(rf"dcgan{_NUMBER}(x{_NUMBER})?", name):
        raise ValueError(
            f"unknown architecture {name!r}: know dcgan28, and dcgan64, dcgan96, dcgan128x64 ... "
            f"for squares and rectangles of {MIN_SIDE} to {MAX_SIDE} pixels a side"
        )
    named = Size.of(name.removeprefix("dcgan"))
    size = named if resolution is None else Size.of(resolution)
    if named == _COURSES and size != named:
        raise ValueError(f"dcgan28 makes 28x28 pictures, not {size}: leave --arch away")
    if size == _COURSES:
        return _dcgan28(channels or 1, width or 32, latent_dim or 50)
    for each in (named, size):
        _check_possible(each)
    return _dcgan(size, channels or 3, width or 64, latent_dim or 100)


def _dcgan(size: Size, channels: int, width: int, latent_dim: int) -> Architecture:
    """Each layer of G doubles both sides, each of D halves them: 1 -> 4 -> 8 -> ... -> 64, and back."""
    base, doublings = _halved(size)
    widths = [width * 2**k for k in reversed(range(doublings))]  # coarse to fine: 512, 256, 128, 64
    generator = (
        ConvSpec(latent_dim, widths[0], base, 1, 0),
        *(ConvSpec(a, b, _FOUR, 2, 1) for a, b in pairwise(widths)),
        ConvSpec(widths[-1], channels, _FOUR, 2, 1),
    )
    discriminator = (
        ConvSpec(channels, widths[-1], _FOUR, 2, 1),
        *(ConvSpec(a, b, _FOUR, 2, 1) for a, b in pairwise(reversed(widths))),
        ConvSpec(widths[0], 1, base, 1, 0),
    )
    return _checked(Architecture(f"dcgan{size.short}", size, channels, width, latent_dim, generator, discriminator))


def _dcgan28(channels: int, width: int, latent_dim: int) -> Architecture:
    """1 -> 4 -> 7 -> 14 -> 28. A kernel of 3 makes 7 from 4; a kernel of 4 with stride 2 can't."""
    w, three = width, Size(3, 3)
    generator = (
        ConvSpec(latent_dim, 4 * w, _FOUR, 1, 0),
        ConvSpec(4 * w, 2 * w, three, 2, 1),
        ConvSpec(2 * w, w, _FOUR, 2, 1),
        ConvSpec(w, channels, _FOUR, 2, 1),
    )
    discriminator = (
        ConvSpec(channels, w, _FOUR, 2, 1),
        ConvSpec(w, 2 * w, _FOUR, 2, 1),
        ConvSpec(2 * w, 4 * w, three, 2, 1),
        ConvSpec(4 * w, 1, _FOUR, 1, 0),
    )
    return _checked(Architecture("dcgan28", _COURSES, channels, width, latent_dim, generator, discriminator))


def _checked(arch: Architecture) -> Architecture:
    """Assert that the layers lead from a single pixel to the picture and back."""
    size = Size(1, 1)
    for layer in arch.generator:
        size = layer.conv_transpose_out(size)
    assert size == arch.resolution, f"{arch.name}: the generator ends at {size}"
    for layer in arch.discriminator:
        size = layer.conv_out(size)
    assert size == (1, 1), f"{arch.name}: the discriminator ends at {size}"
    return arch


def _halved(size: Size) -> tuple[Size, int]:
    """Both sides halved until the shorter one is at most MAX_BASE or one of them is odd, and how often."""
    count = 0
    while min(size) > MAX_BASE and not (size.height % 2 or size.width % 2):
        size, count = Size(size.height // 2, size.width // 2), count + 1
    return size, count


@cache
def _possible_sizes() -> list[Size]:
    sides = range(MIN_SIDE, MAX_SIDE + 1, 4)  # each is doubled twice at least
    return [size for height in sides for width in sides if _is_possible(size := Size(height, width))]


def _is_possible(size: Size) -> bool:
    shorter, longer = sorted(size)
    return (
        shorter >= MIN_SIDE
        and longer <= min(MAX_SIDE, MAX_ASPECT * shorter)
        and MIN_BASE <= min(_halved(size)[0]) <= MAX_BASE
    )


def _check_possible(size: Size) -> None:
    """Raises ValueError for a size that no network has, naming the two nearest that one has."""
    if _is_possible(size):
        return
    square = size.height == size.width

    def distance(other: Size) -> float:
        height, width = (math.log(there) - math.log(max(here, 1)) for here, there in zip(size, other, strict=True))
        return abs(height) + abs(width) + 2 * abs(height - width)  # the last is what the shape changes by

    choice = [other for other in _possible_sizes() if other.height == other.width or not square]
    nearest, next_nearest = sorted(choice, key=distance)[:2]
    rule = f"must be {MIN_BASE} to {MAX_BASE} pixels doubled at least twice, and at most {MAX_SIDE}"
    if not square:
        rule = (
            f"the shorter side must be {MIN_BASE} to {MAX_BASE} pixels doubled at least twice, the longer one divisible"
            f" as often, at most {MAX_ASPECT} times as long, and at most {MAX_SIDE}"
        )
    raise ValueError(f"resolution {size.short}: {rule}; the nearest are {nearest.short} and {next_nearest.short}")


def _one_or_two(size: Size) -> int | list[int]:
    return size.height if size.height == size.width else list(size)


_FOUR = Size(4, 4)
_COURSES = Size(28, 28)


def _check_window(size: int, kernel: int, stride: int, padding: int) -> None:
    for label, value, least in (
        ("side", size, 1),
        ("kernel", kernel, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
    ):
        if value < least:
            raise ValueError(f"{label} {value}: must be at least {least}")
