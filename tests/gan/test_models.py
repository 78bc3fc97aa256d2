import math

import numpy as np
import pytest
import torch
from torch import nn

from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture

NARROW = architecture("dcgan32", width=8, latent_dim=12)


def names(network: nn.Module) -> list[str]:
    return [type(module).__name__ for module in network.modules() if not list(module.children())]


def test_generator_has_batchnorm_and_relu_between_and_tanh_at_the_end() -> None:
    G, _ = models.build(architecture("dcgan64", width=2), seed=0)
    assert names(G) == 4 * ["ConvTranspose2d", "BatchNorm2d", "ReLU"] + ["ConvTranspose2d", "Tanh"]


def test_discriminator_has_no_batchnorm_on_its_first_and_last_layer() -> None:
    _, D = models.build(architecture("dcgan64", width=2), seed=0)
    assert names(D) == ["Conv2d", "LeakyReLU"] + 3 * ["Conv2d", "BatchNorm2d", "LeakyReLU"] + ["Conv2d"]
    assert {module.negative_slope for module in D.modules() if isinstance(module, nn.LeakyReLU)} == {0.2}


@pytest.mark.parametrize("name", ["dcgan28", "dcgan64", "dcgan128x64"])
def test_convolutions_are_those_of_the_architecture_and_have_no_bias(name: str) -> None:
    arch = architecture(name)
    with torch.device("meta"):
        pair = models.Generator(arch), models.Discriminator(arch)
    for network, specs in zip(pair, (arch.generator, arch.discriminator), strict=True):
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for conv, spec in zip(convolutions, specs, strict=True):
            assert (conv.in_channels, conv.out_channels) == (spec.in_channels, spec.out_channels)
            assert conv.kernel_size == spec.kernel
            assert (conv.stride, conv.padding) == (2 * (spec.stride,), 2 * (spec.padding,))
            assert conv.bias is None


@pytest.mark.parametrize("name", ["dcgan28", "dcgan64"])
def test_weights_begin_as_in_the_paper(name: str) -> None:
    for network in models.build(architecture(name), seed=3):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                mean, std, numbers = 0.0, 0.02, module.weight
            elif isinstance(module, nn.BatchNorm2d):
                assert not module.bias.any()
                assert not module.running_mean.any()
                assert (module.running_var == 1).all()
                mean, std, numbers = 1.0, 0.02, module.weight
            else:
                continue
            # five standard errors each
            assert abs(numbers.mean().item() - mean) < 5 * std / math.sqrt(numbers.numel())
            assert abs(numbers.std().item() / std - 1) < 5 / math.sqrt(2 * numbers.numel())


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = models.build(NARROW, seed=7)
    torch.manual_seed(2)
    again, other = models.build(NARROW, seed=7), models.build(NARROW, seed=8)
    for a, b, c in zip(first, again, other, strict=True):
        for x, y, z in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
            assert torch.equal(x, y)
            assert not z.any() or not torch.equal(x, z)  # BatchNorm's shifts are 0 for every seed


def test_generator_and_discriminator_draw_different_numbers() -> None:
    G, D = models.build(architecture("dcgan16", width=8), seed=0)
    first_of_G, first_of_D = (network.layers[0].weight.flatten()[:300] for network in (G, D))
    assert not torch.isin(first_of_G, first_of_D).any()


def test_initialise_draws_again_whatever_was_there() -> None:
    G, _ = models.build(NARROW, seed=0)
    models.initialise(G, 7)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.fill_(9)
    models.initialise(G, 7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    G, _ = models.build(NARROW, seed=0)
    models.initialise(G, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_pictures_are_within_the_range_of_real_ones() -> None:
    G, _ = models.build(NARROW, seed=0)
    with torch.no_grad():
        G.layers[-2].weight.mul_(1e4)
    pictures_BCHW = G(torch.randn(3, 12))
    assert pictures_BCHW.shape == (3, 3, 32, 32)
    assert pictures_BCHW.min() == -1
    assert pictures_BCHW.max() == 1


@pytest.mark.parametrize("batch", [1, 5])
def test_discriminator_gives_one_logit_a_picture_not_a_probability(batch: int) -> None:
    _, D = models.build(NARROW, seed=0)
    pictures_BCHW = torch.randn(batch, 3, 32, 32)
    logits_B = D(pictures_BCHW)
    assert logits_B.shape == (batch,)
    with torch.no_grad():
        D.layers[-1].weight.mul_(1e3)
    # A linear last layer: a thousandfold weight is a thousandfold logit, far outside of [0, 1].
    louder_B = D(pictures_BCHW)
    assert louder_B.abs().max() > 1
    torch.testing.assert_close(louder_B, 1e3 * logits_B, rtol=1e-4, atol=1e-3)


def test_pictures_are_contiguous_on_the_cpu_in_fp32_and_all_of_it_learns() -> None:
    for network in models.build(NARROW, seed=0):
        assert network.training
        for parameter in network.parameters():
            assert (parameter.device.type, parameter.dtype) == ("cpu", torch.float32)
            assert parameter.is_contiguous()
            assert parameter.requires_grad
