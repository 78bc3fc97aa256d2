"""D with spectral normalisation: what its layers do, not how it compares with the reference (tests/parity)."""

import torch
from torch import nn

from fastdcgan.config import RecipeConfig
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.spectral import SpectralDiscriminator, _normalised, build_for

ARCH = architecture("dcgan32", width=8)
RECIPE = RecipeConfig(spectral_norm=True)


def spectral(seed: int = 0, classes: tuple[str, ...] = ()) -> SpectralDiscriminator:
    _, discriminator = build_for(RECIPE, ARCH.with_classes(classes), seed)
    assert isinstance(discriminator, SpectralDiscriminator)
    return discriminator


def test_no_layer_stretches_a_difference() -> None:
    D = spectral(classes=("cat", "dog"))
    for _ in range(50):
        D.before_update()
    weights = [_normalised(layer) for layer in D._normalised_layers()]
    assert len(weights) == len(ARCH.discriminator) + 1, "those of the classes too"
    for weight in weights:
        largest = torch.linalg.matrix_norm(weight.flatten(1), ord=2).item()
        assert abs(largest - 1) < 1e-3


def test_it_begins_near_enough_and_follows_the_weights() -> None:
    """15 iterations at first, one an update: with weights that move slowly the estimate stays close."""
    D = spectral()
    for step in range(20):
        D.before_update()
        for weight in map(_normalised, D._normalised_layers()):
            assert 0.9 < torch.linalg.matrix_norm(weight.flatten(1), ord=2).item() < 1.15, step
        with torch.no_grad():
            for parameter in D.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)), alpha=2e-4)


def test_the_weights_scale_does_not_matter() -> None:
    D, x_BCHW = spectral(), torch.rand(4, 3, 32, 32) * 2 - 1
    before = D(x_BCHW)
    with torch.no_grad():
        for layer in D.layers:
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(7)
    torch.testing.assert_close(D(x_BCHW), before)


def test_it_has_shifts_where_others_have_batchnorm_and_its_weights_begin_alike() -> None:
    D, (_, plain) = spectral(), models.build(ARCH, 0)
    assert len(D.layers) == len(plain.layers)
    for mine, usual in zip(D.layers, plain.layers, strict=True):
        assert isinstance(mine, models.Shift) == isinstance(usual, nn.BatchNorm2d)
        if isinstance(usual, nn.Conv2d):
            assert abs(mine.weight.std() / 0.02 - 1) < 0.1
    kept = {name.rpartition(".")[2] for name in D.state_dict()}
    assert kept == {"weight", "bias", "left", "right"}


def test_it_is_a_function_of_the_seed_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = spectral(1).state_dict(), spectral(1).state_dict(), spectral(2).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["layers.0.left"], other["layers.0.left"])


def test_a_call_changes_nothing_and_an_iteration_only_the_vectors() -> None:
    D = spectral()
    before = {name: tensor.clone() for name, tensor in D.state_dict().items()}
    D(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in D.state_dict().items())
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in D.parameters())
    D.before_update()
    changed = {name.rpartition(".")[2] for name, t in D.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"left", "right"}


def test_without_it_d_is_the_papers() -> None:
    _, D = build_for(RecipeConfig(), ARCH, 0)
    assert type(D) is models.Discriminator
