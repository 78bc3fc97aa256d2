"""Micro-batches are the reference on each, gradients averaged; without BatchNorm, they are the whole batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from twins import BATCH, CPU, errors, inputs, moments, narrow, reference_twin, worst

from fastdcgan.config import ObjectiveName, RecipeConfig, TrainConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import models, reference
from fastdcgan.gan.step import TrainState

STEPS = 3
PLANS = {
    "default": Plan(),
    "stacked": Plan(stacked=True),
    "compiled": Plan(backend="aot_eager"),
    "captured": Plan(backend="aot_eager", capture=True),
}
ARCH = narrow("dcgan28")

Result = tuple[list[Tensor], dict[str, Tensor]]
"""The figures of each step, and what was learned."""


def without_norms(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())


def numbers(G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    return {f"{label}.{key}": t.clone() for label, net in (("G", G), ("D", D)) for key, t in net.state_dict().items()}


def ours(plan: Plan, parts: int, norms: bool = True, objective: ObjectiveName = "bce") -> Result:
    start = reference_twin(ARCH)
    G, D = models.build(ARCH, seed=0)
    G.load_state_dict(start.G.state_dict()), D.load_state_dict(start.D.state_dict())
    for network in (G, D):
        network.double()
        if not norms:
            without_norms(network)
    state: TrainState = prepare(plan, G, D, RecipeConfig(accumulate=parts, objective=objective), CPU)
    step, figures = step_function(plan, state), []
    for number in range(STEPS):
        real_BCHW, z_BL = (tensor.double() for tensor in inputs(ARCH, number))
        figures.append(torch.stack(step(real_BCHW.contiguous(memory_format=torch.channels_last), z_BL)))
    return figures, numbers(G, D) | moments(("g", G, state.optimizer_g), ("d", D, state.optimizer_d))


def reference_by_micro_batch(parts: int, objective: ObjectiveName) -> Result:
    """The reference's losses on each micro-batch, and updates by their mean gradients."""
    twin = reference_twin(ARCH)
    G, D = twin.G.double(), twin.D.double()
    adam_g, adam_d = reference.adam(G), reference.adam(D)
    figures = []
    for number in range(STEPS):
        reals, noises = ([part.double() for part in tensor.chunk(parts)] for tensor in inputs(ARCH, number))
        fakes = [G(z_bL) for z_bL in noises]
        of_parts, losses_d = [], []
        for real_bCHW, fake_bCHW in zip(reals, fakes, strict=True):
            logits = D(real_bCHW), D(fake_bCHW.detach())
            loss = reference.loss_d(objective, *logits)
            of_parts.append(torch.autograd.grad(loss, list(D.parameters())))
            losses_d.append(torch.stack([loss, *reference.probabilities(objective, *logits)]).detach())
        learn(D, of_parts, adam_d)
        of_parts, losses_g = [], []
        for real_bCHW, fake_bCHW in zip(reals, fakes, strict=True):
            logits_real_b = D(real_bCHW) if objective == "rpgan" else None
            loss = reference.loss_g(objective, D(fake_bCHW), logits_real_b)
            of_parts.append(torch.autograd.grad(loss, list(G.parameters())))
            losses_g.append(loss.detach())
        learn(G, of_parts, adam_g)
        loss_d, d_real, d_fake = torch.stack(losses_d).mean(0)
        figures.append(torch.stack([loss_d, torch.stack(losses_g).mean(), d_real, d_fake]))
    return figures, numbers(G, D) | moments(("g", G, adam_g), ("d", D, adam_d))


def learn(network: nn.Module, of_parts: list[tuple[Tensor, ...]], optimizer: torch.optim.Optimizer) -> None:
    for parameter, gradients in zip(network.parameters(), zip(*of_parts, strict=True), strict=True):
        parameter.grad = torch.stack(gradients).mean(0)
    optimizer.step()


def assert_same(found: Result, wanted: Result) -> None:
    for here, there in zip(found[0], wanted[0], strict=True):  # a captured step's are fp32, and so are probabilities
        torch.testing.assert_close(here.float(), there.float(), rtol=1e-6, atol=0)
    assert worst(errors(found[1], wanted[1]))[0] <= 1e-10


@pytest.mark.parametrize(("parts", "objective"), [(2, "bce"), (4, "bce"), (2, "rpgan")])
@pytest.mark.parametrize("name", PLANS)
def test_micro_batches_are_the_reference_on_each_with_mean_gradients(
    name: str, parts: int, objective: ObjectiveName
) -> None:
    """BatchNorm's running statistics too: one micro-batch after the other."""
    assert_same(ours(PLANS[name], parts, objective=objective), reference_by_micro_batch(parts, objective))


def test_without_batch_norm_micro_batches_are_the_whole_batch() -> None:
    whole = ours(Plan(), 1, norms=False)
    assert_same(ours(Plan(), BATCH // 2, norms=False), whole)
    with_norms = ours(Plan(), 1), ours(Plan(), 2)
    assert worst(errors(with_norms[1][1], with_norms[0][1]))[0] > 1e-6


def test_accumulate_is_at_least_1() -> None:
    with pytest.raises(ValueError, match=r"--accumulate 0: must be at least 1"):
        replace(TrainConfig(), recipe=RecipeConfig(accumulate=0)).resolved()
