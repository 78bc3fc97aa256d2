import random
from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan, Precision
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import StepMetrics, TrainState, discriminator_loss, generator_loss, train_step

ARCH = architecture("dcgan16", width=4, latent_dim=6)
CPU = torch.device("cpu")


def fresh(precision: Precision = "fp32", seed: int = 0) -> TrainState:
    return prepare(Plan(precision=precision), *models.build(ARCH, seed), RecipeConfig(), CPU)


def inputs(seed: int = 0, batch: int = 5) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    real_BCHW = torch.rand(batch, 3, 16, 16, generator=rng) * 2 - 1
    return real_BCHW.contiguous(memory_format=torch.channels_last), torch.randn(batch, 6, generator=rng)


def count_gradients(network: nn.Module) -> dict[str, int]:
    """How often each parameter's gradient was computed, counted from now on."""
    counts: dict[str, int] = {}

    def count(name: str, _: Tensor) -> None:
        counts[name] = counts.get(name, 0) + 1

    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(partial(count, name))
    return counts


def numbers(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{label}.{name}": tensor.clone()
        for label, network in (("G", state.generator), ("D", state.discriminator))
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other in networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_unused_gradient_is_computed() -> None:
    state = fresh()
    counts_d, counts_g = count_gradients(state.discriminator), count_gradients(state.generator)
    train_step(state, *inputs())
    # Real and fake run through one backward, so each of D's parameters is reached once: in D's phase, not in G's.
    assert counts_d == {name: 1 for name, _ in state.discriminator.named_parameters()}
    assert counts_g == {name: 1 for name, _ in state.generator.named_parameters()}


def test_the_generators_phase_leaves_ds_gradients_alone() -> None:
    state = fresh()
    given: list[Tensor] = []
    state.optimizer_d.register_step_pre_hook(
        lambda *_: given.extend(p.grad.clone() for p in state.discriminator.parameters())
    )
    train_step(state, *inputs())
    after = [parameter.grad for parameter in state.discriminator.parameters()]
    assert len(given) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(given, after, strict=True))


def test_the_discriminators_loss_does_not_reach_the_generator() -> None:
    state = fresh()
    reached: list[bool] = []
    state.optimizer_d.register_step_pre_hook(
        lambda *_: reached.extend(p.grad is not None for p in state.generator.parameters())
    )
    train_step(state, *inputs())
    assert reached
    assert not any(reached)


def test_both_networks_learn_and_can_go_on_learning() -> None:
    state = fresh()
    before = numbers(state)
    train_step(state, *inputs())
    after = numbers(state)
    assert not [name for name in before if torch.equal(before[name], after[name])]
    for network in (state.generator, state.discriminator):
        assert network.training
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_discriminator_is_unfrozen_when_the_generators_phase_fails() -> None:
    state = fresh()

    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    object.__setattr__(state, "call_frozen_discriminator", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_step(state, *inputs())
    assert all(parameter.requires_grad for parameter in state.discriminator.parameters())


def test_gradients_do_not_add_up_over_steps() -> None:
    state = fresh()
    train_step(state, *inputs(0))
    twin = deepcopy(state)
    for network in (twin.generator, twin.discriminator):
        network.zero_grad()
    train_step(state, *inputs(1))
    train_step(twin, *inputs(1))
    for a, b in zip(numbers(state).values(), numbers(twin).values(), strict=True):
        assert torch.equal(a, b)


def test_batchnorm_normalises_real_and_fake_separately() -> None:
    state = fresh()
    train_step(state, *inputs())
    passes = {name: int(n) for name, n in numbers(state).items() if name.endswith("num_batches_tracked")}
    # G makes one batch a step, that D judges before and after its update; and D judges a real one.
    assert set(passes.values()) == {1, 3}
    assert all(n == (1 if name.startswith("G.") else 3) for name, n in passes.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_random_numbers_are_drawn(precision: Precision) -> None:
    state = fresh(precision)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    train_step(state, *inputs())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_a_step_is_a_function_of_state_and_inputs() -> None:
    one, two, other = fresh(), fresh(), fresh()
    real_BCHW, z_BL = inputs()
    kept = real_BCHW.clone(), z_BL.clone()
    assert train_step(one, real_BCHW, z_BL) == train_step(two, *inputs())
    assert torch.equal(real_BCHW, kept[0])
    assert torch.equal(z_BL, kept[1])
    assert all(torch.equal(a, b) for a, b in zip(numbers(one).values(), numbers(two).values(), strict=True))
    assert train_step(other, *inputs(1)) != train_step(fresh(), *inputs())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_metrics_are_fp32_scalars_on_the_device_that_hold_no_graph(precision: Precision) -> None:
    metrics = train_step(fresh(precision), *inputs())
    assert metrics._fields == StepMetrics._fields == ("loss_d", "loss_g", "d_real", "d_fake")
    for figure in metrics:
        assert isinstance(figure, Tensor)
        assert (figure.shape, figure.dtype, figure.device) == ((), torch.float32, CPU)
        assert not figure.requires_grad
        assert torch.isfinite(figure)
    assert 0 < metrics.d_real < 1
    assert 0 < metrics.d_fake < 1


def test_metrics_are_ds_before_its_update_and_gs_against_the_updated_d() -> None:
    state, before = fresh(), fresh()
    real_BCHW, z_BL = inputs()
    metrics = train_step(state, real_BCHW, z_BL)

    fake_BCHW = before.generator(z_BL)
    real_B, fake_B = before.discriminator(real_BCHW), before.discriminator(fake_BCHW)
    torch.testing.assert_close(metrics.d_real, real_B.sigmoid().mean())
    torch.testing.assert_close(metrics.d_fake, fake_B.sigmoid().mean())
    torch.testing.assert_close(metrics.loss_d, -F.logsigmoid(real_B).mean() - F.logsigmoid(-fake_B).mean())
    torch.testing.assert_close(metrics.loss_g, -F.logsigmoid(state.discriminator(fake_BCHW)).mean())
    assert not torch.allclose(metrics.loss_g, -F.logsigmoid(fake_B).mean(), rtol=1e-4), "D's update made no difference"


def test_the_losses_are_those_of_the_step() -> None:
    state = fresh()
    real_BCHW, z_BL = inputs()
    fake_BCHW = state.generator(z_BL)
    loss_d, logits_real_B, logits_fake_B = discriminator_loss(
        state.discriminator, real_BCHW, fake_BCHW, state.objective
    )
    assert logits_real_B.shape == logits_fake_B.shape == (5,)
    torch.testing.assert_close(loss_d, state.objective.discriminator(logits_real_B, logits_fake_B))
    loss_g = generator_loss(state.discriminator, real_BCHW, fake_BCHW, state.objective)
    torch.testing.assert_close(loss_g, state.objective.generator(state.discriminator(fake_BCHW)))


def test_a_loss_that_is_not_finite_shows_in_the_metrics() -> None:
    state = fresh()
    real_BCHW, z_BL = inputs()
    real_BCHW[0, 0, 0, 0] = float("nan")
    metrics = train_step(state, real_BCHW, z_BL)
    assert not torch.isfinite(metrics.loss_d)
    assert not torch.isfinite(metrics.d_real)


def test_an_fp16_overflow_in_one_loss_does_not_skip_the_other_networks_update() -> None:
    state = fresh("fp16")
    for scaler in (state.scaler_d, state.scaler_g):
        scaler.load_state_dict({**scaler.state_dict(), "scale": 64.0})
    before = numbers(state)
    real_BCHW, z_BL = inputs()
    train_step(state, real_BCHW * 1e6, z_BL)  # inf in fp16: as a gradient that overflows
    after = numbers(state)
    weights = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in weights if name.startswith("D."))
    assert state.scaler_d.get_scale() == 32
    assert all(torch.isfinite(after[name]).all() for name in weights)
