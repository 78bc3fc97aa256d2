"""Noise and the augmentation's numbers, drawn ahead by a thread: those of their step, and for no step too many."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastdcgan.config import DataConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.training import trainer
from fastdcgan.training.trainer import DRAWN_TOGETHER, draws, noise, random_inputs

TOTAL = 2 * DRAWN_TOGETHER + 3


def run_after(step: int, augmentation: tuple[str, ...], *, labels: object = None, rank: int = 0) -> Any:
    return SimpleNamespace(
        config=TrainConfig(data=DataConfig(batch_size=8), run=RunConfig(seed=3), recipe=RecipeConfig(accumulate=2)),
        accelerator=SimpleNamespace(process_index=rank, num_processes=2, device=torch.device("cpu")),
        arch=SimpleNamespace(latent_dim=6),
        schedule=SimpleNamespace(total=TOTAL),
        start=SimpleNamespace(step=step, rollbacks=1),
        state=SimpleNamespace(augmentation=augmentation),
        labels=labels,
    )


@pytest.mark.parametrize("step", [0, 1, DRAWN_TOGETHER, TOTAL - 1, TOTAL])
@pytest.mark.parametrize(("augmentation", "labels"), [((), None), ((), object()), (("color",), None)])
def test_each_step_gets_its_own_numbers(step: int, augmentation: tuple[str, ...], labels: object) -> None:
    run = run_after(step, augmentation, labels=labels, rank=1)
    found = list(random_inputs(run))
    assert len(found) == TOTAL - step
    for number, (z_BL, others) in enumerate(found, step + 1):
        assert torch.equal(z_BL, noise(run, number)), number
        wanted = draws(run, number)
        assert len(others) == len(wanted)
        assert all(b is None if a is None else torch.equal(a, b) for a, b in zip(wanted, others, strict=True)), number


def test_they_are_drawn_ahead_and_by_no_thread_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, threading.Thread]] = []

    def noted(run: Any, step: int) -> torch.Tensor:
        drawn.append((step, threading.current_thread()))
        return noise(run, step)

    monkeypatch.setattr(trainer, "noise", noted)
    inputs = random_inputs(run_after(0, ()))
    next(inputs)
    inputs.close()
    assert threading.current_thread() not in {thread for _, thread in drawn}
    assert not any(thread.is_alive() for _, thread in drawn)
    assert [step for step, _ in drawn] in (
        list(range(1, DRAWN_TOGETHER + 1)),
        list(range(1, 2 * DRAWN_TOGETHER + 1)),
    ), "the next ones, in order, and no more"


def test_what_goes_wrong_in_the_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(run: Any, step: int) -> torch.Tensor:
        raise MemoryError("no room for noise")

    monkeypatch.setattr(trainer, "noise", fails)
    with pytest.raises(MemoryError, match="no room for noise"):
        next(random_inputs(run_after(0, ())))
