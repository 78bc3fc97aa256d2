import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fastdcgan.gan import models
from fastdcgan.gan.architecture import (
    CHANNELS,
    Architecture,
    ConvSpec,
    Resolution,
    Size,
    architecture,
    conv_out,
    conv_transpose_out,
)

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


def table(*rows: tuple[int, int, int | str, int, int]) -> tuple[ConvSpec, ...]:
    return tuple(ConvSpec(n_in, n_out, Size.of(kernel), *rest) for n_in, n_out, kernel, *rest in rows)


def test_dcgan64_is_the_papers() -> None:
    arch = architecture("dcgan64")
    assert arch.generator == table(
        (100, 512, 4, 1, 0), (512, 256, 4, 2, 1), (256, 128, 4, 2, 1), (128, 64, 4, 2, 1), (64, 3, 4, 2, 1)
    )
    assert arch.discriminator == table(
        (3, 64, 4, 2, 1), (64, 128, 4, 2, 1), (128, 256, 4, 2, 1), (256, 512, 4, 2, 1), (512, 1, 4, 1, 0)
    )
    written_out = Architecture("dcgan64", Size(64, 64), 3, 64, 100, arch.generator, arch.discriminator)
    assert arch == architecture() == written_out


def test_dcgan28_is_the_courses() -> None:
    arch = architecture("dcgan28")
    assert arch.generator == table((50, 128, 4, 1, 0), (128, 64, 3, 2, 1), (64, 32, 4, 2, 1), (32, 1, 4, 2, 1))
    assert arch.discriminator == table((1, 32, 4, 2, 1), (32, 64, 4, 2, 1), (64, 128, 3, 2, 1), (128, 1, 4, 1, 0))
    assert (arch.resolution, arch.channels, arch.width, arch.latent_dim) == ((28, 28), 1, 32, 50)


def sizes(arch: Architecture) -> list[tuple[int, ...]]:
    """Size of the picture after every layer of G and then of D, as torch has it."""
    found, picture = [], torch.empty(2, arch.latent_dim, 1, 1, device="meta")
    for kind, specs in ((nn.ConvTranspose2d, arch.generator), (nn.Conv2d, arch.discriminator)):
        for s in specs:
            picture = kind(s.in_channels, s.out_channels, s.kernel, s.stride, s.padding, device="meta")(picture)
            found.append(tuple(picture.shape[-2:]))
    return found


def test_every_layer_doubles_or_halves_the_side() -> None:
    assert sizes(architecture("dcgan64")) == [(n, n) for n in (4, 8, 16, 32, 64, 32, 16, 8, 4, 1)]
    assert sizes(architecture("dcgan28")) == [(n, n) for n in (4, 7, 14, 28, 14, 7, 4, 1)]
    assert sizes(architecture("dcgan96")) == [(n, n) for n in (6, 12, 24, 48, 96, 48, 24, 12, 6, 1)]
    assert sizes(architecture("dcgan32x48")) == [(4, 6), (8, 12), (16, 24), (32, 48), (16, 24), (8, 12), (4, 6), (1, 1)]


def test_dcgan192x96_begins_with_12_x_6_pixels() -> None:
    arch = architecture("dcgan192x96")
    assert arch.generator == table(
        (100, 512, "12x6", 1, 0), (512, 256, 4, 2, 1), (256, 128, 4, 2, 1), (128, 64, 4, 2, 1), (64, 3, 4, 2, 1)
    )
    assert arch.discriminator == table(
        (3, 64, 4, 2, 1), (64, 128, 4, 2, 1), (128, 256, 4, 2, 1), (256, 512, 4, 2, 1), (512, 1, "12x6", 1, 0)
    )
    assert (arch.name, arch.resolution) == ("dcgan192x96", (192, 96))


SQUARES = [16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]


@pytest.mark.parametrize("resolution", [*SQUARES, "64x128", "192x96", "256x64", "28x56", "512x128", "16x64"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_possible_size_leads_to_a_picture_of_it(resolution: Resolution, channels: int) -> None:
    arch = architecture(f"dcgan{resolution}", channels=channels, width=8, latent_dim=7)
    assert arch.name == f"dcgan{resolution}"
    with torch.device("meta"):
        G, D = models.Generator(arch), models.Discriminator(arch)
        pictures_BCHW = G(torch.empty(2, 7))
        assert pictures_BCHW.shape == (2, channels, *Size.of(resolution))
        assert D(pictures_BCHW).shape == (2,)
    assert arch.generator[-1].in_channels == arch.discriminator[0].out_channels == 8
    base = arch.generator[0].kernel
    assert 4 <= min(base) <= 7 and arch.discriminator[-1].kernel == base
    doubled = arch.resolution.height // base.height
    assert base.width * doubled == arch.resolution.width
    assert arch.generator[0].out_channels == arch.discriminator[-1].in_channels == 8 * doubled // 2


def test_these_are_all_the_squares_that_there_are() -> None:
    def is_possible(side: int) -> bool:
        try:
            return architecture(resolution=side).resolution == (side, side)
        except ValueError:
            return False

    assert [side for side in range(1, 600) if is_possible(side)] == sorted([*SQUARES, 28])


def test_parameter_counts_of_dcgan64() -> None:
    with torch.device("meta"):
        arch = architecture("dcgan64")
        assert models.parameter_count(models.Generator(arch)) == 3_576_704
        assert models.parameter_count(models.Discriminator(arch)) == 2_765_568


def test_the_resolution_overrides_the_name() -> None:
    assert architecture("dcgan64", resolution=128) == architecture("dcgan128")
    assert architecture("dcgan28", resolution=28) == architecture("dcgan28") == architecture("dcgan64", resolution=28)
    assert architecture("dcgan64", resolution="128x64") == architecture("dcgan128x64")
    assert architecture("dcgan128x64", resolution="96") == architecture("dcgan96") == architecture("dcgan96x96")
    assert architecture("dcgan128x64").resolution == (128, 64), "height x width"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "dcgan",
        "gan64",
        "DCGAN64",
        "dcgan-64",
        "dcgan064",
        "dcgan64x",
        "dcgan64x0",
        "dcganx64",
        "dcgan64x64x64",
        "dcgan6.4",
        "dcgan²",
        "stylegan",
    ],
)
def test_unknown_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError) as refusal:
        architecture(name)
    assert f"unknown architecture {name!r}" in str(refusal.value)
    assert "dcgan28" in str(refusal.value), "a refusal says what there is"


@pytest.mark.parametrize(
    ("resolution", "nearest"),
    [
        *((side, "16 and 20") for side in (-64, 0, 1, 4, 8, 12, 17)),
        *((30, "32 and 28"), (49, "48 and 56"), (100, "96 and 112"), (418, "448 and 384"), (1024, "512 and 448")),
        *(("64x100", "64x96 and 56x88"), ("100x50", "96x48 and 112x56"), ("64x60", "64 and 64x56")),
        *(("1080x1920", "320x512 and 256x448"), ("1024x512", "512x256 and 512x320"), ("8x16", "16x32 and 16x28")),
    ],
)
def test_other_resolutions_are_refused_and_the_nearest_named(resolution: Resolution, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"resolution {resolution}: .*; the nearest are {nearest}$") as refusal:
        architecture("dcgan64", resolution=resolution)
    assert "\n" not in str(refusal.value)
    for named in nearest.split(" and "):
        assert architecture(resolution=named).resolution == Size.of(named)


@pytest.mark.parametrize("text", ["", "64x", "x64", "64X128", "64 x 128", "6.4", "-64", "64x-1", "a", "064", "1" * 40])
def test_a_resolution_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number of pixels, as 96, or HEIGHTxWIDTH, as 128x64"):
        architecture(resolution=text)


def test_records_of_squares_are_as_they_were() -> None:
    """Checkpoints, config.json and cached plans from before there were other sizes are compared with them."""
    assert architecture("dcgan16", width=2).record() == {
        "name": "dcgan16",
        "resolution": 16,
        "channels": 3,
        "width": 2,
        "latent_dim": 100,
        "generator": [
            {"in_channels": 100, "out_channels": 4, "kernel": 4, "stride": 1, "padding": 0},
            {"in_channels": 4, "out_channels": 2, "kernel": 4, "stride": 2, "padding": 1},
            {"in_channels": 2, "out_channels": 3, "kernel": 4, "stride": 2, "padding": 1},
        ],
        "discriminator": [
            {"in_channels": 3, "out_channels": 2, "kernel": 4, "stride": 2, "padding": 1},
            {"in_channels": 2, "out_channels": 4, "kernel": 4, "stride": 2, "padding": 1},
            {"in_channels": 4, "out_channels": 1, "kernel": 4, "stride": 1, "padding": 0},
        ],
    }
    rectangle = architecture("dcgan64x32").record()
    assert (rectangle["resolution"], rectangle["generator"][0]["kernel"]) == ("64x32", [8, 4])
    assert json.loads(json.dumps(rectangle)) == rectangle


@pytest.mark.parametrize("name", ["dcgan8", "dcgan100", "dcgan1024", "dcgan64x100"])
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
