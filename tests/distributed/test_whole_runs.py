"""Runs of several processes, from a configuration to a folder: resumed on fewer and on more, and failing."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import on_ranks
from safetensors.torch import load_file
from torch import Tensor

from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.distributed.accelerator import Accelerator
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import TakeStep
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.models import Discriminator, Generator
from fastdcgan.gan.spectral import build_for
from fastdcgan.gan.step import StepMetrics, TrainState
from fastdcgan.runs.sampling import generate
from fastdcgan.training import recorder, setup, trainer

pytestmark = pytest.mark.slow


def request(data: Path, out: Path, steps: int, batch_norm: str = "sync") -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(arch="dcgan16", width=4, latent_dim=6),
        data=DataConfig(data=str(data), batch_size=8, decoder="pillow", flip=True),
        recipe=RecipeConfig(batch_norm=batch_norm),  # type: ignore[arg-type]
        execution=ExecutionConfig(device="cpu", plan="default", precision="fp32", compile="off", threads=1),
        run=RunConfig(out=out, images=8 * steps, checkpoint_every=3, log_every=1, track="none"),
    )


def bend_a_weight(state: TrainState) -> None:
    state.discriminator.layers[2].weight.data[0, 0, 0, 0] += 1e-9


def bend_a_moment(state: TrainState) -> None:
    """The last one there is to compare."""
    *_, last = state.discriminator.parameters()
    state.optimizer_d.state[last]["exp_avg_sq"][-1, -1, -1, -1] += 1e-9


def train(
    accelerator: Accelerator,
    config: TrainConfig,
    bent_after: int | None = None,
    bend: Callable[[TrainState], None] = bend_a_weight,
) -> str:
    """A whole run in fp64, so that only a different computation can tell runs apart. Returns how it failed, if it did.

    After the step `bent_after` one number of process 1 is bent.
    """
    step_function = trainer.step_function

    def double(recipe: RecipeConfig, arch: Architecture, seed: int) -> tuple[Generator, Discriminator]:
        G, D = build_for(recipe, arch, seed)
        return G.double(), D.double()

    def in_fp64(plan: Plan, state: TrainState) -> TakeStep:
        step, taken = step_function(plan, state), 0

        def take(real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
            nonlocal taken
            metrics, taken = step(real_BCHW.double(), z_BL.double()), taken + 1
            if taken == bent_after and accelerator.process_index == 1:
                bend(state)
            return metrics

        return take

    setup.build_for, trainer.step_function = double, in_fp64
    recorder.generate = lambda G, z_BL: generate(G, z_BL.double()).float()
    try:
        trainer.train(config)
    except ValueError as error:
        return str(error)
    return ""


def learned(run: Path, step: int) -> dict[str, Tensor]:
    return {
        f"{file.stem}.{name}": tensor
        for file in sorted((run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def curve(run: Path) -> list[list[float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[record[key] for key in ("step", "loss_d", "loss_g", "d_real", "d_fake")] for record in records]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps on one process."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert on_ranks(1, train, request(photos, out, steps=6)) == [""]
    return out


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on(
    before: int, after: int, photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for ranks, steps in ((before, 3), (after, 6)):
        assert on_ranks(ranks, train, request(photos, out, steps)) == [""] * ranks
        assert json.loads((out / "config.json").read_text())["conditions"]["processes"] == ranks
    torch.testing.assert_close(learned(out, 6), learned(undisturbed, 6), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(curve(out), curve(undisturbed), rtol=1e-6)


def test_two_processes_begin_with_another_runs_weights_as_one_does(
    photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for ranks in (1, 2):
        asked = request(photos, tmp_path / str(ranks), steps=3)
        asked = replace(asked, run=replace(asked.run, init_from=str(undisturbed)))
        assert on_ranks(ranks, train, asked) == [""] * ranks
    one, two = (learned(tmp_path / name, 3) for name in "12")
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)
    assert one["optimizer.generator.layers.0.weight.step"] == 9, "with the moments of 6 steps"


def test_two_processes_go_back_as_one_does(photos: Path, undisturbed: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        shutil.copytree(undisturbed, out := tmp_path / str(ranks))
        asked = request(photos, out, steps=6)
        recipe, run = replace(asked.recipe, lr=1e-3), replace(asked.run, from_step="3")
        assert on_ranks(ranks, train, replace(asked, recipe=recipe, run=run)) == [""] * ranks
        assert [path.name for path in (out / "set-aside").iterdir()] == ["1"]
    one, two = (learned(tmp_path / name, 6) for name in "12")
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)
    assert any((one[name] != tensor).any() for name, tensor in learned(undisturbed, 6).items())


def test_two_processes_refuse_alike_to_go_back_to_what_is_damaged(
    photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, out := tmp_path / "run")
    (out / "checkpoints" / "step-00000003" / "generator.safetensors").write_bytes(b"")
    asked = request(photos, out, steps=6)
    failures = on_ranks(2, train, replace(asked, run=replace(asked.run, from_step="3")))
    assert failures[0] == failures[1] and "step-00000003 is damaged" in failures[0]
    assert not (out / "set-aside").exists()


def test_another_kind_of_batch_norm_is_another_run(photos: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    (failure,) = on_ranks(1, train, request(photos, tmp_path / "run", 9, batch_norm="local"))
    assert "--batch-norm: sync, now local" in failure


@pytest.mark.parametrize("batch_norm", ["sync", "local"])
def test_networks_that_drift_apart_end_the_run(batch_norm: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    failures = on_ranks(2, train, request(photos, out, 9, batch_norm), 5)
    assert failures[0] == failures[1]
    # In which they were parted: at the grid that is due then, before a checkpoint is.
    assert failures[0].startswith(("after step 5 generator.", "after step 5 discriminator."))
    assert "on process 1 is not what it is on process 0" in failures[0]
    assert f"the last good checkpoint is {out / 'checkpoints' / 'step-00000003'}" in failures[0]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_moment_that_differs_is_named(photos: Path, tmp_path: Path) -> None:
    """Found at the checkpoint after the same step, before any weight shows it."""
    failures = on_ranks(2, train, request(photos, tmp_path / "run", 6), 3, bend_a_moment)
    named = r"discriminator\.layers\.\d+\.weight\.exp_avg_sq on process 1 is not what it is on process 0"
    assert failures[0] == failures[1]
    assert re.match(f"after step 3 {named}: training has failed; no checkpoint was written yet", failures[0])
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("batch", "parts", "ranks", "why"),
    [
        (7, 1, 2, "--batch-size 7 is the global batch and must be a multiple of the 2 processes: 6 or 8"),
        (8, 3, 1, "--batch-size 8 can't be taken in --accumulate 3 equal parts: 6 or 9"),
        (8, 8, 2, "--batch-size 8 can't be taken in --accumulate 8 equal parts in each of the 2 processes: 16"),
    ],
)
def test_a_batch_that_does_not_divide(
    batch: int, parts: int, ranks: int, why: str, photos: Path, tmp_path: Path
) -> None:
    asked = request(photos, tmp_path / "run", 3)
    recipe, data = replace(asked.recipe, accumulate=parts), replace(asked.data, batch_size=batch)
    assert on_ranks(ranks, train, replace(asked, recipe=recipe, data=data)) == [why] * ranks
    assert not (tmp_path / "run").exists()
