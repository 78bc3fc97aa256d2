"""`--evaluate-every`: what is measured while a run trains, and that nothing it learns depends on it."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from learned import assert_same_weights, learned
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from fastdcgan.config import DataConfig, ModelConfig, RecipeConfig, RunConfig, TrainConfig
from fastdcgan.evaluation.extractors import Extractor
from fastdcgan.evaluation.records import Evaluation, read_evaluations
from fastdcgan.runs.checkpoints.folder import Best, list_checkpoints, read_best, step_in_name
from fastdcgan.runs.folder import RunFolder, read_config
from fastdcgan.runs.generate import generate_from_run
from fastdcgan.storage.files import write_replacing
from fastdcgan.telemetry.metrics import read_metrics
from fastdcgan.training import evaluation as module
from fastdcgan.training.trainer import train


def toy_extractor(*_: object) -> Extractor:
    """A picture's features are its first numbers. It draws from the global random states, as a network might."""

    def features_of(pictures_BHWC: Tensor) -> Tensor:
        torch.rand(1)
        np.random.random()
        return pictures_BHWC.flatten(1)[:, :4].float().cpu() / 255

    return Extractor(
        name="a toy",
        frechet_label="Fréchet distance, toy",
        kernel_label="kernel distance, toy",
        features=4,
        identity="toy",
        features_of=features_of,
    )


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "open_extractor", toy_extractor)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "pictures.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3), dtype=np.uint8))
    return file


def trained(
    out: Path, data: Path, *, steps: int = 12, every: int | None = 3, images: int = 60, keep: int = 1, **more: Any
) -> Path:
    train(
        TrainConfig(
            model=ModelConfig(arch="dcgan16", width=4, latent_dim=6),
            data=DataConfig(data=str(data), batch_size=10),
            recipe=RecipeConfig(ema=0.9),
            run=RunConfig(
                out=out,
                images=10 * steps,
                log_every=2,
                checkpoint_every=6,
                keep_checkpoints=keep,
                evaluate_every=every,
                evaluate_images=images,
                quiet=True,
                **more,
            ),
        )
    )
    return out


def evaluations(run: Path) -> list[Evaluation]:
    return read_evaluations(run / "evaluations.jsonl")[0]


def with_figures(monkeypatch: pytest.MonkeyPatch, **by_step: dict[int, float]) -> None:
    """Evaluations find these figures, by step."""
    measure = module.measure

    def found(*arguments: Any, **more: Any) -> Evaluation:
        one = measure(*arguments, **more)
        return replace(one, **{name: values[one.step] for name, values in by_step.items()})

    monkeypatch.setattr(module, "measure", found)


KERNELS = {3: 0.5, 6: 0.1, 9: 0.4, 12: 0.3, 15: 0.2, 18: 0.05}
RECALLS = {3: 0.1, 6: 0.2, 9: 0.9, 12: 0.3, 15: 0.2, 18: 0.5}


def checkpoints(run: Path) -> list[int | None]:
    return [step_in_name(path) for path in list_checkpoints(run / "checkpoints")]


def test_nothing_learned_depends_on_it(tmp_path: Path, data: Path) -> None:
    measured, plain = trained(tmp_path / "measured", data), trained(tmp_path / "plain", data, every=None)
    assert_same_weights(learned(measured, 12), learned(plain, 12))
    assert not (plain / "evaluations.jsonl").exists()


def test_figures_go_to_the_file_the_log_the_trackers_and_the_report(tmp_path: Path, data: Path) -> None:
    run = trained(tmp_path / "run", data)
    found = evaluations(run)
    assert [(one.step, one.images, one.weights, one.pictures, one.training) for one in found] == [
        (step, 10 * step, "average", 60, True) for step in (3, 6, 9, 12)
    ]
    log = (run / "run.log").read_text()
    assert all(f"kernel distance, toy {one.kernel:.4f}" in log and f"at step {one.step}" in log for one in found)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("quality/kernel distance")]
    assert shown == [(one.step, pytest.approx(one.kernel)) for one in found]
    report = (run / "report.html").read_text()
    assert "Distance from real pictures" in report and f"Last: {found[-1].kernel:.4f}" in report


def test_time_of_evaluations_is_not_training_time(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdcgan.training import recorder

    now, ticks = [0.0], count()
    monkeypatch.setattr(recorder, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 1000 + now[0]))
    measure = module.measure

    def slow(*arguments: object, **more: object) -> Evaluation:
        now[0] += 1000
        return measure(*arguments, **more)

    monkeypatch.setattr(module, "measure", slow)
    run = trained(tmp_path / "run", data, steps=3)
    last = read_metrics(run / "metrics.jsonl")[-1]
    assert last.seconds < 1000


def test_memory_that_an_evaluation_took_is_returned(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time, and after it: what that is worth is tested in tests/limits/test_memory.py."""
    from fastdcgan.training import recorder

    happened = []
    measure = module.measure
    monkeypatch.setattr(module, "measure", lambda *a, **k: happened.append("measured") or measure(*a, **k))
    monkeypatch.setattr(recorder, "return_free_memory", lambda: happened.append("returned"))
    trained(tmp_path / "run", data)
    assert happened == 4 * ["measured", "returned"]


def test_the_best_checkpoint_is_kept_and_named(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_figures(monkeypatch, kernel=KERNELS)
    run = trained(tmp_path / "run", data)
    best = read_best(RunFolder(run))
    assert (best.step, best.value) == (6, 0.1)
    assert best.metric == "kernel distance, toy, 60 pictures, average weights"
    assert checkpoints(run) == [6, 12], "one is kept, and the best"
    assert "Best checkpoint:    of step 6" in (run / "run.log").read_text()


def test_going_on_remembers_the_best_and_forgets_what_will_be_repeated(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_figures(monkeypatch, kernel=KERNELS)
    whole = trained(tmp_path / "whole", data, steps=18)
    run = trained(tmp_path / "run", data, steps=12)
    later = evaluations(run)[-1]
    write_replacing(
        run / "evaluations.jsonl",
        (run / "evaluations.jsonl").read_text() + json.dumps({**vars(later), "step": 15, "kernel": -1.0}) + "\n",
    )
    trained(run, data, steps=15, every=None)
    assert read_best(RunFolder(run)).step == 6 and checkpoints(run) == [6, 15], "kept without an evaluation too"
    assert [one.step for one in evaluations(run)] == [3, 6, 9, 12]
    trained(run, data, steps=18)
    assert [(one.step, one.kernel) for one in evaluations(run)][-1] == (18, 0.05)
    assert read_best(RunFolder(run)).step == read_best(RunFolder(whole)).step == 18
    assert_same_weights(learned(run, 18), learned(whole, 18))


def test_a_best_of_a_step_that_the_run_went_back_from_is_forgotten(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path / "run", data, steps=6, every=None)
    (run / "best.json").write_text('{"step": 9, "metric": "m", "value": 0.1}')
    trained(run, data, steps=8, every=None)
    assert not (run / "best.json").exists()


def test_the_figure_that_is_named_says_which_is_the_best(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_figures(monkeypatch, kernel=KERNELS, recall=RECALLS)
    run = trained(tmp_path / "run", data, metric="recall")
    best = read_best(RunFolder(run))
    assert best == Best(step=9, metric="recall, a toy, 60 pictures, average weights", value=0.9, by="recall")
    assert checkpoints(run) == [9, 12]
    assert "from step 9 of" in generate_from_run(run, count=1, out=tmp_path / "drawn", checkpoint="best")
    trained(run, data, steps=18)  # goes on, without naming it again
    assert read_best(RunFolder(run)) == best and checkpoints(run) == [9, 18]
    assert read_config(RunFolder(run)).run.metric == "recall"
    report = (run / "report.html").read_text()
    assert "Best: 90% at step 9. Last: 50%" in report and "kinds of pictures are lost" in report


def test_another_figure_from_here_on_chooses_anew_among_what_is_kept(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_figures(monkeypatch, kernel=KERNELS, recall=RECALLS)
    run = trained(tmp_path / "run", data, keep=9)
    (run / "best.json").write_text('{"step": 6, "metric": "of a run from before there was a choice", "value": 0.1}')
    trained(run, data, keep=9, steps=14, every=None)
    assert read_best(RunFolder(run)).step == 6, "an old run keeps its best"
    trained(run, data, keep=1, steps=15, metric="recall")
    assert read_best(RunFolder(run)).step == 9 and checkpoints(run) == [9, 15]
    assert "the best so far is step 9 (recall, a toy" in (run / "run.log").read_text()


def test_a_frechet_distance_that_can_not_be_had_is_refused_before_there_is_work(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"--metric frechet: 60 pictures .* \(1,280\): use --metric kernel"):
        trained(tmp_path / "run", data, metric="frechet")
    assert not (tmp_path / "run" / "checkpoints").exists()
    monkeypatch.setattr(module, "FEATURES", 4)
    with_figures(monkeypatch, kernel=KERNELS, frechet={3: 9.0, 6: 8.0, 9: 7.0, 12: 6.0})
    assert read_best(RunFolder(trained(tmp_path / "run", data, metric="frechet"))).step == 12


def test_what_can_not_be_measured_does_not_end_a_run(tmp_path: Path) -> None:
    file = tmp_path / "few.npy"
    np.save(file, np.zeros((40, 16, 16, 3), np.uint8))
    run = trained(tmp_path / "run", file)
    assert evaluations(run) == []
    log = (run / "run.log").read_text()
    assert log.count("is not measured from here on: 40 pictures are too few: at least 50") == 1
    assert checkpoints(run) == [12]


def test_what_is_asked_for_is_checked_before_there_is_work(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="--evaluate-every 0: must be at least 1"):
        trained(tmp_path / "run", data, every=0)
    with pytest.raises(ValueError, match="--evaluate-images 10: must be at least 50"):
        trained(tmp_path / "run", data, images=10)
    monkeypatch.setattr("fastdcgan.evaluation.distances.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'fastdcgan\[metrics\]'"):
        trained(tmp_path / "run", data)
    assert not (tmp_path / "run").exists()
