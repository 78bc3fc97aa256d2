"""Our own kernels are PyTorch's convolutions and activations, each layer alone, and whole steps; and NumPy's noise."""

import copy
import ctypes
import math
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from test_parity import run
from torch import Tensor, nn
from twins import inputs, plan_twin, reference_twin, relative_error

from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import Plan, Precision, choose_plan, why_no_kernels
from fastdcgan.execution.prepare import INSTALL_KERNELS
from fastdcgan.gan import randomness
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.randomness import Stream
from fastdcgan.kernels import ends, native, noise, thin, winograd
from fastdcgan.tuning.parity import ParityCheck

needs_compiler = pytest.mark.skipif(not winograd.available(), reason="our kernels need Linux, and AVX2")
needs_bf16 = pytest.mark.skipif(not winograd.available(torch.bfloat16), reason="bf16 kernels need AVX512_BF16")


@pytest.fixture(params=native.TARGETS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each one that this machine has: a processor runs the kernels for narrower ones too."""
    name: str = request.param
    monkeypatch.setenv("FASTDCGAN_ISA", name)
    native.library.cache_clear()
    try:
        if not isinstance(native.library(), ctypes.CDLL):
            pytest.skip(str(native.library()))
        yield name
    except ValueError as error:
        pytest.skip(str(error))
    finally:
        native.library.cache_clear()


TILES = {"{}x{}".format(*tile): tile for tile in winograd.TILES[torch.float32]}

OWN = Plan(kernels=tuple(INSTALL_KERNELS))


def conv(channels: int, maps: int) -> nn.Module:
    return nn.Conv2d(channels, maps, 4, 2, 1, bias=False)


def transposed(maps: int, channels: int) -> nn.Module:
    return nn.ConvTranspose2d(maps, channels, 4, 2, 1, bias=False)


LAYERS = {
    # Batches and sizes that fill no block, and channels that end in the middle of a panel.
    "winograd, one tile": (winograd, lambda: conv(16, 32), (1, 16, 4, 4)),
    "winograd, not square": (winograd, lambda: conv(48, 64), (3, 48, 12, 8)),
    "winograd, many tiles": (winograd, lambda: conv(16, 32), (21, 16, 32, 32)),
    "winograd, transposed": (winograd, lambda: transposed(32, 16), (5, 32, 2, 6)),
    "winograd, transposed, many tiles": (winograd, lambda: transposed(64, 16), (9, 64, 16, 16)),
    "winograd, half a tile": (winograd, lambda: conv(32, 64), (9, 32, 14, 10)),
    "winograd, long": (winograd, lambda: conv(32, 64), (5, 32, 6, 24)),
    "winograd, transposed, long": (winograd, lambda: transposed(64, 32), (5, 64, 12, 3)),
    "winograd, transposed, half a tile": (winograd, lambda: transposed(32, 16), (5, 32, 7, 3)),
    # Of F(4, 2) so many weights that threads share them out.
    "winograd, many weights": (winograd, lambda: conv(256, 512), (3, 256, 8, 8)),
    "winograd, transposed, many weights": (winograd, lambda: transposed(512, 256), (3, 512, 4, 4)),
    "winograd, kernel 3": (winograd, lambda: nn.Conv2d(32, 64, 3, 2, 1, bias=False), (5, 32, 7, 5)),
    "winograd, transposed, kernel 3": (
        winograd,
        lambda: nn.ConvTranspose2d(64, 32, 3, 2, 1, bias=False),
        (5, 64, 4, 3),
    ),
    # As many pictures as the matrix unit takes, and some more.
    "direct": (winograd, lambda: conv(48, 64), (33, 48, 12, 8)),
    "direct, transposed": (winograd, lambda: transposed(64, 48), (33, 64, 5, 3)),
    "direct, few pictures": (winograd, lambda: conv(16, 32), (17, 16, 6, 10)),
    "direct, half of the rows": (winograd, lambda: conv(96, 64), (16, 96, 8, 6)),
    "direct, transposed, half of the rows": (winograd, lambda: transposed(64, 96), (9, 64, 4, 3)),
    "direct, rows in strips": (winograd, lambda: conv(64, 32), (32, 64, 32, 32)),
    "direct, transposed, rows in strips": (winograd, lambda: transposed(128, 64), (32, 128, 16, 16)),
    "direct, shared sums": (winograd, lambda: conv(256, 512), (64, 256, 4, 4)),
    "direct, kernel 3": (winograd, lambda: nn.Conv2d(32, 64, 3, 2, 1, bias=False), (40, 32, 7, 5)),
    "direct, transposed, kernel 3": (
        winograd,
        lambda: nn.ConvTranspose2d(64, 32, 3, 2, 1, bias=False),
        (40, 64, 4, 3),
    ),
    "thin": (thin, lambda: nn.Sequential(conv(3, 32), nn.LeakyReLU(0.2, inplace=True)), (3, 3, 10, 14)),
    "thin, grey": (thin, lambda: nn.Sequential(conv(1, 64), nn.LeakyReLU(0.2, inplace=True)), (2, 1, 28, 28)),
    "thin, alpha, no activation": (thin, lambda: nn.Sequential(conv(4, 32)), (2, 4, 6, 6)),
    "thin, transposed": (thin, lambda: transposed(32, 3), (3, 32, 5, 9)),
    "thin, transposed, grey": (thin, lambda: transposed(32, 1), (2, 32, 14, 14)),
    "ends, first": (ends, lambda: nn.ConvTranspose2d(10, 32, 4, 1, 0, bias=False), (5, 10, 1, 1)),
    "ends, last": (ends, lambda: nn.Conv2d(32, 1, 4, 1, 0, bias=False), (5, 32, 4, 4)),
    "ends, first, 8x4": (ends, lambda: nn.ConvTranspose2d(10, 32, (8, 4), 1, 0, bias=False), (5, 10, 1, 1)),
    "ends, last, 8x4": (ends, lambda: nn.Conv2d(32, 1, (8, 4), 1, 0, bias=False), (5, 32, 8, 4)),
}


def results(layer: nn.Module, x: Tensor, direction: Tensor, autocast: bool = False) -> dict[str, Tensor]:
    """Output and both gradients."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
    y.backward(direction.to(y.dtype))
    (weight,) = layer.parameters()
    assert x.grad is not None
    assert weight.grad is not None
    return {"output": y.detach(), "input's gradient": x.grad, "weight's gradient": weight.grad.clone()}


def assert_errs_as_pytorchs(own: nn.Module, kernels: ModuleType, x: Tensor) -> None:
    """That a layer errs no more than three times as much as PyTorch's own, output and gradients, against fp64."""
    direct, exact = copy.deepcopy(own), copy.deepcopy(own).double()
    own.to(memory_format=torch.channels_last)
    assert kernels.install(own) == 1
    x = x.contiguous(memory_format=torch.channels_last)
    bf16 = x.dtype == torch.bfloat16
    direction = torch.randn_like(exact(x.double()))
    if bf16:
        direction = direction.bfloat16().double()

    truth = results(exact, x.double(), direction)
    found, wanted = results(own, x, direction, bf16), results(direct, x, direction, bf16)
    for what, value in truth.items():
        # Winograd's sums of pixels and of taps are rounded to bf16 before they are multiplied: about a bit is lost.
        bound = max(3 * relative_error(wanted[what], value), 1e-6)
        assert relative_error(found[what], value) <= bound, what


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_pytorchs_does(name: str, precision: str, instruction_set: str) -> None:
    kernels, make, shape = LAYERS[name]
    if precision == "bf16" and kernels is not ends and not kernels.available(torch.bfloat16):
        pytest.skip("bf16 kernels need AVX512_BF16")
    torch.manual_seed(0)
    x = torch.randn(shape)
    assert_errs_as_pytorchs(make(), kernels, x.bfloat16() if precision == "bf16" else x)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith(("direct", "winograd"))])
@pytest.mark.parametrize("threads", [2, 5])
def test_so_do_several_threads(name: str, precision: str, threads: int) -> None:
    """Of the widest instruction set. They share out pictures, rows or channels, whichever there are enough of."""
    if precision == "bf16" and not winograd.available(torch.bfloat16):
        pytest.skip("bf16 kernels need AVX512_BF16")
    kernels, make, shape = LAYERS[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_errs_as_pytorchs(make(), kernels, x.bfloat16() if precision == "bf16" else x)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", winograd.TILES)
def test_larger_tiles_are_for_many_pictures(precision: torch.dtype) -> None:
    layer = 32, 32, 4, precision  # of the big side
    assert winograd._tile(2, *layer) == (2, 2)
    assert winograd._tile(128, *layer) == winograd.TILES[precision][-1]
    with winograd.tiles_of_large_batches():
        assert winograd._tile(2, *layer) == winograd.TILES[precision][-1]
    with winograd.smallest_tiles():
        assert winograd._tile(128, *layer) == (2, 2)
    assert winograd._tile(2, *layer) == (2, 2)


@pytest.mark.parametrize(
    ("precision", "tile"),
    [(precision, tile) for tile in TILES for precision in winograd.TILES if TILES[tile] in winograd.TILES[precision]],
)
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("winograd") and "kernel 3" not in name])
def test_tiles_of_each_size_do(
    name: str, precision: torch.dtype, tile: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not winograd.available(precision):
        pytest.skip("bf16 kernels need AVX512_BF16")
    monkeypatch.setattr(winograd, "_tile", lambda *_: TILES[tile])
    kernels, make, shape = LAYERS[name]
    torch.manual_seed(0)
    assert_errs_as_pytorchs(make(), kernels, torch.randn(shape).to(precision))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    "arch",
    ["dcgan16", "dcgan28", "dcgan32", "dcgan48", "dcgan64", "dcgan112", "dcgan128", "dcgan64x128", "dcgan192x96"],
)
def test_so_do_all_layers_of_an_architecture_with_a_single_picture(
    arch: str, tile: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_tile", lambda *_: TILES[tile])
    networks = architecture(arch, width=32)
    torch.manual_seed(0)
    compared = 0
    for specs, layer in ((networks.generator, nn.ConvTranspose2d), (networks.discriminator, nn.Conv2d)):
        size = torch.Size((1, 1) if layer is nn.ConvTranspose2d else networks.resolution)
        for spec in specs:
            own = layer(spec.in_channels, spec.out_channels, spec.kernel, spec.stride, spec.padding, bias=False)
            x = torch.randn(1, spec.in_channels, *size)
            size = own(x).shape[-2:]
            if winograd.fits(own) and spec.kernel == (4, 4):
                assert_errs_as_pytorchs(own, winograd, x)
                compared += 1
    assert compared == len(networks.generator) + len(networks.discriminator) - (6 if arch == "dcgan28" else 4)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_no_number_is_not_lost_and_stays_in_its_picture(
    value: float, tile: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_tile", lambda *_: TILES[tile])
    own = conv(16, 32).to(memory_format=torch.channels_last)
    direct = copy.deepcopy(own)
    winograd.install(own)
    x_BCHW = torch.randn(3, 16, 16, 16)
    x_BCHW[1, 5, 9, 2] = value
    found_BOHW, wanted_BOHW = own(x_BCHW), direct(x_BCHW)
    assert not found_BOHW[~wanted_BOHW.isfinite()].isfinite().any()
    assert found_BOHW[[0, 2]].isfinite().all()


@needs_bf16
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_nor_is_it_in_bf16(value: float) -> None:
    own = conv(16, 32).to(memory_format=torch.channels_last)
    winograd.install(own)
    x_BCHW, direction = torch.randn(33, 16, 16, 16), torch.randn(33, 32, 8, 8)
    x_BCHW[31, 5, 9, 2] = value
    found = results(own, x_BCHW.bfloat16(), direction, autocast=True)
    assert not found["output"].isfinite()[31, :, 3:6, 0:2].flatten(1).all(1).any(), "each map has some"
    assert found["output"].isfinite()[torch.arange(33) != 31].all()
    assert not found["weight's gradient"].isfinite()[:, 5].all()
    assert found["weight's gradient"].isfinite()[:, [0, 15]].all()


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", [name for name in LAYERS if "half a tile" in name or "kernel 3" in name])
def test_nothing_is_left_of_the_call_before(
    name: str, tile: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products that do not matter, at edges and of missing taps, are never written; nor must they be read."""
    monkeypatch.setattr(winograd, "_tile", lambda *_: TILES[tile])
    _, make, shape = LAYERS[name]
    torch.manual_seed(0)
    own = make().to(memory_format=torch.channels_last)
    winograd.install(own)
    x = torch.randn(shape)
    direction = torch.randn_like(own(x))
    for before in (conv(64, 128), transposed(128, 64)):  # which leave nothing out, and fill the same memory
        winograd.install(nn.Sequential(before.to(memory_format=torch.channels_last)))
        x_nan = torch.full((9, int(before.in_channels), 16, 16), math.nan)
        results(before, x_nan, torch.full_like(before(x_nan), math.nan).detach())
    assert all(found.isfinite().all() for found in results(own, x, direction).values())


@needs_compiler
@pytest.mark.parametrize("name", ["dcgan64", "dcgan48", "dcgan224", "dcgan64x128", "dcgan192x96"])
def test_every_convolution_is_replaced_and_no_parameter_is_renamed(name: str) -> None:
    arch = architecture(name, width=32)
    plain, own = plan_twin(arch, reference_twin(arch), Plan()), plan_twin(arch, reference_twin(arch), OWN)
    for network, twin in ((own.G, plain.G), (own.D, plain.D)):
        assert list(network.state_dict()) == list(twin.state_dict())
        kinds = {type(m) for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
        assert not kinds & {nn.Conv2d, nn.ConvTranspose2d}


@needs_compiler
def test_after_a_step_the_new_weights_are_used() -> None:
    """The fused optimizer changes weights without leaving a trace in their version."""
    arch = architecture("dcgan32", width=16)
    own = plan_twin(arch, reference_twin(arch), OWN)
    x_BCHW, z_BL = inputs(arch)
    for step in range(2):
        own.step(*inputs(arch, step))
    plain = plan_twin(arch, reference_twin(arch), Plan())
    for network, twin, x in ((own.G, plain.G, z_BL), (own.D, plain.D, x_BCHW)):
        twin.load_state_dict(network.state_dict())
        assert relative_error(network.eval()(x), twin.eval()(x)) <= 1e-5


@needs_compiler
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("name", ["dcgan28", "dcgan32", "dcgan64", "dcgan48", "dcgan64x128"])
def test_a_step_errs_no_more_than_the_references(name: str, precision: Precision) -> None:
    check = ParityCheck(architecture(name, width=32), torch.device("cpu"))
    parity = check(Plan(precision=precision, kernels=OWN.kernels))
    assert parity.passed, parity


@needs_compiler
def test_losses_of_twenty_steps_match() -> None:
    """Losses, not weights: fp32 paths with different kernels drift apart, as two runs of anything do."""
    arch = architecture("dcgan32", width=16)
    twin = reference_twin(arch)
    own = plan_twin(arch, twin, OWN)
    found, wanted = run(own, arch, 20), run(twin, arch, 20)
    for key in ("loss_d", "loss_g", "d_real", "d_fake"):
        assert found[key].item() == pytest.approx(wanted[key].item(), rel=0.05), key


@pytest.mark.parametrize("seed", [0, 3, 2**32, 2**63 - 1])
@pytest.mark.parametrize("position", [0, 7, 2**32 - 1, 2**32, 9 + (5 << 32)], ids=hex)
def test_noise_is_numpys_bit_for_bit(instruction_set: str, seed: int, position: int) -> None:
    """Seeds and positions of one and of two words, and counts that end within the 64 bits of four numbers."""
    for count in (0, 1, 2, 3, 4, 5, 130):
        numbers = (seed, Stream.NOISE_BY_TABLE, position, count, 5)
        assert torch.equal(noise.latents(*numbers), randomness.latents(*numbers)), count


def test_noise_that_is_drawn_is_not_looked_up(instruction_set: str) -> None:
    """Runs that were begun before there was a table go on with NumPy's normal numbers."""
    numbers = (3, Stream.NOISE, 7, 4, 5)
    assert torch.equal(noise.latents(*numbers), randomness.latents(*numbers))


@needs_compiler
def test_the_same_step_twice_gives_the_same_bits() -> None:
    """Threads take turns at the work; the order of the sums must not depend on who is first."""
    arch = architecture("dcgan64", width=32)
    runs = [run(plan_twin(arch, reference_twin(arch), OWN), arch, 3) for _ in range(2)]
    assert all(torch.equal(runs[0][key], value) for key, value in runs[1].items())


def test_without_kernels_pytorchs_are_chosen_and_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_ISA", "none")
    native.library.cache_clear()
    try:
        assert not winograd.available() and not noise.available()
        numbers = (3, Stream.NOISE_BY_TABLE, 7, 4, 5)
        assert torch.equal(noise.latents(*numbers), randomness.latents(*numbers))
        plan = choose_plan(ExecutionConfig(), torch.device("cpu"))
        assert not set(plan.kernels) & {"winograd", "thin", "norm"}
        assert why_no_kernels(plan, torch.device("cpu")) in ("FASTDCGAN_ISA=none", native.library())
    finally:
        monkeypatch.undo()
        native.library.cache_clear()


def test_a_plan_from_json_is_the_plan() -> None:
    assert Plan(kernels=["ends"]) == Plan(kernels=("ends",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels-last"):
        Plan(kernels=("ends",), channels_last=False)
