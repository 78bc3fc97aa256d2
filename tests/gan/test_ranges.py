"""Profiler ranges: recorded while a profiler is active, else not created, and without effect on results."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.capture import CapturedStep
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import models, ranges
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.ranges import profiler_operator, profiler_range
from fastdcgan.gan.step import TrainState

TINY = architecture("dcgan16", width=4, latent_dim=6)

OF_EVERY_STEP = {
    *(ranges.GENERATOR, ranges.GENERATOR_LOSS, ranges.METRICS),
    *(ranges.BACKWARD_D, ranges.OPTIMIZER_D, ranges.BACKWARD_G, ranges.OPTIMIZER_G),
}


def prepared(plan: Plan, parts: int = 1) -> TrainState:
    return prepare(plan, *models.build(TINY, seed=0), RecipeConfig(accumulate=parts), torch.device("cpu"))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 16, 16, generator=generator), torch.randn(4, 6, generator=generator)


def names_of(profiled: profile) -> list[str]:
    return [event.name for event in profiled.events()]


def cpu_profiler() -> profile:
    return profile(activities=[ProfilerActivity.CPU], acc_events=True)


@pytest.mark.parametrize(
    ("plan", "parts", "discriminator_ranges"),
    [
        (Plan(), 1, {ranges.DISCRIMINATOR_REAL, ranges.DISCRIMINATOR_FAKE}),
        (Plan(stacked=True), 1, {ranges.DISCRIMINATOR_BOTH}),
        (Plan(), 2, {ranges.DISCRIMINATOR_REAL, ranges.DISCRIMINATOR_FAKE}),
        (Plan(backend="eager"), 1, {ranges.DISCRIMINATOR_REAL, ranges.DISCRIMINATOR_FAKE}),
    ],
    ids=["plain", "stacked", "in parts", "compiled"],
)
def test_a_step_names_its_parts(plan: Plan, parts: int, discriminator_ranges: set[str]) -> None:
    take_step = step_function(plan, prepared(plan, parts))
    take_step(*batch())
    with cpu_profiler() as profiled:
        take_step(*batch())
    assert set(names_of(profiled)) & set(ranges.ALL_RANGES) == OF_EVERY_STEP | discriminator_ranges


def test_both_words_are_in_the_name_of_the_stacked_call() -> None:
    assert ranges.DISCRIMINATOR_REAL in ranges.DISCRIMINATOR_BOTH
    assert ranges.DISCRIMINATOR_FAKE in ranges.DISCRIMINATOR_BOTH


def test_a_profiler_does_not_change_results() -> None:
    alone, watched = (prepared(Plan()) for _ in range(2))
    for _ in range(2):
        figures = step_function(Plan(), alone)(*batch())
        with cpu_profiler():
            seen = step_function(Plan(), watched)(*batch())
        assert all(torch.equal(a, b) for a, b in zip(figures, seen, strict=True))
    for name, tensor in alone.discriminator.state_dict().items():
        assert torch.equal(tensor, watched.discriminator.state_dict()[name])


def test_no_range_is_created_without_a_profiler() -> None:
    assert profiler_range("a") is profiler_range("b") is profiler_operator("c", [])
    with cpu_profiler():
        assert profiler_range("a") is not profiler_range("b")


def test_a_captured_step_is_one_graph_and_not_compiled_again_for_a_profiler() -> None:
    plan = Plan(backend="eager", capture=True)
    take_step = CapturedStep(prepared(replace(plan)), "eager")
    take_step(*batch())
    with torch._dynamo.config.patch(error_on_recompile=True), cpu_profiler() as profiled:
        take_step(*batch())
    assert set(names_of(profiled)) & set(ranges.ALL_RANGES) == {ranges.CAPTURED_STEP}
