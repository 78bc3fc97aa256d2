from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fastdcgan.gan import models
from fastdcgan.gan.architecture import CHANNELS, Architecture, ConvSpec, architecture, conv_out, conv_transpose_out

SIZES, KERNELS, STRIDES, PADDINGS = st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 4)


def torch_side(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], size: int, *window: int) -> int | None:
    """The side that torch itself comes to, or None where it refuses."""
    with torch.device("meta"):
        try:
            return kind(1, 1, *window)(torch.empty(1, 1, size, size)).shape[-1]
        except RuntimeError:
            return None


@settings(deadline=None, max_examples=150)
@given(SIZES, KERNELS, STRIDES, PADDINGS)
@example(64, 4, 2, 1)
@example(4, 4, 1, 0)
@example(28, 3, 2, 1)
@example(2, 5, 1, 1)
def test_conv_out_is_torchs(size: int, kernel: int, stride: int, padding: int) -> None:
    wanted = torch_side(nn.Conv2d, size, kernel, stride, padding)
    if wanted is None:
        with pytest.raises(ValueError, match=f"kernel of {kernel} does not fit into a side of {size}"):
            conv_out(size, kernel, stride, padding)
    else:
        assert conv_out(size, kernel, stride, padding) == wanted


@settings(deadline=None, max_examples=150)
@given(SIZES, KERNELS, STRIDES, PADDINGS)
@example(1, 4, 1, 0)
@example(4, 3, 2, 1)
@example(32, 4, 2, 1)
@example(1, 2, 1, 1)
def test_conv_transpose_out_is_torchs(size: int, kernel: int, stride: int, padding: int) -> None:
    wanted = torch_side(nn.ConvTranspose2d, size, kernel, stride, padding)
    if wanted is None:
        with pytest.raises(ValueError, match=f"kernel {kernel}, stride {stride} and padding {padding}"):
            conv_transpose_out(size, kernel, stride, padding)
    else:
        assert conv_transpose_out(size, kernel, stride, padding) == wanted


@pytest.mark.parametrize("rule", [conv_out, conv_transpose_out])
@pytest.mark.parametrize(
    ("window", "name"),
    [((0, 4, 2, 1), "side 0"), ((8, 0, 2, 1), "kernel 0"), ((8, 4, 0, 1), "stride 0"), ((8, 4, 2, -1), "padding -1")],
)
def test_impossible_kernels_are_refused_by_name(
    rule: Callable[[int, int, int, int], int], window: tuple[int, int, int, int], name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        rule(*window)


def table(*rows: tuple[int, int, int, int, int]) -> tuple[ConvSpec, ...]:
    return tuple(ConvSpec(*row) for row in rows)


def test_dcgan64_is_the_papers() -> None:
    arch = architecture("dcgan64")
    assert arch.generator == table(
        (100, 512, 4, 1, 0), (512, 256, 4, 2, 1), (256, 128, 4, 2, 1), (128, 64, 4, 2, 1), (64, 3, 4, 2, 1)
    )
    assert arch.discriminator == table(
        (3, 64, 4, 2, 1), (64, 128, 4, 2, 1), (128, 256, 4, 2, 1), (256, 512, 4, 2, 1), (512, 1, 4, 1, 0)
    )
    assert arch == architecture() == Architecture("dcgan64", 64, 3, 64, 100, arch.generator, arch.discriminator)


def test_dcgan28_is_the_courses() -> None:
    arch = architecture("dcgan28")
    assert arch.generator == table((50, 128, 4, 1, 0), (128, 64, 3, 2, 1), (64, 32, 4, 2, 1), (32, 1, 4, 2, 1))
    assert arch.discriminator == table((1, 32, 4, 2, 1), (32, 64, 4, 2, 1), (64, 128, 3, 2, 1), (128, 1, 4, 1, 0))
    assert (arch.resolution, arch.channels, arch.width, arch.latent_dim) == (28, 1, 32, 50)


def sides(arch: Architecture) -> list[int]:
    """Side of the picture after every layer of G and then of D, as torch has it."""
    found, picture = [], torch.empty(2, arch.latent_dim, 1, 1, device="meta")
    for kind, specs in ((nn.ConvTranspose2d, arch.generator), (nn.Conv2d, arch.discriminator)):
        for s in specs:
            picture = kind(s.in_channels, s.out_channels, s.kernel, s.stride, s.padding, device="meta")(picture)
            found.append(picture.shape[-1])
    return found


def test_every_layer_doubles_or_halves_the_side() -> None:
    assert sides(architecture("dcgan64")) == [4, 8, 16, 32, 64, 32, 16, 8, 4, 1]
    assert sides(architecture("dcgan28")) == [4, 7, 14, 28, 14, 7, 4, 1]


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256, 512])
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_power_of_two_leads_to_a_picture_of_its_size(resolution: int, channels: int) -> None:
    arch = architecture(f"dcgan{resolution}", channels=channels, width=8, latent_dim=7)
    with torch.device("meta"):
        G, D = models.Generator(arch), models.Discriminator(arch)
        pictures_BCHW = G(torch.empty(2, 7))
        assert pictures_BCHW.shape == (2, channels, resolution, resolution)
        assert D(pictures_BCHW).shape == (2,)
    assert arch.generator[-1].in_channels == arch.discriminator[0].out_channels == 8
    assert arch.generator[0].out_channels == arch.discriminator[-1].in_channels == 8 * resolution // 8


def test_parameter_counts_of_dcgan64() -> None:
    with torch.device("meta"):
        arch = architecture("dcgan64")
        assert models.parameter_count(models.Generator(arch)) == 3_576_704
        assert models.parameter_count(models.Discriminator(arch)) == 2_765_568


def test_the_resolution_overrides_the_name() -> None:
    assert architecture("dcgan64", resolution=128) == architecture("dcgan128")
    assert architecture("dcgan28", resolution=28) == architecture("dcgan28")


@pytest.mark.parametrize(
    "name", ["", "dcgan", "gan64", "DCGAN64", "dcgan-64", "dcgan064", "dcgan64x", "dcgan6.4", "dcgan²", "stylegan"]
)
def test_unknown_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError) as refusal:
        architecture(name)
    assert f"unknown architecture {name!r}" in str(refusal.value)
    assert "dcgan28" in str(refusal.value), "a refusal says what there is"


@pytest.mark.parametrize("resolution", [-64, 0, 1, 4, 8, 17, 28, 48, 100, 1024])
def test_other_resolutions_are_refused_by_name(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"resolution {resolution}: must be a power of two from 16 to 512"):
        architecture("dcgan64", resolution=resolution)


@pytest.mark.parametrize("name", ["dcgan8", "dcgan100", "dcgan1024"])
def test_other_resolutions_in_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"resolution {name.removeprefix('dcgan')}: "):
        architecture(name)


def test_dcgan28_has_one_resolution() -> None:
    with pytest.raises(ValueError, match="dcgan28 makes 28x28 pictures, not 64x64"):
        architecture("dcgan28", resolution=64)


@pytest.mark.parametrize("name", ["dcgan28", "dcgan64"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 0}, "--channels 0"),
        ({"channels": 2}, "--channels 2"),
        ({"channels": 5}, "--channels 5"),
        ({"width": 0}, "--width 0"),
        ({"width": -3}, "--width -3"),
        ({"latent_dim": 0}, "--latent-dim 0"),
    ],
)
def test_impossible_sizes_are_refused_by_name(name: str, change: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        architecture(name, **change)
