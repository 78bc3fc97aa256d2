"""--recipe names a set of options: they count where the user hasn't named another value, on all ways to train."""

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import fastdcgan
from fastdcgan import cli
from fastdcgan.config import RecipeConfig, RecipeName, RunConfig, TrainConfig, describe_recipe, flat, with_values
from fastdcgan.runs.folder import RunFolder, write_config
from fastdcgan.training import trainer

EVERYTHING = "colour,translation,cutout"
FASTER = {"lr": 1.2e-3, "beta2": 0.99, "ema_ramp": 0.3}
FAST = FASTER | {"objective": "rpgan"}
FACES = {"flip": True, "beta1": 0.3}
BY_300 = {"data": "photos", "batch_size": 300, "lr": 1.84e-3}
SMALL = FASTER | {"augment": EVERYTHING}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """What was to be trained."""
    requests: list[TrainConfig] = []
    monkeypatch.setattr(trainer, "train", lambda config, *_: requests.append(config))
    return requests


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("", FAST | FACES),
        ("--lr 1e-3 --no-flip", FAST | {"lr": 1e-3, "beta1": 0.3}),
        ("--beta1 0.5", FAST | {"flip": True}),
        ("--data photos", FAST | {"data": "photos"}),
        ("--data photos --recipe dcgan", {"data": "photos"}),
        ("--recipe dcgan", {}),
        ("--recipe small-data", SMALL),
        ("--recipe small-data --augment cutout", SMALL | {"augment": "cutout"}),
        ("--augment none --recipe small-data", FASTER),
        ("--recipe small-data --lr 0.001", SMALL | {"lr": 0.001}),
        ("--recipe fast", FAST),
        ("--recipe fast --lr 2e-4 --beta2 0.999", {"objective": "rpgan", "ema_ramp": 0.3}),  # the paper's
        ("--recipe fast --objective bce", FASTER),
        ("--data photos --label-smoothing 0.1", FASTER | {"data": "photos", "label_smoothing": 0.1}),
        ("--recipe large-batch", FAST | {"batch_size": 256, "lr": 3.2e-3}),
        ("--recipe large-batch --batch-size 64", FAST | {"batch_size": 64, "lr": 2.4e-3}),
        ("--recipe large-batch --lr 1e-3", FAST | {"batch_size": 256, "lr": 1e-3}),
        ("--recipe large-batch --data photos", FAST | {"data": "photos", "batch_size": 2048, "lr": 3.2e-3}),
        ("--recipe large-batch --batch-size 300 --data photos", FAST | BY_300),
        ("--recipe large-batch --batch-size 8", FAST | {"batch_size": 8}),  # a small batch keeps the usual rate
        ("--recipe large-batch --batch-size 1024", FAST | {"batch_size": 1024, "lr": 3.2e-3}),
        ("--recipe large-batch --objective bce", FASTER | {"batch_size": 256, "lr": 3.2e-3}),
    ],
)
def test_a_recipe_sets_what_is_not_named(words: str, changed: dict[str, Any], asked: list[TrainConfig]) -> None:
    cli.main(["train", *words.split()])
    cli.train_main(words.split())
    usual = flat(TrainConfig())
    for request in asked:
        found = {name: value for name, value in flat(request).items() if value != usual[name]}
        found.pop("recipe", None)
        assert found == changed
    assert len(asked) == 2


def test_from_python_too(tmp_path: Path) -> None:
    """And what it set is in config.json, and said."""
    pictures = tmp_path / "few.npy"
    np.save(pictures, np.random.default_rng(0).integers(256, size=(64, 16, 16, 3), dtype=np.uint8))
    small: dict[str, Any] = {"arch": "dcgan16", "width": 4, "batch_size": 8, "images": 16, "plan": "default"}
    small |= {"data": str(pictures), "quiet": True, "recipe": "small-data", "lr": 1e-3}
    for out, named, said in (
        ("set", {}, f"recipe    small-data: --augment {EVERYTHING}, --beta2 0.99, --ema-ramp 0.3"),
        ("named", {"augment": "cutout"}, "--ema-ramp 0.3, but --augment cutout, --lr 0.001, as you named it"),
    ):
        run = fastdcgan.train(out=tmp_path / out, **small, **named)
        kept = {name: run.config[name] for name in ("recipe", *SMALL)}
        assert kept == SMALL | {"recipe": "small-data", "lr": 1e-3} | named
        assert said in (run.path / "run.log").read_text()


def test_a_configuration_counts_as_named(tmp_path: Path, asked: list[TrainConfig]) -> None:
    for config, learning_rate in ((TrainConfig(), 1.2e-3), (TrainConfig(recipe=RecipeConfig(lr=3e-3)), 3e-3)):
        with suppress(AssertionError):  # nothing was trained
            fastdcgan.train(config, out=tmp_path)
        assert (asked[-1].recipe.lr, asked[-1].recipe.beta2, asked[-1].data.flip) == (learning_rate, 0.99, True)


@pytest.mark.parametrize("option", ["--out", "--init-from"])
@pytest.mark.parametrize(
    ("begun", "found"),
    [
        ({}, {}),  # the faces' default before it was `fast`
        ({"recipe": "fast", **FAST, **FACES}, FAST | FACES),
        ({"recipe": "fast", **FASTER, "flip": True}, FASTER | {"flip": True}),  # before it was of pairs
        ({"recipe": "fast", "lr": 4e-4}, {"lr": 4e-4}),  # what it set once
        ({"recipe": "small-data", "augment": EVERYTHING}, {"augment": EVERYTHING}),  # likewise
    ],
)
def test_what_goes_on_with_a_run_or_begins_with_it_has_its_recipe_if_none_is_named(
    begun: dict[str, Any], found: dict[str, Any], option: str, tmp_path: Path, asked: list[TrainConfig]
) -> None:
    config = with_values(TrainConfig(run=RunConfig(out=tmp_path)), begun).resolved()
    write_config(RunFolder(tmp_path), config, config.model.architecture(), {})
    cli.main(["train", option, str(tmp_path)])
    named = {option.removeprefix("--").replace("-", "_"): str(tmp_path)}
    with suppress(AssertionError):  # nothing was trained
        fastdcgan.train(**named)
    usual = flat(TrainConfig()) | named | {"recipe": begun.get("recipe", "dcgan")}
    for request in asked:
        assert {name: value for name, value in flat(request).items() if value != usual[name]} == found
    assert len(asked) == 2


def test_a_run_begun_by_pairs_keeps_them_where_smoothing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_values(TrainConfig(run=RunConfig(out=tmp_path)), {"recipe": "fast", **FAST}).resolved()
    write_config(RunFolder(tmp_path), config, config.model.architecture(), {})
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--out", str(tmp_path), "--label-smoothing", "0.1"])
    assert end.value.code == 2
    assert "--label-smoothing has no meaning for --objective rpgan" in capsys.readouterr().err


def test_what_the_embedded_faces_are_learned_with_is_said(asked: list[TrainConfig]) -> None:
    said = "fast: --objective rpgan, --lr 0.0012, --beta2 0.99, --ema-ramp 0.3"
    for words, beside in (("", ", --flip, --beta1 0.3"), ("--no-flip", ", --beta1 0.3"), ("--data photos", "")):
        cli.main(["train", *words.split()])
        assert describe_recipe(asked[-1]) == said + beside


def test_what_was_named_otherwise_is_said(asked: list[TrainConfig]) -> None:
    cli.main(["train", "--recipe", "large-batch", "--lr", "1e-3"])
    said = "--objective rpgan, --beta2 0.99, --ema-ramp 0.3, --batch-size 256, but --lr 0.001, as you named it"
    assert describe_recipe(asked[0]) == f"large-batch: {said}"


@pytest.mark.parametrize("name", get_args(RecipeName))
def test_every_recipe_is_a_request_that_can_be(name: str, asked: list[TrainConfig]) -> None:
    cli.main(["train", "--recipe", name])
    asked[0].resolved()
    assert bool(describe_recipe(asked[0])) == (name != "dcgan")


def test_a_mistyped_option_beside_a_recipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--recipe", "fast", "--lr", "fast"])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
