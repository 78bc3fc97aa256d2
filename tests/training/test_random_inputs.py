"""Noise and the augmentation's numbers: those of their step, and of their rank."""

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastdcgan.config import DataConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.training.trainer import draws, noise, random_inputs


def run_with(
    augmentation: tuple[str, ...],
    *,
    labels: object = None,
    rank: int = 0,
    parts: int = 2,
    stream: Stream = Stream.NOISE_BY_TABLE,
) -> Any:
    return SimpleNamespace(
        config=TrainConfig(data=DataConfig(batch_size=8), run=RunConfig(seed=3), recipe=RecipeConfig(accumulate=parts)),
        accelerator=SimpleNamespace(process_index=rank, num_processes=2, device=torch.device("cpu")),
        arch=SimpleNamespace(latent_dim=6),
        start=SimpleNamespace(rollbacks=1),
        state=SimpleNamespace(augmentation=augmentation),
        labels=labels,
        noise=stream,
    )


@pytest.mark.parametrize(("augmentation", "labels"), [((), None), ((), object()), (("color",), None)])
def test_a_step_gets_its_own_numbers(augmentation: tuple[str, ...], labels: object) -> None:
    run = run_with(augmentation, labels=labels, rank=1)
    noises = []
    for step in (1, 2, 9):
        z_BL, others = random_inputs(run, step)
        noises.append(z_BL)
        assert torch.equal(z_BL, noise(run, step)), step
        wanted = draws(run, step)
        assert len(others) == len(wanted)
        assert all(b is None if a is None else torch.equal(a, b) for a, b in zip(wanted, others, strict=True)), step
    assert not any(torch.equal(a, b) for a, b in combinations(noises, 2))


@pytest.mark.parametrize("stream", [Stream.NOISE, Stream.NOISE_BY_TABLE])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_ranks_share_out_what_one_process_draws(stream: Stream, parts: int) -> None:
    """Of each part of the batch, in order."""
    whole_PBL = latents(3, stream, 5 + (1 << 32), 8, 6).reshape(parts, -1, 6)
    shares = [noise(run_with((), rank=rank, parts=parts, stream=stream), 5).reshape(parts, -1, 6) for rank in (0, 1)]
    assert torch.equal(torch.cat(shares, dim=1), whole_PBL)
