"""The fast path is the reference: pictures, losses, every gradient, BatchNorm buffers, weights after one step and many.

Rung 1 is exact: the same kernels must give the same bits. Rungs 2 and 3 change kernels (another layout, a compiler), so
they change roundings, and a GAN at its start magnifies those: one activation that rounds to the other side of zero
flips its slope, and Adam's first step is the *sign* of a gradient. So they are held to the reference twice: in fp64,
where 20 steps leave no room for doubt, and in fp32 against the fp64 truth, where they may err as the reference does.
"""

from dataclasses import replace
from statistics import median

import pytest
import torch
from recorded import COMPILED
from twins import (
    ARCHITECTURES,
    BATCH,
    CPU,
    PAPERS,
    Twin,
    errors,
    inputs,
    narrow,
    numbers,
    plan_twin,
    reference_layers,
    reference_twin,
    worst,
)

from fastdcgan.config import ObjectiveName, RecipeConfig
from fastdcgan.execution.plan import Plan, Precision, has_cpp_compiler, own_kernels
from fastdcgan.gan import models, reference
from fastdcgan.gan.architecture import Architecture, architecture

OBJECTIVES: tuple[ObjectiveName, ...] = ("bce", "minimax", "hinge", "lsgan", "rpgan")

PLAIN = Plan(channels_last=False, fused_adam=False)
FUSED = Plan(channels_last=False)
CHANNELS_LAST = Plan()
STACKED = Plan(stacked=True)
TRACED = Plan(backend="aot_eager")  # the compiler's front end: graph breaks fail here, cheaply
INDUCTOR = Plan(backend="inductor")
REPLAYED = Plan(replay=True)

BOTH_LAYOUTS = ["dcgan28", pytest.param("dcgan32", marks=pytest.mark.exhaustive)]

LARGE_ONES_LATER = [pytest.param(name, marks=pytest.mark.slow) if "128" in name else name for name in ARCHITECTURES]

needs_compiler = pytest.mark.skipif(not has_cpp_compiler(), reason="Inductor needs a C++ compiler")


def run(twin: Twin, arch: Architecture, steps: int, double: bool = False, first: int = 0) -> dict[str, torch.Tensor]:
    """Take steps on the inputs of `first` and after; returns the last one's metrics, gradients and numbers."""
    for step in range(first, first + steps):
        real_BCHW, z_BL = inputs(arch, step, twin.batch)
        metrics = twin.step(real_BCHW.double(), z_BL.double()) if double else twin.step(real_BCHW, z_BL)
    return {**metrics, **{f"grad.{k}": v for k, v in twin.gradients.items()}, **numbers(twin)}


def doubled(twin: Twin) -> Twin:
    twin.G.double()
    twin.D.double()
    return twin


def distance(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor], prefix: str) -> float:
    """Relative error of all tensors under a prefix taken as one long vector."""
    names = [name for name in truth if name.startswith(prefix)]
    gap = sum((found[n].double() - truth[n].double()).square().sum() for n in names)
    length = sum(truth[n].double().square().sum() for n in names)
    return float((gap / length).sqrt())


# --- Rung 1: the same kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_begin_as_in_the_reference(name: str) -> None:
    arch = architecture(name)
    generator, discriminator = models.build(arch, seed=0)
    for network, twin in zip(
        (generator, discriminator),
        (reference.Generator(reference_layers(arch)[0]), reference.Discriminator(reference_layers(arch)[1])),
        strict=True,
    ):
        models.initialise(network, seed=7)
        torch.manual_seed(7)
        reference.initialise(twin)
        for key, value in twin.state_dict().items():
            assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_forward_is_bit_for_bit_the_reference(name: str) -> None:
    arch = narrow(name)
    twin = reference_twin(arch)
    fast = plan_twin(arch, twin, PLAIN)
    real_BCHW, z_BL = inputs(arch)
    for training in (True, False):
        for network in (twin.G, twin.D, fast.G, fast.D):
            network.train(training)
        assert torch.equal(fast.G(z_BL), twin.G(z_BL))
        assert torch.equal(fast.D(real_BCHW), twin.D(real_BCHW))
    assert fast.G(z_BL).shape == (BATCH, arch.channels, *arch.resolution)
    assert fast.D(real_BCHW).shape == (BATCH,)
    assert fast.G(z_BL * 100).abs().max() <= 1


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_is_bit_for_bit_the_reference(name: str, steps: int) -> None:
    arch = narrow(name)
    twin = reference_twin(arch)
    found = run(plan_twin(arch, twin, PLAIN), arch, steps)
    wanted = run(twin, arch, steps)
    different = [key for key, value in wanted.items() if not torch.equal(found[key], value)]
    assert not different, worst(errors(found, wanted))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_bit_for_bit_the_reference(objective: ObjectiveName, smoothing: float) -> None:
    if objective in ("hinge", "rpgan") and smoothing:
        smoothing = 0.0  # they have no labels to smooth; the configuration refuses it
    arch, recipe = narrow("dcgan28"), RecipeConfig(objective=objective, label_smoothing=smoothing)
    twin = reference_twin(arch, recipe)
    found = run(plan_twin(arch, twin, PLAIN, recipe), arch, 3)
    wanted = run(twin, arch, 3)
    # lsgan: one mean of squares may be rounded unlike the other's, so the bound is roundings, not bits
    assert worst(errors(found, wanted))[0] <= 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fused_adam_after_one_step(name: str) -> None:
    arch = narrow(name)
    twin = reference_twin(arch)
    found = run(plan_twin(arch, twin, FUSED), arch, 1)
    assert worst(errors(found, run(twin, arch, 1)))[0] <= 1e-5


@pytest.mark.parametrize("own", [False, True], ids=["a CUDA graph's stand-in", "a CPU's, with our kernels"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_replay_is_bit_for_bit_what_it_recorded(name: str, precision: Precision, own: bool) -> None:
    """What is recorded is held to the reference in the rungs below."""
    arch, twin = narrow(name), reference_twin(narrow(name))
    plan = Plan(precision=precision, stacked=own, kernels=own_kernels(CPU, precision) if own else ())
    replayed, eager = (plan_twin(arch, twin, replace(plan, replay=replay)) for replay in (True, False))
    found, wanted = run(replayed, arch, 3), run(eager, arch, 3)
    compared = [key for key in wanted if not key.startswith("grad")]  # of a replay Adam's running means tell them
    assert all(torch.equal(found[key], wanted[key]) for key in compared), worst(errors(found, wanted))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_full_width_is_bit_for_bit_the_reference(name: str) -> None:
    arch = architecture(name)
    twin = reference_twin(arch)
    found = run(plan_twin(arch, twin, PLAIN), arch, 1)
    wanted = run(twin, arch, 1)
    assert all(torch.equal(found[key], value) for key, value in wanted.items()), worst(errors(found, wanted))


# --- Rungs 2 and 3: another layout, a compiler ---------------------------------------------------------------------


def check_in_fp64(arch: Architecture, plan: Plan, steps: int = 20, recipe: RecipeConfig = PAPERS) -> None:
    """All numbers after many steps, where only a different computation can explain a difference."""
    twin = doubled(reference_twin(arch, recipe))
    found = run(doubled(plan_twin(arch, twin, plan, recipe)), arch, steps, double=True)
    wanted = run(twin, arch, steps, double=True)
    if (plan.capture or plan.replay) and recipe.d_steps > 1:
        wanted = {key: value for key, value in wanted.items() if not key.startswith("grad.D.")}
    metrics = {"loss_d", "loss_g", "d_real", "d_fake"}  # probabilities are reported in fp32
    assert worst(errors({k: found[k] for k in metrics}, {k: wanted[k] for k in metrics}))[0] <= 1e-6
    assert worst(errors(found, wanted) | dict.fromkeys(metrics, 0.0))[0] <= 1e-10


def check_in_fp32(arch: Architecture, plan: Plan, recipe: RecipeConfig = PAPERS) -> None:
    """After one step from equal weights: as close to the fp64 truth as the reference is."""
    twin = reference_twin(arch, recipe)
    exact = reference_twin(arch, recipe)
    found = run(plan_twin(arch, twin, plan, recipe), arch, 1)
    wanted = run(twin, arch, 1)
    truth = run(doubled(exact), arch, 1, double=True)
    for prefix in ("loss", "grad.D", "grad.G", "D.", "G."):
        bound = max(1e-5, 1.5 * distance(wanted, truth, prefix))
        assert distance(found, truth, prefix) <= bound, prefix


@pytest.mark.parametrize("name", LARGE_ONES_LATER)
def test_channels_last_in_fp64(name: str) -> None:
    check_in_fp64(narrow(name), CHANNELS_LAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan96", "dcgan112", "dcgan224", "dcgan192x96", "dcgan28x56"])
def test_other_sizes(name: str) -> None:
    arch = architecture(name, width=4)
    twin = reference_twin(arch)
    found = run(plan_twin(arch, twin, PLAIN), arch, 2)
    wanted = run(twin, arch, 2)
    assert all(torch.equal(found[key], value) for key, value in wanted.items()), worst(errors(found, wanted))
    for plan in (CHANNELS_LAST, STACKED):
        check_in_fp64(arch, plan, steps=3)


@pytest.mark.parametrize("name", LARGE_ONES_LATER)
def test_the_stacked_call_in_fp64(name: str) -> None:
    check_in_fp64(narrow(name), STACKED)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_replayed_in_fp64(name: str) -> None:
    check_in_fp64(narrow(name), REPLAYED, steps=5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_last_in_fp32(name: str) -> None:
    check_in_fp32(narrow(name), CHANNELS_LAST)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_last_is_kept_all_the_way(name: str) -> None:
    """A layout lost on the way costs a copy a layer and nobody would notice."""
    arch = narrow(name)
    fast = plan_twin(arch, reference_twin(arch), CHANNELS_LAST)
    lost = []

    def note(module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        layout = torch.channels_last
        if output.dim() == 4 and min(output.shape[1:]) > 1 and not output.is_contiguous(memory_format=layout):
            lost.append(module)

    for network in (fast.G, fast.D):
        for module in network.modules():
            module.register_forward_hook(note)
    fast.step(*inputs(arch))
    assert not lost


@pytest.mark.parametrize("name", LARGE_ONES_LATER)
def test_traces_without_graph_break(name: str) -> None:
    check_in_fp64(narrow(name), TRACED, steps=2)


@pytest.mark.slow
@pytest.mark.exhaustive
@needs_compiler
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inductor_in_fp32(name: str) -> None:
    check_in_fp32(narrow(name), INDUCTOR)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", BOTH_LAYOUTS)
def test_inductor_in_fp64(name: str) -> None:
    check_in_fp64(narrow(name), INDUCTOR)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", BOTH_LAYOUTS)
def test_inductor_replayed_in_fp64(name: str) -> None:
    check_in_fp64(narrow(name), Plan(backend=COMPILED, replay=True), steps=5)


# --- bf16 and fp16 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE_ONES_LATER)
def test_bf16_errs_no_more_than_the_reference_under_autocast(name: str) -> None:
    """The median over a few batches: on a single one either may be lucky with the roundings of a loss."""
    arch = narrow(name)
    ours: dict[str, list[float]] = {"loss": [], "grad.D": [], "grad.G": []}
    references: dict[str, list[float]] = {prefix: [] for prefix in ours}
    for batch in range(5):
        truth = run(doubled(reference_twin(arch)), arch, 1, double=True, first=batch)
        found = run(plan_twin(arch, reference_twin(arch), Plan(precision="bf16")), arch, 1, first=batch)
        wanted = run(reference_twin(arch, autocast=True), arch, 1, first=batch)
        for prefix in ours:
            ours[prefix].append(distance(found, truth, prefix))
            references[prefix].append(distance(wanted, truth, prefix))
    for prefix in ours:
        assert median(ours[prefix]) <= max(1e-3, 1.5 * median(references[prefix])), prefix


def test_bf16_learns_from_the_updated_discriminator() -> None:
    """Autocast's cache of bf16 weights must not carry D's old weights into the generator's phase."""
    arch = narrow("dcgan64")
    full = reference_twin(arch)
    half = plan_twin(arch, reference_twin(arch), Plan(precision="bf16"))
    for optimizer_step in range(2):
        wanted, found = full.step(*inputs(arch, optimizer_step)), half.step(*inputs(arch, optimizer_step))
    assert found["loss_g"].item() == pytest.approx(wanted["loss_g"].item(), rel=0.05)


@pytest.mark.parametrize("name", ["dcgan28", "dcgan64"])
def test_fp16_with_gradient_scaling_on_the_cpu(name: str) -> None:
    arch = narrow(name)
    twin = reference_twin(arch)
    fast = plan_twin(arch, twin, Plan(precision="fp16"))
    assert fast.state is not None
    for scaler in (fast.state.scaler_g, fast.state.scaler_d):
        # A scale at which nothing overflows: the default one begins by skipping steps until it has found one.
        scaler.load_state_dict({**scaler.state_dict(), "scale": 128.0})
    wanted, found = run(twin, arch, 1), run(fast, arch, 1)
    for key in ("loss_d", "loss_g", "d_real", "d_fake"):
        assert found[key].item() == pytest.approx(wanted[key].item(), rel=0.02), key
    unscaled = {key: value / 128 for key, value in found.items()}  # the fused update divides by the scale as it goes
    for prefix in ("grad.D", "grad.G"):
        assert distance(unscaled, wanted, prefix) <= 0.1, prefix


def test_fp16_finds_its_scale() -> None:
    """At first the scaled gradients overflow: such steps are skipped, the scale halves, and training goes on."""
    arch = narrow("dcgan64")
    twin = reference_twin(arch)
    fast = plan_twin(arch, twin, Plan(precision="fp16"))
    assert fast.state is not None
    for scaler in (fast.state.scaler_g, fast.state.scaler_d):
        scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**30})
    before = {key: value.clone() for key, value in numbers(fast).items()}
    after = run(fast, arch, 30)
    assert fast.state.scaler_d.get_scale() < 2.0**30
    weights = [key for key in before if key.endswith("weight")]
    assert all(torch.isfinite(after[key]).all() and not torch.equal(after[key], before[key]) for key in weights)
    assert after["d_real"] > after["d_fake"]
