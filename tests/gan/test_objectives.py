"""Held to the papers' formulas, written out in numpy in double precision with probabilities as the papers have them."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastdcgan.config import ObjectiveName
from fastdcgan.gan.objectives import OBJECTIVES, RELATIVISTIC, Objective, objective

Logits = NDArray[np.float64]
NAMES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)


def D(logits: Logits) -> Logits:
    return 1 / (1 + np.exp(-logits))


def gan_d(real: Logits, fake: Logits, label: float) -> float:
    """Goodfellow et al. 2014, equation 1, which D maximises; Salimans et al. 2016 put `label` for real pictures' 1."""
    value_real = np.mean(label * np.log(D(real)) + (1 - label) * np.log(1 - D(real)))
    return float(-(value_real + np.mean(np.log(1 - D(fake)))))


def hinge_d(real: Logits, fake: Logits, label: float) -> float:
    """Lim & Ye 2017."""
    return float(np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake)))


def lsgan_d(real: Logits, fake: Logits, label: float) -> float:
    """Mao et al. 2017, equation 2, with a = 0 and b = label."""
    return float(np.mean((real - label) ** 2) / 2 + np.mean(fake**2) / 2)


def rpgan_d(real: Logits, fake: Logits, label: float) -> float:
    """Huang et al. 2024, equation 2: f(t) = -log(1 + exp(-t)) of D(G(z)) - D(x), which D makes small and G great.

    By their code: D gets real minus fake, G fake minus real. There are no labels.
    """
    return float(np.mean(np.log(1 + np.exp(-(real - fake)))))


PAPERS: dict[ObjectiveName, tuple[Callable[[Logits, Logits, float], float], Callable[[Logits, Logits], float]]] = {
    "bce": (gan_d, lambda fake, real: float(-np.mean(np.log(D(fake))))),
    "minimax": (gan_d, lambda fake, real: float(np.mean(np.log(1 - D(fake))))),
    "hinge": (hinge_d, lambda fake, real: float(-np.mean(fake))),
    "lsgan": (lsgan_d, lambda fake, real: float(np.mean((fake - 1) ** 2) / 2)),
    "rpgan": (rpgan_d, lambda fake, real: float(np.mean(np.log(1 + np.exp(-(fake - real)))))),
}


def logits(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(33, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3).to(dtype)


def test_every_name_has_an_objective_and_a_paper() -> None:
    assert set(OBJECTIVES) == set(PAPERS) == set(NAMES)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.45])
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_papers(name: ObjectiveName, smoothing: float) -> None:
    real, fake = logits(1), logits(2)
    wanted_d, wanted_g = PAPERS[name]
    found = objective(name, smoothing)
    loss_d, loss_g = found.discriminator(real, fake), found.generator(fake, real)
    assert loss_d.shape == loss_g.shape == ()
    assert loss_d.item() == pytest.approx(wanted_d(real.numpy(), fake.numpy(), 1 - smoothing), rel=1e-12)
    assert loss_g.item() == pytest.approx(wanted_g(fake.numpy(), real.numpy()), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_means_so_that_the_batch_size_does_not_scale_them(name: ObjectiveName) -> None:
    real, fake = logits(1), logits(2)
    once = objective(name).discriminator(real, fake), objective(name).generator(fake, real)
    reals, fakes = real.tile(3), fake.tile(3)
    twice = objective(name).discriminator(reals, fakes), objective(name).generator(fakes, reals)
    torch.testing.assert_close(twice, once)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_of_large_logits_are_finite(
    name: ObjectiveName, dtype: torch.dtype, smoothing: float
) -> None:
    for sign_real in (-1e4, 1e4):
        for sign_fake in (-1e4, 1e4):
            real = torch.full((4,), sign_real, dtype=dtype, requires_grad=True)
            fake = torch.full((4,), sign_fake, dtype=dtype, requires_grad=True)
            found = objective(name, smoothing)
            total = found.discriminator(real, fake) + found.generator(fake, real)
            total.backward()
            for tensor in (total, real.grad, fake.grad):
                assert tensor is not None
                assert torch.isfinite(tensor).all()


def test_where_d_wins_only_the_minimax_gradient_vanishes() -> None:
    gradients_at = {}
    for name in ("bce", "minimax"):
        fake = torch.tensor([-20.0], requires_grad=True)
        objective(name).generator(fake).backward()
        gradients_at[name] = fake.grad.item()
    assert gradients_at["bce"] == pytest.approx(-1, abs=1e-6)
    assert -1e-6 < gradients_at["minimax"] < 0


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_of_a_picture_or_of_a_pair_where_logits_alone_mean_nothing(name: ObjectiveName) -> None:
    real, fake = logits(1), logits(2)
    pairs = {"rpgan": (real - fake, fake - real)}
    for found, wanted in zip(objective(name).probabilities(real, fake), pairs.get(name, (real, fake)), strict=True):
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(D(wanted.numpy()).mean(), rel=1e-6)
    if name in RELATIVISTIC:  # which has no zero: the same is added to all logits
        shifted = objective(name).probabilities(real + 5, fake + 5)
        torch.testing.assert_close(shifted, objective(name).probabilities(real, fake))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_logits_give_fp32_losses(name: ObjectiveName, low: torch.dtype) -> None:
    real, fake = logits(1, low), logits(2, low)
    found = objective(name, 0.1)
    loss_d, loss_g = found.discriminator(real, fake), found.generator(fake, real)
    assert loss_d.dtype == loss_g.dtype == torch.float32
    # as exact as if the same logits had come in fp32: nothing is rounded to 8 bits on the way
    assert torch.equal(loss_d, found.discriminator(real.float(), fake.float()))
    assert torch.equal(loss_g, found.generator(fake.float(), real.float()))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_fp32_under_autocast_too(name: ObjectiveName) -> None:
    real, fake = logits(1, torch.bfloat16), logits(2, torch.bfloat16)
    found = objective(name)
    with torch.autocast("cpu", torch.bfloat16):
        inside = found.discriminator(real, fake), found.generator(fake, real)
    for a, b in zip(inside, (found.discriminator(real, fake), found.generator(fake, real)), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def gradients(found: Objective) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    real, fake, fake_again = (logits(seed).requires_grad_() for seed in (1, 2, 2))
    found.discriminator(real, fake).backward()
    found.generator(fake_again).backward()
    assert real.grad is not None and fake.grad is not None and fake_again.grad is not None
    return real.grad, fake.grad, fake_again.grad


@pytest.mark.parametrize("name", ["bce", "minimax", "lsgan"])
def test_smoothing_is_one_sided(name: ObjectiveName) -> None:
    real, fake, generator = gradients(objective(name))
    smooth_real, smooth_fake, smooth_generator = gradients(objective(name, 0.1))
    assert not torch.allclose(real, smooth_real)
    assert torch.equal(fake, smooth_fake)
    assert torch.equal(generator, smooth_generator)
