"""A run that was killed and started again has, at its end, all that it would have had: bit for bit, CPU, fp32."""

import gzip
import signal
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import forked
import numpy as np
import pytest
import torch
from faults import sitting
from left_behind import BATCH, STEPS, array, left_behind, name_after_the_sitting, pictures
from PIL import Image
from safetensors.torch import load_file
from tables import write_hdf5, write_lmdb, write_parquet

from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.data.decoding.dali import dali_available
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import TakeStep
from fastdcgan.gan.step import StepMetrics, TrainState
from fastdcgan.training import trainer


class Killed(BaseException):
    """Stands for a signal that can't be caught, where the test itself must live on."""


def request(out: Path, data: Path | str, **options: Any) -> TrainConfig:
    """No two of the intervals divide each other, and an epoch ends in between."""
    d_steps = options["recipe"].d_steps if "recipe" in options else 1
    data_options = {name: options.pop(name) for name in ("decoder", "data_cache") if name in options}
    return TrainConfig(
        model=ModelConfig(
            arch="dcgan16",
            width=4,
            latent_dim=6,
            channels=options.pop("channels", 3),
            conditional=options.pop("conditional", False),
        ),
        data=DataConfig(data=str(data), batch_size=BATCH, flip=True, **data_options),
        recipe=options.pop("recipe", RecipeConfig()),
        execution=ExecutionConfig(device="cpu", plan="default", precision="fp32", threads=1, **options),
        run=RunConfig(out=out, images=STEPS * BATCH * d_steps, log_every=3, checkpoint_every=4, sample_every=2),
    )


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def kill_in(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next sitting ends in this step of its own, counted from 1."""
    step_function = trainer.step_function

    def killing(plan: Plan, state: TrainState) -> TakeStep:
        take, taken = step_function(plan, state), 0

        def step_or_die(*inputs: torch.Tensor) -> StepMetrics:
            nonlocal taken
            taken += 1
            if taken == step:
                raise Killed
            return take(*inputs)

        return step_or_die

    monkeypatch.setattr(trainer, "step_function", killing)


def go_through(asked: TrainConfig, deaths: tuple[int, ...]) -> None:
    """One sitting a death, and one that comes to the end."""
    for step in deaths:
        with pytest.MonkeyPatch.context() as patch:
            kill_in(step, patch)
            with pytest.raises(Killed):
                trainer.train(asked)
        name_after_the_sitting(cast(Path, asked.run.out))
    trainer.train(asked)


def shards(photographs: Path, folder: Path) -> str:
    for number in range(2):
        with tarfile.open(folder / f"train-{number}.tar", "w") as tar:
            for path in pictures(photographs)[number::2]:
                tar.add(path, f"{path.parent.name}-{path.name}")
    return str(folder / "train-{0..1}.tar")


def zipped(photographs: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in pictures(photographs):
            archive.write(path, f"{path.parent.name}-{path.name}")
    return folder / "photos.zip"


def idx(photographs: Path, folder: Path) -> Path:
    grey = [np.asarray(Image.open(path).convert("L").resize((16, 16))) for path in pictures(photographs)]
    header = struct.pack(">IIII", 0x803, len(grey), 16, 16)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + np.stack(grey).tobytes()))
    return folder


def some_photographs(photographs: Path, folder: Path) -> Path:
    for path in pictures(photographs):
        (folder / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    return folder


def recordings(photographs: Path, folder: Path) -> Path:
    for path in pictures(photographs):
        np.save(folder / f"{path.parent.name}-{path.stem}.npy", np.asarray(Image.open(path), np.float32) / 7 - 9)
    return folder


def encoded(photographs: Path) -> list[bytes]:
    return [path.read_bytes() for path in pictures(photographs)]


def hdf5(photographs: Path, folder: Path) -> Path:
    return write_hdf5(folder / "a.h5", np.load(array(photographs, folder)))


Make = Callable[[Path, Path], Path | str]

SOURCES: dict[str, tuple[Make, dict[str, Any]]] = {
    "a folder by Pillow": (some_photographs, {"decoder": "pillow", "data_cache": "off"}),
    "a pack": (some_photographs, {"decoder": "pillow", "data_cache": "on"}),
    "shards": (shards, {"decoder": "pillow", "data_cache": "off"}),
    "shards, packed": (shards, {"decoder": "pillow", "data_cache": "on"}),
    "a zip": (zipped, {"decoder": "pillow", "data_cache": "off"}),
    "a folder of npy": (recordings, {"data_cache": "off"}),
    "a folder of npy, packed": (recordings, {"data_cache": "on"}),
    "LMDB": (lambda photos, folder: write_lmdb(folder / "lmdb", encoded(photos)), {"decoder": "pillow"}),
    "parquet": (lambda photos, folder: write_parquet(folder / "a.parquet", encoded(photos)), {"decoder": "pillow"}),
    "HDF5": (hdf5, {"data_cache": "off"}),
    "an array": (array, {}),
    "idx files": (idx, {"channels": 1}),
    "faces": (lambda photographs, folder: "faces", {}),
}
if dali_available():
    SOURCES["a folder by DALI"] = (some_photographs, {"decoder": "dali", "data_cache": "off"})


@pytest.fixture(scope="module")
def undisturbed(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An array of pictures, and what a run over it leaves behind."""
    data = array(photographs, tmp_path_factory.mktemp("array"))
    run = tmp_path_factory.mktemp("run") / "undisturbed"
    trainer.train(request(run, data))
    return data, left_behind(run)


def test_what_is_compared_is_what_there_is(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, found = undisturbed
    assert [line["step"] for line in found["metrics"]] == [3, 4, 6, 8, 9, 11]
    assert [step for step, _ in found["curves"]["loss/G"]] == [3, 4, 6, 8, 9, 11]
    assert [step for step, _ in found["grids"]] == [0, 2, 4, 6, 8, 10, 11]
    assert len([name for name in found if name.startswith("samples")]) == 7
    assert len([name for name in found if name.endswith(".safetensors")]) == 12


@pytest.mark.parametrize("deaths", [(1,), (4,), (6, 1), (10, 3)], ids=str)
def test_whenever_it_is_killed(
    deaths: tuple[int, ...], undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Before the first step, before the first checkpoint, between checkpoints, in the step after one, and twice."""
    data, wanted = undisturbed
    go_through(request(tmp_path, data), deaths)
    assert_same(left_behind(tmp_path), wanted)


RECIPES = {
    "all together": RecipeConfig(
        d_steps=2, lr_d=4e-4, augment="colour,translation,cutout", spectral_norm=True, r1=1.0, r1_every=3, lecam=0.3
    ),
    "R3GAN's": RecipeConfig(objective="rpgan", r1=1.0, r2=0.5, r1_every=3),
}


@pytest.mark.parametrize("name", RECIPES)
def test_with_what_stabilises(name: str, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    data, plain = undisturbed
    trainer.train(request(tmp_path / "whole", data, recipe=RECIPES[name]))
    wanted = left_behind(tmp_path / "whole")
    go_through(request(tmp_path / "killed", data, recipe=RECIPES[name]), (6, 1))
    assert_same(left_behind(tmp_path / "killed"), wanted)
    assert wanted["metrics"] != plain["metrics"]


@pytest.mark.parametrize("recipe", [RecipeConfig(), RECIPES["all together"]], ids=["paper", "all together"])
def test_with_classes(recipe: RecipeConfig, photographs: Path, tmp_path: Path) -> None:
    def asked(name: str) -> TrainConfig:
        return request(tmp_path / name, photographs, conditional=True, recipe=recipe, decoder="pillow")

    trainer.train(asked("whole"))
    go_through(asked("killed"), (6, 1))
    assert_same(left_behind(tmp_path / "killed"), left_behind(tmp_path / "whole"))


@pytest.mark.slow(10)
@pytest.mark.parametrize("name", SOURCES)
def test_whatever_the_pictures_come_from(name: str, photographs: Path, tmp_path: Path) -> None:
    make, options = SOURCES[name]
    (tmp_path / "data").mkdir()
    data = make(photographs, tmp_path / "data")
    trainer.train(request(tmp_path / "undisturbed", data, **options))
    go_through(request(tmp_path / "killed", data, **options), (7, 2))
    assert_same(left_behind(tmp_path / "killed"), left_behind(tmp_path / "undisturbed"))


SAVED = "checkpoints/step-00000004"

KILLED = pytest.mark.slow(30)


@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills processes")
@pytest.mark.parametrize(
    ("compiled", "ranks"),
    [
        ("off", 1),
        pytest.param("off", 2, marks=KILLED),
        ("replay", 1),
        pytest.param("on", 1, marks=[KILLED, pytest.mark.exhaustive]),
        pytest.param("on", 2, marks=[KILLED, pytest.mark.exhaustive]),
        pytest.param("step", 1, marks=[KILLED, pytest.mark.exhaustive]),
        pytest.param("step", 2, marks=[KILLED, pytest.mark.exhaustive]),
    ],
)
def test_killed_with_9_eager_replayed_compiled_and_on_two_ranks(
    compiled: str, ranks: int, photographs: Path, tmp_path: Path
) -> None:
    killed_and_gone_on(array(photographs, tmp_path), ranks, tmp_path, "--compile", compiled)


@pytest.mark.slow(15)
@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills processes")
@pytest.mark.parametrize(
    "name",
    [
        "a zip",
        "HDF5",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("a folder of npy", "LMDB", "parquet")),
    ],
)
def test_two_ranks_killed_whatever_the_pictures_come_from(name: str, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    killed_and_gone_on(SOURCES[name][0](photographs, tmp_path / "data"), 2, tmp_path)


def killed_and_gone_on(data: Path | str, ranks: int, tmp_path: Path, *options: str) -> None:
    """All ranks die in the same step, twice; what is left is that of an undisturbed run."""
    command = partial(sitting.train, data)

    def sittings(out: str, dies_in: int | None = None) -> list[sitting.Sitting]:
        fault = sitting.Fault(what="kill", part="step", n=dies_in, once=SAVED) if dies_in else None
        told = forked.environments(ranks) if ranks > 1 else [{}]
        asked = command(tmp_path / out, *options)
        return [begun.wait() for begun in [sitting.begin(asked, fault, environment=rank) for rank in told]]

    for done in sittings("undisturbed"):
        assert done.code == 0, done.error
    for dies_in in (7, 3):
        died = sittings("killed", dies_in)
        codes = [one.code for one in died]
        assert -signal.SIGKILL in codes and 0 not in codes, died  # or one notices first that the other has gone
        name_after_the_sitting(tmp_path / "killed")
    first, *others = sittings("killed")
    assert first.code == 0 and "resuming  after step" in first.said, first.error
    assert [one.code for one in others] == [0] * (ranks - 1), others
    assert_same(left_behind(tmp_path / "killed"), left_behind(tmp_path / "undisturbed"))
    assert load_file(tmp_path / "killed" / "checkpoints" / f"step-{STEPS:08d}" / "generator.safetensors")
