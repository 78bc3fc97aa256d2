"""`fastdcgan evaluate` on real, tiny runs; with features that take no time, and once with the real ones."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from toy_extractor import ToyNetwork, toy_extractor

from fastdcgan import cli
from fastdcgan.config import DataConfig, ModelConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.evaluation import evaluate as module
from fastdcgan.evaluation.records import Evaluation, read_evaluations
from fastdcgan.runs.checkpoints.folder import read_best
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import RunFolder
from fastdcgan.training.trainer import train

PICTURES = 130


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "pictures.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (PICTURES, 16, 16, 3), dtype=np.uint8))
    return file


def trained(out: Path, data: Path, *, seed: int = 0, ema: float = 0.9) -> Path:
    train(
        TrainConfig(
            model=ModelConfig(arch="dcgan16", width=4, latent_dim=6),
            data=DataConfig(data=str(data), batch_size=10),
            recipe=RecipeConfig(ema=ema, lr=0.005),
            run=RunConfig(out=out, images=60, checkpoint_every=3, seed=seed, quiet=True),
        )
    )
    return out


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "run", data)


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ToyNetwork:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    toy = ToyNetwork()
    monkeypatch.setattr(module, "open_extractor", lambda *_: toy_extractor(toy))
    return toy


def evaluate(*arguments: object) -> None:
    cli.main(["evaluate", *map(str, arguments)])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        evaluate(*arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_average_and_last_weights_are_both_given(
    run: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(run)
    average, last = read_evaluations(run / "evaluations.jsonl")[0]
    assert (average.weights, last.weights) == ("average", "last")
    assert average.frechet is not None and average.frechet != last.frechet
    assert (average.step, average.images, average.training) == (6, 60, False)
    shown = capsys.readouterr().out
    assert f"{average.frechet:.2f}" in shown and f"{last.frechet:.2f}" in shown
    assert "In the features of a toy" in shown and f"{PICTURES} pictures on each side" in shown
    assert "all there are, fewer than --images 10,000" in shown


def test_as_many_pictures_of_each_side(run: Path, network: ToyNetwork) -> None:
    evaluate(run, "--images", 100, "--weights", "last")
    counts = [len(pictures) for pictures in network.seen]
    assert sum(counts) == 200, "100 real ones, and 100 generated"
    (one,) = read_evaluations(run / "evaluations.jsonl")[0]
    assert one.pictures == 100


def test_the_same_command_measures_the_same(run: Path, network: ToyNetwork) -> None:
    evaluate(run)
    seen = [pictures.clone() for pictures in network.seen]
    network.seen.clear()
    evaluate(run)
    generated = seen[len(seen) - len(network.seen) :]
    assert len(network.seen) < len(seen), "the real side was cached"
    assert all(torch.equal(a, b) for a, b in zip(generated, network.seen, strict=True))
    first, second = (read_evaluations(run / "evaluations.jsonl")[0][start::2] for start in (0, 1))
    for once, again in (first, second):
        assert asdict(once) | {"seconds": 0} == asdict(again) | {"seconds": 0}


def test_the_spread_over_sets_of_pictures_is_said(
    run: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(run, "--repeats", 3, "--weights", "average")
    found = read_evaluations(run / "evaluations.jsonl")[0]
    frechet = [one.frechet for one in found if one.frechet is not None]
    assert len(set(frechet)) == 3
    shown = capsys.readouterr().out
    assert f"{np.mean(frechet):.2f} ± {np.std(frechet, ddof=1):.2f}" in shown
    assert "±: standard deviation over sets of pictures" in shown


def test_the_spread_over_training_seeds_is_said(
    run: Path, data: Path, tmp_path: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trained(tmp_path / "other", data, seed=1)
    capsys.readouterr()
    evaluate(run, other, "--json", tmp_path / "figures.json")
    lines = json.loads((tmp_path / "figures.json").read_text())["evaluations"]
    assert [line["run"] for line in lines] == [str(run)] * 2 + [str(other)] * 2
    frechet = [line["frechet"] for line in lines if line["weights"] == "average"]
    shown = capsys.readouterr().out
    assert "all 2 runs" in shown
    assert f"{np.mean(frechet):.2f} ± {np.std(frechet, ddof=1):.2f}" in shown


def test_runs_on_other_pictures_have_no_common_mean(
    run: Path, tmp_path: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "others.npy", np.zeros((PICTURES, 16, 16, 3), np.uint8))
    other = trained(tmp_path / "other", tmp_path / "others.npy")
    evaluate(run, other)
    assert "all 2 runs" not in capsys.readouterr().out


def test_checkpoints_are_the_newest_or_a_named_one_or_all(
    run: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    for named in ("latest", "3", "all"):
        evaluate(run, "--checkpoint", named, "--weights", "last")
    assert [one.step for one in read_evaluations(run / "evaluations.jsonl")[0]] == [6, 3, 3, 6]
    assert "doesn't have a checkpoint of step 4 but those of steps 3, 6" in refusal(capsys, run, "--checkpoint", 4)


def test_the_best_of_all_is_told_by_the_figure_that_is_named(
    run: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = module.measure

    def measured(*arguments: Any, progress: Progress, **more: Any) -> Evaluation:
        found = measure(*arguments, progress=progress, **more)
        first = progress.step == 3
        return replace(found, kernel=0.1 if first else 0.2, frechet=9.0 if first else 8.0)

    monkeypatch.setattr(module, "measure", measured)
    for asked, step in (((), 3), (("--metric", "frechet"), 6)):
        evaluate(run, "--checkpoint", "all", *asked)
        assert read_best(RunFolder(run)).step == step
    assert "best      step 6: Fréchet distance, toy, 130 pictures" in " ".join(capsys.readouterr().out.split("\n"))
    record = json.loads((run / "config.json").read_text())
    record["config"]["metric"] = "frechet"
    (run / "config.json").write_text(json.dumps(record))
    (run / "best.json").unlink()
    evaluate(run, "--checkpoint", "all")
    assert read_best(RunFolder(run)).by == "frechet", "as the run was trained with"
    assert "add --checkpoint all" in refusal(capsys, run, "--metric", "recall")
    network.features = PICTURES
    assert "130 pictures have no Fréchet distance" in refusal(capsys, run, "--checkpoint", "all")


def test_a_run_without_an_average(
    data: Path, tmp_path: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained(tmp_path / "plain", data, ema=0.0)
    evaluate(plain)
    assert [one.weights for one in read_evaluations(plain / "evaluations.jsonl")[0]] == ["last"]
    assert "has no average of G at step 6; use --weights last" in refusal(capsys, plain, "--weights", "average")


def test_pictures_that_have_changed_since_are_said_to_have(
    tmp_path: Path, network: ToyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pictures.npy"
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (PICTURES, 16, 16, 3), dtype=np.uint8)
    np.save(file, pixels_NHWC)
    run = trained(tmp_path / "run", file)
    np.save(file, 255 - pixels_NHWC)
    evaluate(run, "--weights", "last")
    assert "these are not, file for file, the pictures that the run was trained on" in capsys.readouterr().out
    np.save(file, pixels_NHWC)
    evaluate(run, "--weights", "last")
    evaluate(run, "--weights", "last", "--data", file)
    assert "file for file" in capsys.readouterr().out, "written anew"
    changed, same, named = read_evaluations(run / "evaluations.jsonl")[0]
    assert changed.real != same.real == named.real


def test_few_pictures_have_no_frechet_distance_and_too_few_none_at_all(
    run: Path, network: ToyNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network.features = PICTURES
    evaluate(run)
    shown = capsys.readouterr().out
    assert f"No Fréchet distance: it needs more pictures than there are features ({PICTURES})" in shown
    assert {one.frechet for one in read_evaluations(run / "evaluations.jsonl")[0]} == {None}
    np.save(tmp_path / "few.npy", np.zeros((20, 16, 16, 3), np.uint8))
    assert "20 pictures are too few" in refusal(capsys, run, "--data", tmp_path / "few.npy")
    assert "--images 20: must be at least 50" in refusal(capsys, run, "--images", 20)
    assert "--repeats 0: must be at least 1" in refusal(capsys, run, "--repeats", 0)


def test_what_is_no_run_is_named(network: ToyNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"no such run folder: {tmp_path / 'nothing'}" in refusal(capsys, tmp_path / "nothing")


@pytest.mark.slow
def test_from_the_command_line_with_the_real_network(run: Path, fastdcgan: Command, tmp_path: Path) -> None:
    done = fastdcgan("evaluate", run, "--images", 60, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    assert "In the features of EfficientNet-Lite0" in done.stdout
    assert "60 pictures on each side" in done.stdout
    assert "FID" not in done.stdout
    lines = json.loads((tmp_path / "figures.json").read_text())["evaluations"]
    assert [(line["weights"], line["frechet"]) for line in lines] == [("average", None), ("last", None)]
    assert all(line["kernel"] > 0.1 for line in lines), "six steps from noise"
