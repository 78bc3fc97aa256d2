"""The same curve on any number of ranks.

With `--batch-norm sync` ranks compute what one process computes, in another order of summation. fp64 leaves no room
for doubt: 20 steps. In fp32 the order alone changes the curve within some steps, as it does between any two machines
(an activation that rounds to the other side of zero flips its slope, and Adam's first step is the sign of a gradient),
so there, after a step from equal weights, the ranks may be as far from the fp64 truth as one process is.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from ranks import ALONE, Result, Training, all_numbers, on_ranks, train, train_all
from torch import Tensor, nn
from twins import WIDTHS, errors, inputs, narrow, reference_twin, worst

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import INSTALL_KERNELS
from fastdcgan.gan import reference
from fastdcgan.gan.architecture import architecture
from fastdcgan.kernels import fused_batch_norm

pytestmark = pytest.mark.slow

NETWORKS = ("dcgan28", "dcgan64")
TINY = architecture("dcgan16", width=4, latent_dim=6)

LONG = {name: Training(arch=narrow(name), plan=Plan(), steps=20, batch=8, double=True) for name in NETWORKS}
ONE_STEP = {
    f"{name}, fp32": Training(
        arch=architecture(name, width=max(16, WIDTHS.get(name, 8))), plan=Plan(), steps=1, batch=8
    )
    for name in NETWORKS
}
OWN = (
    {
        f"{name}, own kernels": replace(work, plan=Plan(kernels=tuple(INSTALL_KERNELS)))
        for name, work in ONE_STEP.items()
    }
    if fused_batch_norm.available()
    else {}
)
PLANS = {
    "stacked": Plan(stacked=True),
    "compiled": Plan(backend="aot_eager"),
    "captured": Plan(backend="aot_eager", capture=True),
}
EXACT = {
    f"{name}, exact": Training(arch=narrow(name), plan=Plan(shares=4, stacked=True, threads=1), steps=20, batch=8)
    for name in NETWORKS
}
BRIEF = {name: Training(arch=TINY, plan=plan, steps=3, batch=8, double=True) for name, plan in PLANS.items()}
IN_PARTS = {f"{name}, in parts": replace(work, recipe=RecipeConfig(accumulate=2)) for name, work in BRIEF.items()}
EVERYTHING = "colour,translation,cutout"
TOGETHER = RecipeConfig(lecam=0.3, d_steps=2, lr_d=4e-4, augment=EVERYTHING, spectral_norm=True, r1=1.0, r1_every=2)
R3GANS = RecipeConfig(objective="rpgan", spectral_norm=True, r1=1.0, r2=0.5, r1_every=2)
AUGMENTED = RecipeConfig(lecam=0.3, augment=EVERYTHING, accumulate=2)
STABILISED = {
    f"{name}, {plan}": Training(arch=TINY, plan=PLANS[plan], steps=3, batch=8, double=True, recipe=recipe)
    for name, plan, recipe in (
        ("all together", "stacked", TOGETHER),
        ("all together", "captured", TOGETHER),
        ("augmented, in parts", "stacked", AUGMENTED),
        ("R3GAN's", "stacked", R3GANS),
        ("R3GAN's", "captured", R3GANS),
    )
}
EXACT |= {
    f"{name}, exact": replace(EXACT["dcgan28, exact"], steps=5, recipe=recipe)
    for name, recipe in (
        ("augmented", RecipeConfig(augment=EVERYTHING)),
        ("relativistic", RecipeConfig(objective="rpgan")),
    )
}
STABILISED |= {
    f"{work}, with classes": replace(STABILISED[work], arch=TINY.with_classes(("cat", "dog", "owl")))
    for work in ("all together, stacked", "augmented, in parts, stacked", "R3GAN's, captured")
}
EXACT |= {
    f"{name}, exact": replace(EXACT["dcgan28, exact"], steps=5, batch=4 * recipe.accumulate, recipe=recipe)
    for name, recipe in (
        ("in 2 parts", RecipeConfig(accumulate=2)),
        ("in 3 parts, twice", RecipeConfig(accumulate=3, d_steps=2)),
        ("in 4 parts, relativistic", RecipeConfig(accumulate=4, objective="rpgan")),
    )
}
LOCAL = {
    f"{name}, local": Training(arch=narrow(name), plan=Plan(), steps=3, batch=8, double=True, batch_norm="local")
    for name in NETWORKS
}


NUMBERS_OF_RANKS = [2, pytest.param(4, marks=pytest.mark.exhaustive)]


@cache
def on(ranks: int) -> list[dict[str, Result]]:
    return on_ranks(
        ranks, train_all, LONG | ONE_STEP | OWN | LOCAL | (BRIEF | IN_PARTS | STABILISED if ranks == 2 else {})
    )


@cache
def exactly_on(ranks: int) -> list[dict[str, Result]]:
    return on_ranks(ranks, train_all, EXACT)


@cache
def alone(work: Training) -> Result:
    """On one process, for whatever number of ranks it is compared with. Not to be changed."""
    return train(work)


def largest_error(found: Result, wanted: Result) -> tuple[float, str]:
    """Of the losses each for itself, of every tensor as a whole."""
    by_step = {f"loss {at}": one for at, one in enumerate(((found["losses"] / wanted["losses"]) - 1).abs().flatten())}
    return worst(errors(found, wanted) | {name: float(error) for name, error in by_step.items()})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ranks", NUMBERS_OF_RANKS)
def test_twenty_steps_in_fp64(ranks: int, name: str) -> None:
    everywhere = [results[name] for results in on(ranks)]
    for other in everywhere[1:]:
        assert all(torch.equal(other[key], value) for key, value in everywhere[0].items()), "ranks differ"
    assert largest_error(everywhere[0], alone(LONG[name]))[0] <= 1e-10


@pytest.mark.parametrize("name", ONE_STEP | OWN)
@pytest.mark.parametrize("ranks", NUMBERS_OF_RANKS)
def test_a_step_in_fp32(ranks: int, name: str) -> None:
    work = (ONE_STEP | OWN)[name]
    truth = alone(replace(work, plan=Plan(), double=True))
    found, wanted = on(ranks)[0][name], alone(work)
    for prefix in ("losses", "G.", "D."):
        bound = max(1e-5, 1.5 * distance(wanted, truth, prefix))
        assert distance(found, truth, prefix) <= bound, prefix


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ranks", [2, 4])
def test_twenty_steps_in_fp32_where_every_sum_has_one_order(ranks: int, name: str) -> None:
    """All numbers bit for bit; of the losses shown, the mean is rounded in another place."""
    wanted = alone(EXACT[name])
    for found in (results[name] for results in exactly_on(ranks)):
        torch.testing.assert_close(found["losses"], wanted["losses"], rtol=1e-6, atol=0)
        assert [key for key in wanted if key != "losses" and not torch.equal(found[key], wanted[key])] == []


@pytest.mark.parametrize("name", EXACT)
def test_sums_in_one_order_are_the_same_sums(name: str) -> None:
    work = replace(EXACT[name], steps=3, double=True)
    assert largest_error(train(work), train(replace(work, plan=Plan())))[0] <= 1e-10


def distance(found: Result, truth: Result, prefix: str) -> float:
    """Relative error of all tensors under a prefix taken as one long vector."""
    names = [name for name in truth if name.startswith(prefix) and truth[name].is_floating_point()]
    gap = sum((found[n].double() - truth[n].double()).square().sum() for n in names)
    length = sum(truth[n].double().square().sum() for n in names)
    return float((gap / length) ** 0.5)


@pytest.mark.parametrize("name", BRIEF | IN_PARTS | STABILISED)
def test_every_plan_synchronises(name: str) -> None:
    """Compiled ones without a graph break."""
    wanted = alone(replace((BRIEF | IN_PARTS | STABILISED)[name], plan=Plan()))
    found = on(2)[0][name]
    losses = {
        name: results.pop("losses").float() for name, results in (("found", dict(found)), ("wanted", dict(wanted)))
    }
    torch.testing.assert_close(losses["found"], losses["wanted"], rtol=1e-6, atol=0)  # a captured step's are fp32
    without = {key: value for key, value in wanted.items() if key != "losses"}
    assert worst(errors({key: found[key] for key in without}, without))[0] <= 1e-10


# --- Compressed gradients ---------------------------------------------------------------------------------------------


def test_gradients_that_cross_as_bf16() -> None:
    """They are rounded to 8 bits, and no further from what they were; ranks stay the same."""
    works = {
        name: Training(arch=TINY, plan=plan, steps=1, batch=8, compressed=True)
        for name, plan in (("averaged by DDP", Plan()), ("in the graph", PLANS["captured"]))
    }
    one, other = on_ranks(2, train_all, works, request=replace(ALONE, compress_gradients="bf16"))
    wanted = train(replace(works["averaged by DDP"], compressed=False))
    for name, found in one.items():
        assert all(torch.equal(other[name][key], value) for key, value in found.items())
        assert 2**-12 <= distance(found, wanted, "mean.D") <= 2**-7


# --- Local ------------------------------------------------------------------------------------------------------------


def shard_by_shard(work: Training, ranks: int) -> tuple[Tensor, list[Result]]:
    """The reference on each share of the batch, gradients averaged: mean losses, and each share's networks."""
    twins = [reference_twin(work.arch) for _ in range(ranks)]
    for twin in twins:
        twin.G.double(), twin.D.double()
    adams = [(reference.adam(twin.G), reference.adam(twin.D)) for twin in twins]

    def learn(networks: list[nn.Module], losses: list[Tensor], optimizers: list[torch.optim.Optimizer]) -> Tensor:
        of_shares = [torch.autograd.grad(loss, list(n.parameters())) for n, loss in zip(networks, losses, strict=True)]
        means = [torch.stack(of_share).mean(0) for of_share in zip(*of_shares, strict=True)]
        for network, optimizer in zip(networks, optimizers, strict=True):
            for parameter, mean in zip(network.parameters(), means, strict=True):
                parameter.grad = mean.clone()
            optimizer.step()
        return torch.stack(losses).mean().detach()

    curve = []
    for number in range(work.steps):
        reals, noises = (t.double().chunk(ranks) for t in inputs(work.arch, number, work.batch))
        fakes = [twin.G(z_BL) for twin, z_BL in zip(twins, noises, strict=True)]
        losses_d = [
            reference.loss_d("bce", twin.D(real), twin.D(fake.detach()))
            for twin, real, fake in zip(twins, reals, fakes, strict=True)
        ]
        loss_d = learn([twin.D for twin in twins], losses_d, [adam_d for _, adam_d in adams])
        losses_g = [reference.loss_g("bce", twin.D(fake)) for twin, fake in zip(twins, fakes, strict=True)]
        curve.append(
            torch.stack([loss_d, learn([twin.G for twin in twins], losses_g, [adam_g for adam_g, _ in adams])])
        )
    return torch.stack(curve), [all_numbers(twin.G, twin.D) for twin in twins]


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("ranks", NUMBERS_OF_RANKS)
def test_local_is_the_reference_shard_by_shard(ranks: int, name: str) -> None:
    curve, shares = shard_by_shard(LOCAL[name], ranks)
    for results, wanted in zip(on(ranks), shares, strict=True):
        found = {key: value for key, value in results[name].items() if not key.startswith("mean.")}
        assert largest_error(found, {"losses": curve, **wanted})[0] <= 1e-10
    statistics = [results[name]["D.layers.3.running_mean"] for results in on(ranks)]
    assert not torch.equal(statistics[0], statistics[1]), "each its own"
