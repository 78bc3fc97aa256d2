"""What stabilises training is the reference's too: each, on every kind of plan, alone and with the others."""

from dataclasses import replace

import pytest
import torch
from test_parity import PLAIN, check_in_fp64, needs_compiler, run
from twins import CPU, errors, inputs, plan_twin, reference_twin, relative_error, watch, worst

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import INSTALL_KERNELS
from fastdcgan.gan import reference
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import penalise
from fastdcgan.kernels import winograd
from fastdcgan.tuning.parity import ParityCheck

RECIPES = {
    "two time scales": RecipeConfig(lr_g=1e-4, lr_d=4e-4),
    "D learns twice": RecipeConfig(d_steps=2),
    "D learns three times, faster": RecipeConfig(d_steps=3, lr_d=4e-4),
    "augmented": RecipeConfig(augment="colour,translation,cutout"),
    "augmented, D learns twice": RecipeConfig(augment="cutout,translation", d_steps=2),
    "spectral norm": RecipeConfig(spectral_norm=True),
    "LeCam": RecipeConfig(lecam=0.3),
    "R1": RecipeConfig(r1=3.0, r1_every=2),
    "R2": RecipeConfig(r2=3.0, r1_every=2),
    "relativistic": RecipeConfig(objective="rpgan", d_steps=2),
    "R3GAN's": RecipeConfig(objective="rpgan", r1=3.0, r2=2.0, r1_every=2, augment="translation"),
    "all together": RecipeConfig(
        spectral_norm=True, d_steps=2, augment="colour,translation", objective="hinge", r1=0.5, r1_every=2, lecam=0.1
    ),
    "all together, relativistic": RecipeConfig(
        # Without cutout: before D has learned shifts, a layer's result on what is cut out is 0, where LeakyReLU has a
        # kink, and Winograd's is 0 but for roundings.
        spectral_norm=True,
        d_steps=2,
        augment="colour,translation",
        objective="rpgan",
        r1=0.5,
        r2=0.3,
        r1_every=2,
        lecam=0.1,
    ),
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


def marks(name: str, plan: str) -> tuple[pytest.MarkDecorator, ...]:
    """What is compiled takes seconds: all together at once, and each for itself where there is much time."""
    if not PLANS[plan].backend or name == "all together":
        return ()
    return (pytest.mark.slow,) if "all together" in name else (pytest.mark.slow, pytest.mark.exhaustive)


EACH_ON_EACH = [pytest.param(name, plan, marks=marks(name, plan)) for name in RECIPES for plan in PLANS]


@pytest.mark.parametrize(("name", "plan"), EACH_ON_EACH)
def test_every_plan_in_fp64(name: str, plan: str) -> None:
    check_in_fp64(TINY, PLANS[plan], steps=3, recipe=RECIPES[name])


@pytest.mark.slow
@pytest.mark.exhaustive
@needs_compiler
@pytest.mark.parametrize("name", RECIPES)
def test_inductor_in_fp64(name: str) -> None:
    check_in_fp64(TINY, Plan(backend="inductor"), steps=3, recipe=RECIPES[name])


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("R1", "R2")])  # which are no part of a step
def test_in_fp32_and_with_our_own_kernels_it_errs_no_more_than_the_reference(name: str) -> None:
    check = ParityCheck(architecture("dcgan32", width=32), CPU, recipe=RECIPES[name])
    for plan in (Plan(), Plan(kernels=OWN_KERNELS)):
        parity = check(plan)
        assert parity.passed, (plan, parity)


@pytest.mark.parametrize("plan", [Plan(kernels=OWN_KERNELS), Plan(precision="bf16")], ids=str)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_gradient_penalty_is_the_references_whatever_the_layers(spectral_norm: bool, plan: Plan) -> None:
    """It is taken in fp32, through PyTorch's own layers."""
    arch = architecture("dcgan32", width=32)
    recipe = RecipeConfig(r1=2.0, r2=1.0, r1_every=4, spectral_norm=spectral_norm)
    twin = reference_twin(arch, recipe)
    fast = plan_twin(arch, twin, plan, recipe)
    assert fast.state is not None
    real_BCHW, z_BL = inputs(arch)
    fast.step(real_BCHW, z_BL)
    for network, trained in ((twin.D, fast.D), (twin.G, fast.G)):
        network.load_state_dict(dict(zip(network.state_dict(), trained.state_dict().values(), strict=True)))
    before = {name: tensor.clone() for name, tensor in fast.D.state_dict().items()}
    real_BCHW = real_BCHW.contiguous(memory_format=torch.channels_last)
    for step in (1, 2, 3):
        penalise(fast.state, step, real_BCHW, z_BL)
        assert all(torch.equal(tensor, before[name]) for name, tensor in fast.D.state_dict().items()), "not due yet"
    penalise(fast.state, 4, real_BCHW, z_BL)
    optimizer_d = reference.adam(twin.D)
    wanted = watch(("D", twin.D, optimizer_d))
    fake_BCHW = twin.G(z_BL)
    reference.penalty_step(twin.D, optimizer_d, real_BCHW, fake_BCHW, r1=2.0, r2=1.0, every=4)
    for name, gradient in wanted.items():
        assert relative_error(fast.gradients[name], gradient) <= 1e-4, name
    assert not torch.equal(fast.D.state_dict()["layers.0.weight"], before["layers.0.weight"])


def test_the_gradient_penalty_of_micro_batches_is_the_mean_of_each() -> None:
    recipe = RecipeConfig(r1=2.0, r2=1.0, r1_every=1, accumulate=2, spectral_norm=True)
    fast = [plan_twin(TINY, reference_twin(TINY, recipe), Plan(), replace(recipe, accumulate=n)) for n in (1, 2)]
    real_BCHW, fake_BCHW = (inputs(TINY, step)[0].double() for step in (0, 1))
    for one in fast:
        one.D.double()
        assert one.state is not None and one.state.penalty is not None
        one.state.penalty.update(real_BCHW, lambda: fake_BCHW, one.state.accumulate)
    for name, gradient in fast[0].gradients.items():
        torch.testing.assert_close(fast[1].gradients[name], gradient)
