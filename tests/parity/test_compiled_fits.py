"""A whole run with Inductor, at sizes that are odd or not square: from pictures to checkpoints, as the user's command.

After its first step it may be as far from the fp64 truth as the eager run is, as in `test_parity.py`; after that a GAN
magnifies roundings, and only the figures are compared.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learned import learned
from test_parity import distance, doubled, needs_compiler
from torch import Tensor
from twins import numbers, reference_twin

from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import TakeStep
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import StepMetrics, TrainState
from fastdcgan.runs.folder import RunFolder
from fastdcgan.training import trainer

STEPS, BATCH = 3, 4
WIDTH, LATENT_DIM = 4, 6

QUICKEST = ("64x128", "on")

RUNS = [
    pytest.param(shape, how, marks=() if (shape, how) == QUICKEST else pytest.mark.exhaustive)
    for shape in ("96", "112", "64x128", "192x96")
    for how in ("on", "step")
]


def fit(data: Path, out: Path, shape: str, compiled: str) -> Path:
    trainer.train(
        TrainConfig(
            model=ModelConfig(resolution=shape, width=WIDTH, latent_dim=LATENT_DIM),
            data=DataConfig(data=str(data), batch_size=BATCH),
            execution=ExecutionConfig(device="cpu", plan="default", precision="fp32", threads=1, compile=compiled),
            run=RunConfig(
                out=out, images=STEPS * BATCH, log_every=1, checkpoint_every=1, sample_every=100, track="none"
            ),
        )
    )
    return out


def watched(first: list[Any]) -> Callable[[Plan, TrainState], TakeStep]:
    """`trainer.step_function`, which keeps a run's weights at its start and the inputs of its first step."""
    step_function = trainer.step_function

    def watching(plan: Plan, state: TrainState) -> TakeStep:
        take = step_function(plan, state)

        def note(real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
            if not first:
                weights = [
                    {k: v.clone() for k, v in net.state_dict().items()}
                    for net in (state.generator, state.discriminator)
                ]
                first.extend((weights, real_BCHW.clone(), z_BL.clone()))
            return take(real_BCHW, z_BL)

        return note

    return watching


def weights_after_a_step(run: Path) -> dict[str, Tensor]:
    short = {"generator": "G", "discriminator": "D"}
    found = ((name.partition("."), tensor) for name, tensor in learned(run, 1).items())
    return {f"{short[label]}.{name}": tensor for (label, _, name), tensor in found if label in short}


def figures(run: Path) -> list[list[float]]:
    records = map(json.loads, RunFolder(run).metrics.read_text().splitlines())
    return [[record[name] for name in StepMetrics._fields] for record in records]


@pytest.mark.slow(20)
@needs_compiler
@pytest.mark.parametrize(("shape", "compiled"), RUNS)
def test_it_learns_what_the_eager_one_does(
    shape: str, compiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = architecture(f"dcgan{shape}", width=WIDTH, latent_dim=LATENT_DIM)
    pictures_NHWC = np.random.default_rng(0).integers(0, 256, (2 * BATCH, *arch.resolution, 3), np.uint8)
    np.save(tmp_path / "pictures.npy", pictures_NHWC)
    first: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "step_function", watched(first))
        eager = fit(tmp_path / "pictures.npy", tmp_path / "eager", shape, "off")
    found = fit(tmp_path / "pictures.npy", tmp_path / "compiled", shape, compiled)

    twin = reference_twin(arch)
    (weights_of_g, weights_of_d), real_BCHW, z_BL = first
    twin.G.load_state_dict(weights_of_g)
    twin.D.load_state_dict(weights_of_d)
    doubled(twin).step(real_BCHW.double(), z_BL.double())
    truth = numbers(twin)
    for prefix in ("D.", "G."):
        bound = max(1e-5, 1.5 * distance(weights_after_a_step(eager), truth, prefix))
        assert distance(weights_after_a_step(found), truth, prefix) <= bound, prefix
    torch.testing.assert_close(torch.tensor(figures(found)), torch.tensor(figures(eager)), rtol=0.05, atol=0.01)
    assert "inductor" in (found / "run.log").read_text()
