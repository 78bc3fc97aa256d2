"""The moving average of G, against its definition written out in fp64."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_states import ARCH, fresh, load, save, train

from fastdcgan.execution.plan import Plan
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.average import RAMP, MovingAverage, decay_at, half_life, steps_taken_in
from fastdcgan.gan.step import TrainState
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.record import Progress


def with_average(state: TrainState, decay: float = 0.9) -> TrainState:
    return replace(state, average=MovingAverage(state.generator, decay))


def learn(state: TrainState, *steps: int) -> None:
    assert state.average is not None
    for step in steps:
        train(state, step)
        state.average.update(step)


@pytest.mark.parametrize("ramp", [RAMP, 0.5])
def test_it_is_the_average_of_weights_and_statistics(ramp: float) -> None:
    state = fresh()
    state = replace(state, average=MovingAverage(state.generator, 0.9, ramp))
    assert state.average is not None
    wanted = {name: tensor.double() for name, tensor in state.generator.state_dict().items()}
    for step in range(1, 6):
        learn(state, step)
        decay = min(0.9, 2 ** (-1 / (ramp * step)))
        for name, tensor in state.generator.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * tensor.double()
    found = state.average.network.state_dict()
    numbers = [name for name, tensor in found.items() if tensor.is_floating_point()]
    assert any("running_var" in name for name in numbers)
    for name in numbers:
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=1e-5, atol=1e-7)
        assert not torch.equal(found[name], state.generator.state_dict()[name]), name


def test_each_update_stands_for_the_steps_since_the_last() -> None:
    """So what G was is forgotten by as much as if each step were taken in."""
    assert [sum(map(steps_taken_in, range(1, last + 1))) for last in (1, 5, 64, 71, 72, 800)] == [1, 5, 64, 64, 72, 800]
    network = models.build(architecture("dcgan16", width=4), seed=0)[0]
    average = MovingAverage(network, 0.99)
    (before, *_), (now, *_) = average.network.parameters(), network.parameters()
    with torch.no_grad():
        before.fill_(1.0)
        now.fill_(0.0)
    for step in range(8001, 8401):
        average.update(step)
    assert before.unique().tolist() == pytest.approx([0.99**400], rel=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_in_pieces_it_is_bit_for_bit_what_it_is_in_one(layout: torch.memory_format) -> None:
    network = models.build(architecture("dcgan32"), seed=0)[0].to(memory_format=layout)  # type: ignore[call-overload]
    assert max(parameter.numel() for parameter in network.parameters()) > 10 * 32_000
    average = MovingAverage(network, 0.9)
    wanted = {name: tensor.clone() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    for step in (1, 1000):
        for name, tensor in network.state_dict().items():
            if name in wanted:
                tensor.add_(torch.randn_like(tensor))
                wanted[name].lerp_(tensor, 1 - decay_at(step, 0.9) ** steps_taken_in(step))
        average.update(step)
    found = average.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_its_half_life_grows_with_the_run_up_to_that_of_the_decay() -> None:
    assert decay_at(1, 0.999) < 1e-5  # the first step replaces the initial weights
    assert decay_at(1000, 0.999) == pytest.approx(2 ** (-1 / 50))
    assert decay_at(1_000_000, 0.999) == 0.999
    assert half_life(0.999) == pytest.approx(692.8, abs=0.1)
    assert math.isclose(0.999 ** half_life(0.999), 0.5)


def test_training_is_the_same_with_and_without() -> None:
    plain, averaged = fresh(), with_average(fresh())
    train(plain, 1, 2, 3)
    learn(averaged, 1, 2, 3)
    wanted = plain.generator.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in averaged.generator.state_dict().items())


def test_pictures_are_made_with_it_where_there_is_one() -> None:
    plain, averaged = fresh(), with_average(fresh())
    assert averaged.average is not None
    assert plain.sampler is plain.generator
    assert averaged.sampler is averaged.average.network
    assert not any(parameter.requires_grad for parameter in averaged.sampler.parameters())


@pytest.mark.parametrize("plan", [Plan(), Plan(capture=True, backend="aot_eager")], ids=str)
def test_it_goes_on_from_a_checkpoint(plan: Plan, tmp_path: Path) -> None:
    uninterrupted = with_average(fresh(plan))
    learn(uninterrupted, 1, 2)
    path = save(tmp_path, uninterrupted, ARCH, Progress(step=2), keep=3)
    resumed = with_average(fresh(plan, seed=99))
    load(path, resumed, ARCH)
    for state in (uninterrupted, resumed):
        learn(state, 3, 4)
    assert resumed.average is not None and uninterrupted.average is not None
    wanted = uninterrupted.average.network.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in resumed.average.network.state_dict().items())


def test_a_run_that_had_none_begins_one_where_it_is(tmp_path: Path) -> None:
    before = fresh()
    train(before, 1, 2)
    path = save(tmp_path, before, ARCH, Progress(step=2), keep=3)
    after = with_average(fresh(seed=99))
    load(path, after, ARCH)
    wanted = before.generator.state_dict()
    assert after.average is not None
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in after.average.network.state_dict().items())


def test_a_checkpoint_gives_the_average_or_the_generator_itself(tmp_path: Path) -> None:
    state = with_average(fresh())
    learn(state, 1, 2)
    path = save(tmp_path, state, ARCH, Progress(step=2), keep=3)
    generator, _ = models.build(ARCH, seed=5)
    assert state.average is not None
    for raw, network in ((False, state.average.network), (True, state.generator)):
        tensors, _ = checkpoint.read_generator(path, generator, ARCH, None, raw=raw)
        wanted = network.state_dict()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())
