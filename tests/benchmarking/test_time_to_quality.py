"""Records: a claim is held to its p-value and its seeds. Trials: they measure what they say, and are not repeated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.experiments import batch_size, small_data, trials
from benchmarks.experiments.trials import Point, Trial, read_lines, run_trials
from benchmarks.records import cifar10_fid50, faces32_fast, track
from benchmarks.records.track import Record, Track, attempt, verdict
from fastdcgan.config import RecipeConfig
from fastdcgan.evaluation.extractors import Extractor

TINY = Trial(name="tiny", arch="dcgan16", width=4, batch_size=8, measured_at=(16, 40))

TRACK = Track(
    name="tiny faces",
    data="faces",
    arch="dcgan16",
    width=4,
    extractor="efficientnet-lite0",
    metric="kernel",
    judged=60,
    reference=replace(TINY, name="reference", measured_at=(24,)),
)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extractor that takes no time: the mean of each channel, and four pixels."""

    def features_of(pictures_BHWC: Tensor) -> Tensor:
        numbers_BN = pictures_BHWC.float() / 255
        return torch.cat([numbers_BN.mean((1, 2)), numbers_BN[:, 5:7, 5:7, 0].flatten(1)], dim=1)

    toy = Extractor(
        name="a toy", frechet_label="", kernel_label="", features=7, identity="toy", features_of=features_of
    )
    monkeypatch.setattr(trials, "open_extractor", lambda *_: toy)


def points(kernels: list[float]) -> list[Point]:
    same = Point(
        images=40,
        cpu_seconds=1.0,
        seconds=1.0,
        first_step_seconds=0.1,
        frechet=None,
        kernel=0.0,
        precision=0.0,
        recall=0.0,
        loss_d=1.0,
    )
    return [replace(same, kernel=kernel) for kernel in kernels]


BETTER, WORSE = [0.40, 0.42, 0.39, 0.41, 0.40], [0.50, 0.52, 0.49, 0.51, 0.50]


@pytest.mark.parametrize(
    ("reference", "record", "holds"),
    [
        (WORSE, BETTER, True),
        (BETTER, WORSE, False),
        (WORSE, WORSE, False),
        (WORSE, [0.3, 0.6, 0.5, 0.4, 0.6], False),  # better in the mean, by luck
        (WORSE[:4], BETTER[:4], False),  # too few seeds
    ],
)
def test_a_claim_holds_where_it_is_shown(reference: list[float], record: list[float], holds: bool) -> None:
    assert ("the claim holds" in verdict(TRACK, points(reference), points(record))) == holds


def test_a_fixed_threshold_is_what_counts_where_there_is_one() -> None:
    fixed = replace(TRACK, threshold=0.45)
    assert "the claim holds" in verdict(fixed, points(BETTER), points(BETTER))
    assert "the claim holds" not in verdict(fixed, points(WORSE), points(WORSE))


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    path = tmp_path / "pictures.npy"
    np.save(path, np.random.default_rng(0).integers(256, size=(80, 16, 16, 3), dtype=np.uint8))
    return str(path)


def test_an_attempt_from_end_to_end(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(track, "usable_cores", lambda: 1)
    log = tmp_path / "log.jsonl"
    attempt(
        replace(TRACK, data=pictures),
        Record(name="ours", recipe=RecipeConfig(lr=4e-4), batch_size=8, steps=2),
        log,
        seeds=2,
    )
    lines = read_lines(log)
    assert [(line["name"], line["trial"]["seed"]) for line in lines] == [
        *(("reference", 0), ("ours", 0)),
        *(("reference", 1), ("ours", 1)),
    ]
    assert [line["point"]["images"] for line in lines] == [24, 16, 24, 16]
    assert lines[1]["trial"]["recipe"] == {"lr": 4e-4} and lines[0]["plan"] == "reference"
    assert {line["conditions"]["commit"] is None for line in lines} == {False}
    assert lines[0]["point"]["kernel"] != lines[2]["point"]["kernel"], "another seed is another training"
    assert "the claim is not shown: it takes p < 0.01 over at least 5 seeds" in capsys.readouterr().out


def test_trials_are_a_function_of_their_fields_and_not_repeated(pictures: str, tmp_path: Path) -> None:
    out, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    tiny = replace(TINY, data=pictures)
    few = replace(tiny, pictures=30, recipe=RecipeConfig(augment="colour"))
    run_trials([tiny, few], out, judged=60)
    before = out.read_bytes()
    run_trials([tiny, few], out, judged=60)
    assert out.read_bytes() == before
    run_trials([few, tiny], other, judged=60)
    ours, theirs = ({line["trial"]["pictures"]: line["points"] for line in read_lines(path)} for path in (out, other))
    figures = ("images", "kernel", "loss_d")
    for few in (None, 30):
        assert [[p[f] for f in figures] for p in ours[few]] == [[p[f] for f in figures] for p in theirs[few]]
    assert [point["images"] for point in ours[None]] == [16, 40]
    assert ours[None][1]["cpu_seconds"] >= ours[None][0]["cpu_seconds"]


def test_images_to_a_quality() -> None:
    assert batch_size.images_to({1000: 0.8, 4000: 0.2}, 0.4) == pytest.approx(2000), "half way by logarithms"
    assert batch_size.images_to({1000: 0.8, 4000: 0.2}, 0.1) is None
    assert batch_size.images_to({1000: 0.4, 4000: 0.2}, 0.4) == 1000
    assert batch_size.images_to({1000: 0.3, 2000: 0.8, 4000: 0.2}, 0.4) == pytest.approx(2000 * 2**0.5)


@pytest.mark.parametrize("experiment", [batch_size, small_data])
def test_experiments_show_what_they_have(experiment: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "some.jsonl"
    for seed in (0, 1):
        trial = replace(experiment.trials()[0], seed=seed)
        of_trial = [{"images": images, "kernel": 0.5 + seed / 10} for images in trial.measured_at]
        with out.open("a") as file:
            file.write(json.dumps({"trial": trials.as_table(trial), "points": of_trial}) + "\n")
    experiment.show(out)
    assert "0.550 (0.500 to 0.600" in " ".join(capsys.readouterr().out.split())


def test_what_is_written_down_for_a_gpu_can_be_asked_for() -> None:
    for file in (cifar10_fid50, faces32_fast):
        (found,) = [value for value in vars(file).values() if isinstance(value, Track)]
        trial = track.trial_of(found, file.RECORD, seed=3)
        assert (trial.arch, trial.width, trial.seed) == (found.arch, found.width, 3)
        assert trial.measured_at == (file.RECORD.steps * file.RECORD.batch_size,)
    assert np.isfinite(cifar10_fid50.CIFAR10_FID50.threshold or np.nan)
