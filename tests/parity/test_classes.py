"""Networks that know classes are the reference's too: on every kind of plan, with our kernels, with all stabilisers."""

from dataclasses import replace

import pytest
import torch
from test_parity import CHANNELS_LAST, PLAIN, check_in_fp32, check_in_fp64, needs_compiler, run
from test_stabilisers import OWN_KERNELS, PLANS, RECIPES, TINY
from twins import (
    CPU,
    PAPERS,
    errors,
    inputs,
    labels,
    narrow,
    numbers,
    plan_twin,
    reference_layers,
    reference_twin,
    worst,
)

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.gan import models, reference
from fastdcgan.gan.architecture import architecture
from fastdcgan.tuning.parity import ParityCheck

CLASSES = ("cat", "dog", "owl")

ARCH = TINY.with_classes(CLASSES)

CLASSY = {name: RECIPES[name] for name in ("spectral norm", "R1", "R3GAN's", "all together")}
"""Recipes with operators of their own where there are classes."""


def test_weights_begin_as_in_the_reference_with_classes() -> None:
    arch = narrow("dcgan28").with_classes(CLASSES)
    generator, discriminator = models.build(arch, seed=0)
    for network, twin in (
        (generator, reference.Generator(reference_layers(arch)[0], len(CLASSES))),
        (discriminator, reference.Discriminator(reference_layers(arch)[1], len(CLASSES))),
    ):
        models.initialise(network, seed=7)
        torch.manual_seed(7)
        reference.initialise(twin)
        assert network.state_dict().keys() == twin.state_dict().keys()
        for key, value in twin.state_dict().items():
            assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["dcgan28", "dcgan64x128"])
def test_training_with_classes_is_bit_for_bit_the_reference(name: str) -> None:
    arch = narrow(name).with_classes(CLASSES)
    twin = reference_twin(arch)
    found = run(plan_twin(arch, twin, PLAIN), arch, 5)
    wanted = run(twin, arch, 5)
    different = [key for key, value in wanted.items() if not torch.equal(found[key], value)]
    assert not different, worst(errors(found, wanted))


@pytest.mark.parametrize("name", CLASSY)
def test_stabilised_training_with_classes_is_the_reference_in_fp64(name: str) -> None:
    check_in_fp64(ARCH, PLAIN, steps=3, recipe=CLASSY[name])


WITHOUT_EXACT_SUMS = {name: plan for name, plan in PLANS.items() if not plan.shares}

EACH_ON_EACH = [
    pytest.param(name, plan, marks=pytest.mark.slow if WITHOUT_EXACT_SUMS[plan].backend and name != "paper" else ())
    for name in ("paper", *CLASSY)
    for plan in WITHOUT_EXACT_SUMS
]


@pytest.mark.parametrize(("name", "plan"), EACH_ON_EACH)
def test_every_plan_with_classes_in_fp64(name: str, plan: str) -> None:
    check_in_fp64(ARCH, WITHOUT_EXACT_SUMS[plan], steps=3, recipe=CLASSY.get(name, PAPERS))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "plan",
    [pytest.param(Plan(backend="inductor"), marks=pytest.mark.exhaustive), Plan(backend="inductor", capture=True)],
    ids=str,
)
def test_inductor_with_classes_in_fp64(plan: Plan) -> None:
    check_in_fp64(ARCH, plan, steps=3)


def test_channels_last_with_classes_in_fp32() -> None:
    check_in_fp32(narrow("dcgan32").with_classes(CLASSES), CHANNELS_LAST)


@pytest.mark.parametrize("name", ["paper", "spectral norm", "D learns twice"])
def test_with_our_own_kernels_and_classes_it_errs_no_more_than_the_reference(name: str) -> None:
    arch = architecture("dcgan32", width=32).with_classes(CLASSES)
    check = ParityCheck(arch, CPU, recipe=RECIPES.get(name, PAPERS))
    for plan in (Plan(kernels=OWN_KERNELS), Plan(kernels=OWN_KERNELS, stacked=True), Plan(precision="bf16")):
        parity = check(plan)
        assert parity.passed, (plan, parity)


@pytest.mark.parametrize("plan", ["channels last", "stacked", "captured"])
def test_without_batch_norm_micro_batches_with_classes_are_the_whole_batch(plan: str) -> None:
    """Spectral normalisation has none in D, and what G's does is told by its statistics alone: they are left out."""
    recipe = RecipeConfig(spectral_norm=True, r1=1.0, r1_every=1)
    results = []
    for parts in (1, 2):
        twin = plan_twin(ARCH, reference_twin(ARCH, recipe), PLANS[plan], replace(recipe, accumulate=parts))
        for module in twin.G.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        twin.G.double(), twin.D.double()
        real_BCHW, z_BL = inputs(ARCH)
        twin.step(real_BCHW.double(), z_BL.double())
        results.append({name: tensor.clone() for name, tensor in numbers(twin).items() if "num_batches" not in name})
    assert worst(errors(results[1], results[0]))[0] <= 1e-10


def test_a_class_changes_what_both_networks_make() -> None:
    G, D = models.build(ARCH, seed=0)
    G.eval(), D.eval()
    real_BCHW, z_BL = inputs(ARCH)
    of_class = [torch.full((len(z_BL),), label) for label in range(len(CLASSES))]
    assert not torch.equal(G(z_BL, of_class[0]), G(z_BL, of_class[1]))
    assert not torch.equal(D(real_BCHW, of_class[0]), D(real_BCHW, of_class[2]))
    with pytest.raises(AssertionError, match="labels"):
        G(z_BL)
    assert labels(ARCH, z_BL) is not None and len(set(labels(ARCH, z_BL).tolist())) > 1  # type: ignore[union-attr]
