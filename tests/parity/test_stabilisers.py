"""What stabilises training is the reference's too: each, on every kind of plan, alone and with the others."""

import pytest
import torch
from test_parity import PLAIN, check_in_fp64, needs_compiler, run
from twins import CPU, errors, plan_twin, reference_twin, worst

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import INSTALL_KERNELS
from fastdcgan.gan.architecture import architecture
from fastdcgan.kernels import winograd
from fastdcgan.tuning.parity import ParityCheck

RECIPES = {
    "two time scales": RecipeConfig(lr_g=1e-4, lr_d=4e-4),
    "D learns twice": RecipeConfig(d_steps=2),
    "D learns three times, faster": RecipeConfig(d_steps=3, lr_d=4e-4),
    "augmented": RecipeConfig(augment="colour,translation,cutout"),
    "augmented, D learns twice": RecipeConfig(augment="cutout,translation", d_steps=2),
    "spectral norm": RecipeConfig(spectral_norm=True),
    "all together": RecipeConfig(spectral_norm=True, d_steps=2, augment="colour,translation", objective="hinge"),
}

CHEAP = {name: recipe for name, recipe in RECIPES.items() if name in ("two time scales", "D learns twice")}
"""That repeat the paper's operators, and no others."""

PLANS = {
    "channels last": Plan(),
    "stacked": Plan(stacked=True),
    "exact on two ranks": Plan(stacked=True, shares=2, threads=1),
    "compiled": Plan(backend="aot_eager"),
    "captured": Plan(backend="eager", capture=True),
}

TINY = architecture("dcgan16", width=4, latent_dim=6)
"""What stabilises does not depend on the geometry, and tracing takes most of the time."""

OWN_KERNELS = tuple(INSTALL_KERNELS) if winograd.available() else ("ends",)


@pytest.mark.parametrize("name", RECIPES)
def test_stabilised_training_is_the_reference_in_fp64(name: str) -> None:
    check_in_fp64(TINY, PLAIN, steps=3, recipe=RECIPES[name])


@pytest.mark.parametrize("name", [*CHEAP, "augmented, D learns twice"])
def test_stabilised_training_is_bit_for_bit_the_reference(name: str) -> None:
    twin = reference_twin(TINY, RECIPES[name])
    found = run(plan_twin(TINY, twin, PLAIN, RECIPES[name]), TINY, 5)
    wanted = run(twin, TINY, 5)
    different = [key for key, value in wanted.items() if not torch.equal(found[key], value)]
    assert not different, worst(errors(found, wanted))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_plan_in_fp64(name: str, plan: str) -> None:
    check_in_fp64(TINY, PLANS[plan], steps=3, recipe=RECIPES[name])


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", RECIPES)
def test_inductor_in_fp64(name: str) -> None:
    check_in_fp64(TINY, Plan(backend="inductor"), steps=3, recipe=RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_in_fp32_and_with_our_own_kernels_it_errs_no_more_than_the_reference(name: str) -> None:
    check = ParityCheck(architecture("dcgan32", width=32), CPU, recipe=RECIPES[name])
    for plan in (Plan(), Plan(kernels=OWN_KERNELS)):
        parity = check(plan)
        assert parity.passed, (plan, parity)
