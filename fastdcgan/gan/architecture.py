"""The geometry of a DCGAN: its convolutions in order, and the side of each one's output.

Everything here is arithmetic on plain numbers; `models.py` turns it into modules. `dcganR` follows one rule for every
power of two R from 16 to 512 (Radford, Metz & Chintala 2016, figure 1, with the widths of the common PyTorch tutorial).
`dcgan28` is the layout that courses use for 28x28 digits (MNIST) and fashion (Fashion-MNIST).
"""

from dataclasses import dataclass
from itertools import pairwise

MIN_RESOLUTION, MAX_RESOLUTION = 16, 512
"""Pixels a side of `dcganR`: powers of two between these."""

CHANNELS = (1, 3, 4)
"""Greyscale, RGB, RGB with alpha."""


@dataclass(frozen=True)
class ConvSpec:
    """One convolution, or one transposed convolution: square kernel, no bias."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Architecture:
    """The layers of a generator (noise to picture) and of a discriminator (picture to logit), first layer first."""

    name: str
    resolution: int
    """Pixels a side."""

    channels: int
    """Of a picture."""

    width: int
    """Feature maps at the finest hidden level."""

    latent_dim: int
    """Numbers in a noise vector."""

    generator: tuple[ConvSpec, ...]
    discriminator: tuple[ConvSpec, ...]


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
    resolution: int | None = None,
    channels: int | None = None,
    width: int | None = None,
    latent_dim: int | None = None,
) -> Architecture:
    """An architecture by name; the arguments override its defaults.

    Args:
        name: `dcgan28`, or `dcganR` for a power of two R from 16 to 512.
        resolution: side of the picture in pixels; overrides the R in the name.
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
    digits = name.removeprefix("dcgan")
    if not (name.startswith("dcgan") and digits.isdecimal() and digits == str(int(digits))):
        raise ValueError(f"unknown architecture {name!r}: know dcgan28 and dcgan16, dcgan32, dcgan64 ... dcgan512")
    if name == "dcgan28":
        if resolution not in (None, 28):
            raise ValueError(f"dcgan28 makes 28x28 pictures, not {resolution}x{resolution}: leave --arch away")
        return _dcgan28(channels or 1, width or 32, latent_dim or 50)
    _check_resolution(int(digits))
    return _dcgan_power_of_two(
        int(digits) if resolution is None else resolution, channels or 3, width or 64, latent_dim or 100
    )


def _dcgan_power_of_two(resolution: int, channels: int, width: int, latent_dim: int) -> Architecture:
    """Each layer of G doubles the side, each of D halves it: 1 -> 4 -> 8 -> ... -> resolution, and back."""
    _check_resolution(resolution)
    hidden_levels = resolution.bit_length() - 3  # 4x4 up to resolution / 2
    widths = [width * 2**k for k in reversed(range(hidden_levels))]  # coarse to fine: 512, 256, 128, 64
    generator = (
        ConvSpec(latent_dim, widths[0], 4, 1, 0),
        *(ConvSpec(a, b, 4, 2, 1) for a, b in pairwise(widths)),
        ConvSpec(widths[-1], channels, 4, 2, 1),
    )
    discriminator = (
        ConvSpec(channels, widths[-1], 4, 2, 1),
        *(ConvSpec(a, b, 4, 2, 1) for a, b in pairwise(reversed(widths))),
        ConvSpec(widths[0], 1, 4, 1, 0),
    )
    return _checked(
        Architecture(f"dcgan{resolution}", resolution, channels, width, latent_dim, generator, discriminator)
    )


def _dcgan28(channels: int, width: int, latent_dim: int) -> Architecture:
    """1 -> 4 -> 7 -> 14 -> 28. A kernel of 3 makes 7 from 4; a kernel of 4 with stride 2 can't."""
    w = width
    generator = (
        ConvSpec(latent_dim, 4 * w, 4, 1, 0),
        ConvSpec(4 * w, 2 * w, 3, 2, 1),
        ConvSpec(2 * w, w, 4, 2, 1),
        ConvSpec(w, channels, 4, 2, 1),
    )
    discriminator = (
        ConvSpec(channels, w, 4, 2, 1),
        ConvSpec(w, 2 * w, 4, 2, 1),
        ConvSpec(2 * w, 4 * w, 3, 2, 1),
        ConvSpec(4 * w, 1, 4, 1, 0),
    )
    return _checked(Architecture("dcgan28", 28, channels, width, latent_dim, generator, discriminator))


def _checked(arch: Architecture) -> Architecture:
    """Assert that the layers lead from a side of 1 to the resolution and back."""
    side = 1
    for layer in arch.generator:
        side = conv_transpose_out(side, layer.kernel, layer.stride, layer.padding)
    assert side == arch.resolution, f"{arch.name}: the generator ends at {side}"
    for layer in arch.discriminator:
        side = conv_out(side, layer.kernel, layer.stride, layer.padding)
    assert side == 1, f"{arch.name}: the discriminator ends at {side}"
    return arch


def _check_resolution(resolution: int) -> None:
    if resolution not in (powers := [2**k for k in range(4, 10)]):
        raise ValueError(
            f"resolution {resolution}: must be a power of two from {MIN_RESOLUTION} to {MAX_RESOLUTION} "
            f"({', '.join(map(str, powers))}), or 28 with --arch dcgan28"
        )


def _check_window(size: int, kernel: int, stride: int, padding: int) -> None:
    for label, value, least in (
        ("side", size, 1),
        ("kernel", kernel, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
    ):
        if value < least:
            raise ValueError(f"{label} {value}: must be at least {least}")
