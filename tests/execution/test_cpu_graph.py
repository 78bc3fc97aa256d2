"""The step that is replayed on a CPU against the one that is run, bit for bit; and where what it needs lies."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import pytest
import torch
from test_replay import made as made_without_kernels
from test_replay import numbers, same
from torch import Tensor
from twins import inputs, narrow

from fastdcgan.config import ExecutionConfig, RecipeConfig
from fastdcgan.execution import cpu_graph
from fastdcgan.execution.cpu_graph import CpuGraph
from fastdcgan.execution.plan import Plan, Precision, choose_plan, own_kernels
from fastdcgan.execution.prepare import TakeStep, prepare, step_function
from fastdcgan.execution.replay import CpuReplayedStep
from fastdcgan.gan import models, ranges
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.augment import NUMBERS
from fastdcgan.gan.step import StepMetrics, TrainState, penalise, train_step
from fastdcgan.kernels import native, recorded, winograd
from fastdcgan.tuning.implementations import build_for

CPU = torch.device("cpu")
KERNELS = own_kernels(CPU, "fp32")

RECIPES = {
    "plain": RecipeConfig(),
    "hinge, micro-batches": RecipeConfig(objective="hinge", accumulate=2),
    "least squares, D learns twice": RecipeConfig(objective="lsgan", d_steps=2),
    "augmented": RecipeConfig(augment="colour,translation,cutout"),
    "relativistic, spectral norm, LeCam, R1": RecipeConfig(
        objective="rpgan", spectral_norm=True, lecam=0.3, r1=3.0, r1_every=2
    ),
}

Both = tuple[tuple[TrainState, TakeStep], tuple[TrainState, TakeStep]]


def both(name: str = "dcgan28", recipe: RecipeConfig = RECIPES["plain"], **plan: object) -> Both:
    """A state and its step, replayed, and another one that is run."""
    arch = narrow(name)

    def made(replay: bool) -> tuple[TrainState, TakeStep]:
        planned = Plan(**{"kernels": KERNELS, "stacked": True, "replay": replay, **plan})  # type: ignore[arg-type]
        state = prepare(planned, *build_for(recipe, arch, seed=0), recipe, CPU)
        return state, step_function(planned, state)

    return made(True), made(False)


def batch_of(name: str, recipe: RecipeConfig, number: int) -> tuple[Tensor | None, ...]:
    real_BCHW, z_BL = inputs(narrow(name), number)
    if recipe.d_steps > 1:
        real_BCHW, z_BL = real_BCHW.repeat(recipe.d_steps, 1, 1, 1), z_BL.repeat(recipe.d_steps, 1)
    draws_BN = (
        torch.rand(len(z_BL), 2 * NUMBERS, generator=torch.Generator().manual_seed(number))
        if recipe.augmentation()
        else None
    )
    return real_BCHW, z_BL, draws_BN


@pytest.mark.parametrize("kernels", [KERNELS, ()], ids=["own kernels", "PyTorch's"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_replay_is_bit_for_bit_the_step(recipe: RecipeConfig, kernels: tuple[str, ...]) -> None:
    (replayed, step), (run, wanted_step) = both(recipe=recipe, kernels=kernels)
    kept = []
    for number in range(1, 6):
        batch = batch_of("dcgan28", recipe, number)
        kept.append((step(*batch), wanted_step(*batch)))
        for state in (replayed, run):
            penalise(state, number, *batch)  # type: ignore[arg-type]
        assert same(numbers(replayed), numbers(run)), number
    assert all(same(list(found), list(wanted)) for found, wanted in kept), "metrics are not those of their own step"
    assert isinstance(step, CpuReplayedStep)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["dcgan16", "dcgan64"])
def test_every_precision_and_depth(name: str, precision: Precision) -> None:
    (replayed, step), (run, wanted_step) = both(name, kernels=own_kernels(CPU, precision), precision=precision)
    for number in range(4):
        batch = inputs(narrow(name), number)
        assert same(list(step(*batch)), list(wanted_step(*batch)))
    assert same(numbers(replayed), numbers(run))


def gradients(state: TrainState) -> list[Tensor]:
    networks = state.generator, state.discriminator
    found = [parameter.grad for network in networks for parameter in network.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


def test_gradients_are_those_of_the_last_step() -> None:
    """Who looks at them after a step finds them where they are after any step."""
    (replayed, step), (run, wanted_step) = both()
    for number in range(4):
        batch = inputs(narrow("dcgan28"), number)
        step(*batch)
        wanted_step(*batch)
        assert same(gradients(replayed), gradients(run)), number


def test_a_state_that_was_loaded_is_what_goes_on() -> None:
    (replayed, step), (run, wanted_step) = both()
    for number in range(6):
        if number == 3:
            for to, source in ((replayed.generator, run.generator), (replayed.discriminator, run.discriminator)):
                to.load_state_dict(source.state_dict())
            for adam, source_adam in ((replayed.optimizer_g, run.optimizer_g), (replayed.optimizer_d, run.optimizer_d)):
                adam.load_state_dict(deepcopy(source_adam.state_dict()))  # other tensors
        batch = inputs(narrow("dcgan28"), number)
        step(*batch)
        wanted_step(*batch)
        assert same(numbers(replayed), numbers(run)), number


def test_python_runs_no_more_once_a_step_is_recorded() -> None:
    calls = 0

    def counting(state: TrainState, *batch: Tensor) -> StepMetrics:
        nonlocal calls
        calls += 1
        return train_step(state, *batch)

    step = CpuReplayedStep(made_without_kernels(), counting)
    for number in range(5):
        step(*inputs(narrow("dcgan28"), number))
    assert calls == 2


def test_a_recording_that_failed_is_not_replayed() -> None:
    fails = [False, True, False, False, False]

    def interrupted(state: TrainState, *batch: Tensor) -> StepMetrics:
        metrics = train_step(state, *batch)
        if fails.pop(0):
            raise KeyboardInterrupt
        return metrics

    state, plain = made_without_kernels(), made_without_kernels()
    step = CpuReplayedStep(state, interrupted)
    for number in range(5):
        batch = inputs(narrow("dcgan28"), number)
        train_step(plain, *batch)
        if number == 1:
            with pytest.raises(KeyboardInterrupt):
                step(*batch)
        else:
            step(*batch)
    assert same(numbers(state), numbers(plain)) and len(fails) == 2


def test_a_number_that_is_read_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="read on the host"):
        CpuGraph().record(lambda: torch.ones(3) * torch.ones(3).sum().item())


def test_memory_is_shared_by_what_is_not_in_use_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    block = cpu_graph.block
    monkeypatch.setattr(cpu_graph, "block", lambda size: sizes.append(size) or block(size))
    x = torch.rand(1 << 16)
    graph = CpuGraph()

    def chain() -> Tensor:
        y = x
        for _ in range(20):
            y = y * 1.5 + 0.25
        return y.sum()

    found = graph.record(chain)
    assert sizes[0] < 3 * x.nbytes + 4096, "two at a time are in use"
    for _ in range(2):
        x.copy_(torch.rand(1 << 16))
        graph.replay()
        assert torch.equal(found, chain())


def test_what_is_filled_once_is_not_what_is_changed_later() -> None:
    x, graph, kept = torch.rand(8), CpuGraph(), []

    def call() -> Tensor:
        ones, changed = torch.ones_like(x), torch.zeros_like(x)
        changed.add_(x)
        kept.append(torch.ones_like(x))
        return (ones + changed + kept[-1]).sum()

    found = graph.record(call)
    for _ in range(3):
        x.mul_(2)
        kept[0].zero_()
        graph.replay()
        assert torch.equal(found, call())


@pytest.mark.skipif(not KERNELS[1:], reason="needs our C++ kernels")
def test_what_another_thread_does_meanwhile_is_not_recorded() -> None:
    big_BCHW = torch.rand(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    kernels: list[str] = []
    parts: list[str] = []

    def gather() -> list[str]:
        with ranges.profiler_range(ranges.SAMPLES):
            winograd.KERNELS.gather(big_BCHW, torch.rand(32, 16, 4, 4))
            return list(parts)

    @contextmanager
    def report(function: object, name: str, arguments: object) -> Iterator[None]:
        kernels.append(name)
        yield

    with recorded.reported_to(report), ranges.reported_to(parts):
        with ThreadPoolExecutor(1) as other:
            assert other.submit(gather).result() == [] == kernels
        assert gather() == [ranges.SAMPLES]
    assert kernels == ["winograd_pack_gather", "winograd_gather"] and not parts


def test_a_profiler_sees_the_parts_and_the_kernels_of_a_replay() -> None:
    (_, step), _ = both()
    for number in range(3):
        step(*inputs(narrow("dcgan28"), number))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step(*inputs(narrow("dcgan28"), 3))
    names = {event.key for event in profiler.key_averages()}
    parts = {
        ranges.GENERATOR,
        ranges.DISCRIMINATOR_BOTH,
        ranges.BACKWARD_D,
        ranges.OPTIMIZER_D,
        ranges.GENERATOR_LOSS,
        ranges.BACKWARD_G,
        ranges.OPTIMIZER_G,
    }
    assert parts <= names
    if not isinstance(native.library(), str):
        assert {"fastdcgan::winograd_gather", "fastdcgan::normalise_forward"} <= names


def test_where_a_step_is_replayed_by_default() -> None:
    chosen = partial(choose_plan, device=CPU)
    assert chosen(ExecutionConfig()).replay == ("norm" in chosen(ExecutionConfig()).kernels)
    assert not chosen(ExecutionConfig(compile="off")).replay
    assert chosen(ExecutionConfig(), world_size=2) == chosen(ExecutionConfig())
    assert not chosen(ExecutionConfig(exact_ranks=2)).replay
    assert chosen(ExecutionConfig(compile="replay")).replay


@pytest.mark.skipif(not KERNELS[1:], reason="needs our C++ kernels")
def test_a_full_step_of_the_papers_network_is_the_same_bits() -> None:
    arch = architecture("dcgan28")
    kernels = {"kernels": KERNELS, "stacked": True}
    steps = []
    for replay in (True, False):
        plan = Plan(replay=replay, **kernels)  # type: ignore[arg-type]
        state = prepare(plan, *models.build(arch, seed=0), RecipeConfig(), CPU)
        steps.append((state, step_function(plan, state)))
    (replayed, step), (run, wanted_step) = steps
    for number in range(4):
        batch = inputs(arch, number)
        assert same(list(step(*batch)), list(wanted_step(*batch)))
    assert same(numbers(replayed), numbers(run))
