"""BatchNorm and activation in one: as good as the two modules, and taken for them by everything else."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.kernels import fused_batch_norm
from fastdcgan.kernels.fused_batch_norm import FusedActivation, FusedBatchNorm2d

needs_kernels = pytest.mark.skipif(not fused_batch_norm.available(), reason="needs g++ and x86-64")
needs_bf16 = pytest.mark.skipif(not fused_batch_norm.available(torch.bfloat16), reason="needs AVX512_BF16")

# Few pixels and many, none, half and several of the kernels' blocks; channels that fill 1, 2, 3, 4 and more vectors.
SHAPES = (
    (1, 16, 1, 3),
    (3, 32, 5, 7),
    (2, 48, 3, 3),
    (8, 64, 9, 11),
    (5, 112, 4, 4),
    (32, 512, 2, 2),
    (16, 16, 33, 31),
)

ACTIVATIONS = (nn.ReLU(inplace=True), nn.LeakyReLU(0.2, inplace=True))

Numbers = dict[str, Tensor]


def pair(C: int, activation: nn.Module, seed: int = 0) -> nn.Sequential:
    """BatchNorm with scales and shifts that matter, and an activation."""
    rng = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(C)
    nn.init.normal_(norm.weight, 0.0, 1.0, generator=rng)
    nn.init.normal_(norm.bias, 0.0, 0.5, generator=rng)
    return nn.Sequential(norm, copy.deepcopy(activation))


def fused(layers: nn.Sequential) -> nn.Sequential:
    twin = copy.deepcopy(layers)
    assert fused_batch_norm.install(twin) == 1
    return twin


def pictures(shape: tuple[int, ...], seed: int = 1, mean: float = 0.3) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=rng) * 2 + mean).contiguous(memory_format=torch.channels_last)


def run(layers: nn.Module, x_BCHW: Tensor, grad_BCHW: Tensor) -> Numbers:
    """All that a training step sees of the layers."""
    x_BCHW = x_BCHW.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out_BCHW = layers(x_BCHW)
    out_BCHW.backward(grad_BCHW)
    assert x_BCHW.grad is not None
    gradients = {f"grad.{name}": p.grad for name, p in layers.named_parameters() if p.grad is not None}
    return {"out": out_BCHW.detach(), "grad": x_BCHW.grad, **gradients, **dict(layers.named_buffers())}


def distance(found: Tensor, truth: Tensor) -> float:
    """Largest error, against the truth's largest number: a channel of zeros has no relative error."""
    return float((found.double() - truth.double()).abs().max() / truth.double().abs().max().clamp(min=1e-30))


@needs_kernels
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp32_is_as_near_to_the_truth_as_pytorch(shape: tuple[int, ...], activation: nn.Module) -> None:
    layers, x_BCHW, grad_BCHW = pair(shape[1], activation), pictures(shape), pictures(shape, seed=2)
    truth = run(copy.deepcopy(layers).double(), x_BCHW.double(), grad_BCHW.double())
    found, wanted = run(fused(layers), x_BCHW, grad_BCHW), run(layers, x_BCHW, grad_BCHW)
    assert found.keys() == truth.keys()
    for name in truth:
        assert found[name].shape == truth[name].shape
        bound = 1.5 * distance(wanted[name], truth[name]) + 4 * torch.finfo(torch.float32).eps
        assert distance(found[name], truth[name]) <= bound, name


@needs_kernels
def test_numbers_far_from_zero_lose_nothing() -> None:
    """Sums of squares about zero would: of a mean of 1000 deviations they leave no digit of the variance in fp32."""
    x_BCHW = pictures((16, 32, 13, 17), mean=2000.0)
    x_BCHW[:2] += 50  # and pictures differ
    layers, grad_BCHW = pair(32, nn.ReLU(inplace=True)), pictures((16, 32, 13, 17), seed=2)
    layers[0].momentum = 1.0
    found = run(fused(layers), x_BCHW, grad_BCHW)
    truth = run(copy.deepcopy(layers).double(), x_BCHW.double(), grad_BCHW.double())
    assert distance(found["0.running_mean"], truth["0.running_mean"]) < 1e-6
    assert distance(found["0.running_var"], truth["0.running_var"]) < 1e-6
    assert distance(found["out"], truth["out"]) < 1e-4


@needs_bf16
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bf16_rounds_its_results_and_nothing_else(shape: tuple[int, ...], activation: nn.Module) -> None:
    layers = pair(shape[1], activation)
    x_BCHW, grad_BCHW = pictures(shape).bfloat16(), pictures(shape, seed=2).bfloat16()
    found, wanted = run(fused(layers), x_BCHW, grad_BCHW), run(fused(layers), x_BCHW.float(), grad_BCHW.float())
    for name in ("out", "grad"):
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], wanted[name].bfloat16()), name
    for name in wanted.keys() - {"out", "grad"}:
        assert torch.equal(found[name], wanted[name]), name


@needs_kernels
def test_unneeded_gradients_are_not_computed() -> None:
    shape = (4, 32, 6, 6)
    layers, x_BCHW, grad_BCHW = pair(32, nn.LeakyReLU(0.2)), pictures(shape), pictures(shape, seed=2)
    free, frozen = run(fused(layers), x_BCHW, grad_BCHW), run(fused(layers).requires_grad_(False), x_BCHW, grad_BCHW)
    assert free.keys() - frozen.keys() == {"grad.0.weight", "grad.0.bias"}
    assert torch.equal(frozen["grad"], free["grad"])

    half = fused(layers)
    half[0].weight.requires_grad_(False)
    assert torch.equal(run(half, x_BCHW, grad_BCHW)["grad.0.bias"], free["grad.0.bias"])


@needs_kernels
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_evaluation_is_bit_for_bit_as_before(activation: nn.Module) -> None:
    layers = pair(16, activation)
    twin = fused(layers)
    for step in range(3):
        twin(pictures((8, 16, 5, 5), seed=step))
    layers.load_state_dict(twin.state_dict())
    x_BCHW = pictures((8, 16, 5, 5), seed=9)
    assert torch.equal(twin.eval()(x_BCHW), layers.eval()(x_BCHW))
    assert int(twin[0].num_batches_tracked) == 3


@needs_kernels
def test_runs_are_bit_for_bit_reproducible() -> None:
    layers, x_BCHW, grad_BCHW = pair(48, nn.ReLU()), pictures((16, 48, 15, 15)), pictures((16, 48, 15, 15), seed=2)
    first = run(fused(layers), x_BCHW, grad_BCHW)
    for _ in range(3):
        again = run(fused(layers), x_BCHW, grad_BCHW)
        assert all(torch.equal(again[name], first[name]) for name in first)


@needs_kernels
def test_other_memory_formats_give_the_same_results() -> None:
    layers, x_BCHW, grad_BCHW = pair(32, nn.ReLU()), pictures((4, 32, 6, 6)), pictures((4, 32, 6, 6), seed=2)
    wanted = run(fused(layers), x_BCHW, grad_BCHW)
    found = run(fused(layers), x_BCHW.contiguous(), grad_BCHW.contiguous())
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    flat = fused(layers)
    x_BCHW.requires_grad_()
    flat(x_BCHW).sum().backward()  # its gradient is one number, expanded
    ones = run(fused(layers), x_BCHW, torch.ones_like(x_BCHW))
    assert x_BCHW.grad is not None
    assert torch.equal(x_BCHW.grad, ones["grad"])


@needs_kernels
def test_unsupported_layers_and_inputs_use_pytorchs_operators() -> None:
    for norm in (
        nn.BatchNorm2d(24),  # no multiple of 16
        nn.BatchNorm2d(32, affine=False),
        nn.BatchNorm2d(32, track_running_stats=False),
        nn.BatchNorm2d(32, momentum=None),
    ):
        layers = nn.Sequential(norm, nn.ReLU())
        assert fused_batch_norm.install(layers) == 0
        assert type(layers[0]) is nn.BatchNorm2d
        assert type(layers[1]) is nn.ReLU
    assert fused_batch_norm.install(nn.Sequential(nn.BatchNorm2d(32), nn.Tanh(), nn.ReLU())) == 0

    layers, x_BCHW, grad_BCHW = pair(32, nn.ReLU()).double(), pictures((4, 32, 6, 6)), pictures((4, 32, 6, 6), seed=2)
    wanted = run(copy.deepcopy(layers), x_BCHW.double(), grad_BCHW.double())
    found = run(fused(layers), x_BCHW.double(), grad_BCHW.double())
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fused(pair(32, nn.ReLU()))(pictures((1, 32, 1, 1)))


@needs_kernels
def test_networks_keep_their_names_and_are_as_accurate() -> None:
    """Two passes of a narrow pair: no further from the fp64 truth than one and a half times PyTorch."""
    arch = architecture("dcgan64", width=16)
    for position, network in enumerate(models.build(arch, seed=0)):
        network.to(memory_format=torch.channels_last)
        twin, truth = copy.deepcopy(network), copy.deepcopy(network).double()
        names = list(twin.state_dict())
        # G: 128, 64, 32, 16 channels; D: none after its first layer, then 32, 64, 128.
        assert fused_batch_norm.install(twin) == (4, 3)[position]
        assert fused_batch_norm.install(twin) == 0
        assert list(twin.state_dict()) == names
        assert sum(isinstance(m, FusedBatchNorm2d) for m in twin.modules()) == (4, 3)[position]
        assert sum(isinstance(m, FusedActivation) for m in twin.modules()) == (4, 3)[position]
        assert sum(isinstance(m, nn.LeakyReLU) for m in twin.modules()) == (0, 1)[position]

        x = pictures((8, 3, 64, 64)) if position else torch.randn(8, arch.latent_dim, generator=torch.Generator())
        numbers: list[Numbers] = []
        for layers in (truth, network, twin):
            for _ in range(2):
                out = layers(x.double() if layers is truth else x)
                out.square().mean().backward()
            gradients = {f"grad.{name}": p.grad for name, p in layers.named_parameters() if p.grad is not None}
            numbers.append({"out": out.detach(), **gradients, **dict(layers.named_buffers())})
        exact, wanted, found = numbers
        for kind in ("out", "grad.", "layers."):
            keys = [name for name in exact if name.startswith(kind)]
            whole = [torch.cat([n[name].double().flatten() for name in keys]) for n in (exact, wanted, found)]
            errors = [float((w - whole[0]).norm() / whole[0].norm()) for w in whole[1:]]
            assert errors[1] <= 1.5 * errors[0], kind
        assert all(torch.equal(found[n], wanted[n]) for n in exact if n.endswith("num_batches_tracked"))
