import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from fastdcgan.config import (
    FACES_DEFAULTS,
    GROUPS,
    DataConfig,
    ModelConfig,
    RecipeConfig,
    RunConfig,
    TrainConfig,
    differing_fields,
    flat,
    from_flat,
)


def changed(config: TrainConfig, values: Mapping[str, object]) -> TrainConfig:
    return from_flat({**flat(config), **values})


def request(**values: object) -> TrainConfig:
    """What the command line makes of `--name value`."""
    return changed(TrainConfig(), values)


def test_without_options_faces_are_learned_within_minutes() -> None:
    config = TrainConfig().resolved()
    assert config.model == ModelConfig(arch="dcgan32", resolution=32, channels=3, width=64, latent_dim=100)
    assert config.data.batch_size == FACES_DEFAULTS.batch_size
    papers = RecipeConfig(objective="bce", label_smoothing=0.0, lr=2e-4, beta1=0.5, beta2=0.999)
    assert config.recipe == replace(papers, recipe="dcgan")


def test_faces_at_another_size_keep_their_budget() -> None:
    config = request(arch="dcgan64", data="faces").resolved()
    assert config.model == ModelConfig(arch="dcgan64", resolution=64, channels=3, width=64, latent_dim=100)
    assert config.data.batch_size == FACES_DEFAULTS.batch_size


def test_a_folder_gets_the_papers_size_width_and_batch() -> None:
    config = request(data="/photos").resolved()
    assert config.model == ModelConfig(arch="dcgan64", resolution=64, channels=3, width=64, latent_dim=100)
    assert config.data.batch_size == 128


@pytest.mark.parametrize("data", ["faces", "/photos"])
def test_dcgan28_is_the_courses_whatever_the_data(data: str) -> None:
    model = request(arch="dcgan28", data=data).resolved().model
    assert model == ModelConfig(arch="dcgan28", resolution=28, channels=1, width=32, latent_dim=50)


@pytest.mark.parametrize("data", ["faces", "/photos"])
def test_what_was_asked_for_is_kept(data: str) -> None:
    values = {"arch": "dcgan16", "channels": 1, "width": 48, "latent_dim": 7, "batch_size": 10, "data": data}
    assert flat(request(**values).resolved()).items() >= values.items()


@pytest.mark.parametrize("data", ["faces", "/photos"])
def test_one_budget_replaces_both_defaults(data: str) -> None:
    by_images, by_epochs = request(data=data, images=5).resolved().run, request(data=data, epochs=3).resolved().run
    assert (by_images.images, by_images.epochs) == (5, None)
    assert (by_epochs.images, by_epochs.epochs) == (None, 3)


def test_the_resolution_decides_the_name() -> None:
    model = request(resolution=128).resolved().model
    assert (model.arch, model.resolution) == ("dcgan128", 128)
    for said, kept in (("128x64", "128x64"), ("96", 96), ("96x96", 96), (28, 28)):
        model = request(resolution=said).resolved().model
        assert (model.arch, model.resolution) == (f"dcgan{kept}", kept)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"data": "cifar10"}, ("dcgan32", 3)),
        ({"data": "fashion-mnist"}, ("dcgan28", 1)),
        ({"data": "celeba"}, ("dcgan64", 3)),
        ({"data": "cifar10", "resolution": 64}, ("dcgan64", 3)),
        ({"data": "fashion-mnist", "resolution": 64}, ("dcgan64", 1)),
        ({"data": "fashion-mnist", "resolution": "32x64"}, ("dcgan32x64", 1)),
        ({"data": "fashion-mnist", "arch": "dcgan32", "channels": 3}, ("dcgan32", 3)),
    ],
)
def test_named_sets_get_the_network_of_their_size(values: dict[str, object], expected: tuple[str, int]) -> None:
    config = request(**values).resolved()
    assert (config.model.arch, config.model.channels) == expected
    assert config.data.batch_size == 128


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data": "/photos"},
        {"arch": "dcgan28"},
        {"resolution": 16, "epochs": 2},
        {"resolution": "64x32", "fit": "pad"},
    ],
)
def test_what_is_resolved_stays_so(values: dict[str, object]) -> None:
    config = request(**values).resolved()
    assert config.resolved() == config
    open_ends = {name for name, value in flat(config).items() if value is None}
    assert open_ends <= {
        "out",
        "images",
        "epochs",
        "data_threads",
        "data_memory",
        "exact_ranks",
        "threads",
        "sample_every",
        "checkpoint_every",
        "evaluate_every",
        "metric",
        "keep_every",
        "init_from",
        "from_step",
        "lr_g",
        "lr_d",
    }


FULL = TrainConfig(
    data=DataConfig(data="/photos", flip=True, batch_size=12),
    recipe=RecipeConfig(objective="lsgan", label_smoothing=0.1),
    run=RunConfig(out=Path("some") / "folder", images=100, seed=2**62),
)


@pytest.mark.parametrize("config", [TrainConfig(), TrainConfig().resolved(), FULL, FULL.resolved()])
def test_a_configuration_survives_json(config: TrainConfig) -> None:
    assert from_flat(json.loads(json.dumps(flat(config)))) == config


def test_flat_names_every_option_once() -> None:
    names = [f.name for group in GROUPS.values() for f in fields(group)]
    assert len(set(names)) == len(names), "two groups share an option's name"
    assert list(flat(TrainConfig())) == names
    assert set(GROUPS) == {f.name for f in fields(TrainConfig)}


def test_from_flat_refuses_missing_and_unknown_fields_by_name() -> None:
    values = flat(TrainConfig())
    with pytest.raises(ValueError, match="unknown fields colour, weight_decay"):
        from_flat({**values, "weight_decay": 0.1, "colour": "red"})
    del values["lr"], values["beta2"]
    del values["keep_every"]  # free to change: a run from before there was such an option goes on
    del values["d_steps"]  # not free, but its default is what that run did
    with pytest.raises(ValueError, match=r"lacks lr, beta2$"):
        from_flat(values)


def test_a_run_begun_before_there_was_fit_cropped_its_pictures() -> None:
    values = {name: value for name, value in flat(TrainConfig()).items() if name != "fit"}
    assert from_flat(values).data.fit == "crop"
    padded = from_flat({**values, "fit": "pad"})
    assert differing_fields(TrainConfig(), padded) == ["--fit: crop, now pad"]


@pytest.mark.parametrize(("before", "now"), [(True, "tensorboard"), (False, "none")])
def test_a_run_begun_before_there_was_track_can_be_read(before: bool, now: str) -> None:
    values = {name: value for name, value in flat(TrainConfig()).items() if name != "track"}
    assert from_flat({**values, "tensorboard": before}).run.track == now


def test_options_that_are_newer_than_the_run_have_their_defaults() -> None:
    values = {**flat(TrainConfig()), "seed": 5}
    del values["quiet"], values["track"]
    del values["lr_g"], values["lr_d"], values["d_steps"]
    assert from_flat(values) == TrainConfig(run=RunConfig(seed=5))


@pytest.mark.parametrize(
    ("track", "names"),
    [
        ("tensorboard", ("tensorboard",)),
        ("tensorboard,wandb,trackio", ("tensorboard", "wandb", "trackio")),
        ("wandb, tensorboard,wandb", ("wandb", "tensorboard")),
        ("none", ()),
    ],
)
def test_trackers_are_named_with_commas(track: str, names: tuple[str, ...]) -> None:
    assert RunConfig(track=track).trackers() == names


def test_augmentations_are_named_with_commas_in_any_order() -> None:
    assert RecipeConfig(augment="cutout, colour,cutout").augmentation() == ("colour", "cutout")
    assert RecipeConfig(augment="none").augmentation() == () == RecipeConfig().augmentation()


OTHER: dict[str, Any] = {
    "arch": "dcgan16",
    "resolution": 16,
    "channels": 1,
    "width": 5,
    "latent_dim": 5,
    "data": "/photos",
    "fit": "pad",
    "value_range": "0,1",
    "drop_duplicates": True,
    "conditional": True,
    "flip": True,
    "batch_size": 5,
    "objective": "hinge",
    "label_smoothing": 0.2,
    "lr": 0.5,
    "lr_g": 0.5,
    "lr_d": 0.5,
    "d_steps": 2,
    "augment": "cutout",
    "spectral_norm": True,
    "r1": 0.5,
    "r1_every": 5,
    "r2": 0.25,
    "lecam": 0.5,
    "beta1": 0.25,
    "beta2": 0.25,
    "batch_norm": "local",
    "accumulate": 2,
    "precision": "bf16",
    "compress_gradients": "bf16",
    "seed": 5,
}
"""Another value for each option that changes what is learned at a step."""

OTHER_BUT_FREE: dict[str, Any] = {
    "decoder": "pillow",
    "data_threads": 5,
    "data_cache": "off",
    "data_memory": 5,
    "device": "cpu",
    "plan": "default",
    "compile": "on",
    "threads": 5,
    "out": Path("elsewhere"),
    "images": 5,
    "epochs": 5,
    "init_from": "another",
    "fresh_optimizer": True,
    "from_step": "5",
    "resume": "off",
    "log_every": 5,
    "sample_every": 5,
    "checkpoint_every": 5,
    "evaluate_every": 5,
    "evaluate_images": 500,
    "metric": "recall",
    "keep_checkpoints": 5,
    "keep_every": 5,
    "track": "none",
    "track_checkpoints": True,
    "quiet": True,
    "rank_timeout": 5.0,
    "exact_ranks": 4,
    "ema": 0.5,
    "ema_ramp": 0.5,
    "recipe": "fast",
    "profile": True,
    "profile_wait": 5,
    "profile_warmup": 5,
    "profile_active": 7,
    "on_nan": "rollback",
    "rollbacks": 5,
}
"""And for each that doesn't."""


def test_every_option_is_either_free_or_part_of_a_runs_identity() -> None:
    assert OTHER.keys() | OTHER_BUT_FREE.keys() == flat(TrainConfig()).keys()


@pytest.mark.parametrize("name", OTHER)
def test_a_difference_in_what_is_learned_is_named_with_both_values(name: str) -> None:
    config = TrainConfig().resolved()
    old, label = flat(config)[name], "--" + name.replace("_", "-")
    assert differing_fields(config, changed(config, {name: OTHER[name]})) == [f"{label}: {old}, now {OTHER[name]}"]
    assert differing_fields(config, config) == []


def test_all_differences_are_named() -> None:
    config = TrainConfig().resolved()
    named = [line.split(":")[0] for line in differing_fields(config, changed(config, OTHER))]
    assert named == ["--" + name.replace("_", "-") for name in flat(config) if name in OTHER]


def test_what_may_change_between_sittings_makes_no_difference() -> None:
    config = TrainConfig().resolved()
    assert differing_fields(config, changed(config, OTHER_BUT_FREE)) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"data_memory": -1.0}, "--data-memory -1.0: must be at least 0"),
        ({"data_threads": 0}, "--data-threads 0: must be at least 1"),
        ({"images": 0}, "--images 0: must be at least 1"),
        ({"epochs": -1}, "--epochs -1: must be at least 1"),
        ({"log_every": 0}, "--log-every 0: must be at least 1"),
        ({"sample_every": 0}, "--sample-every 0: must be at least 1"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0: must be at least 1"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0: must be at least 1"),
        ({"profile_wait": -1}, "--profile-wait -1: must be at least 0"),
        ({"profile_warmup": -1}, "--profile-warmup -1: must be at least 0"),
        ({"profile_active": 0}, "--profile-active 0: must be at least 1"),
        ({"keep_every": 0}, "--keep-every 0: must be at least 1"),
        ({"images": 5, "epochs": 5}, "--images and --epochs are two ways"),
        ({"track": "tensorboard,mlflow"}, "--track tensorboard,mlflow: must be tensorboard, wandb, trackio, joined by"),
        ({"track": ""}, "--track : must be"),
        ({"track": "none,wandb"}, "--track none,wandb: must be"),
        ({"track_checkpoints": True}, "--track-checkpoints: needs what keeps them, as with --track tensorboard,wandb"),
        ({"ema_ramp": 0.0}, "--ema-ramp 0.0: must be above 0 and at most 1"),
        ({"ema_ramp": 1.5}, "--ema-ramp 1.5: must be above 0 and at most 1"),
        ({"exact_ranks": 3}, "--exact-ranks 3: must be a power of two"),
        ({"exact_ranks": 0}, "--exact-ranks 0: must be a power of two"),
        ({"exact_ranks": 2, "precision": "bf16"}, "--exact-ranks 2 does not go with --precision bf16"),
        ({"exact_ranks": 2, "compile": "on"}, "--exact-ranks 2 does not go with --compile on"),
        ({"exact_ranks": 2, "batch_norm": "local"}, "--exact-ranks 2 does not go with --batch-norm local"),
        ({"r1": -1.0}, "--r1 -1.0: must be at least 0"),
        ({"r1": float("nan")}, "--r1 nan"),
        ({"r2": -1.0}, "--r2 -1.0: must be at least 0"),
        ({"exact_ranks": 2, "r2": 1.0}, "--exact-ranks 2 does not go with --r2 1.0"),
        ({"lecam": -0.1}, "--lecam -0.1: must be at least 0"),
        ({"exact_ranks": 2, "lecam": 0.1}, "--exact-ranks 2 does not go with --lecam 0.1"),
        ({"r1_every": 0}, "--r1-every 0: must be at least 1"),
        ({"exact_ranks": 2, "r1": 1.0}, "--exact-ranks 2 does not go with --r1 1.0"),
        ({"exact_ranks": 2, "spectral_norm": True}, "--exact-ranks 2 does not go with --spectral-norm"),
        ({"exact_ranks": 2, "threads": 2}, "--exact-ranks 2 does not go with --threads 2"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
        ({"seed": 2**63}, f"--seed {2**63}: must be .* below 2"),
        ({"lr": 0.0}, "--lr 0.0: must be above 0"),
        ({"lr": -1e-3}, "--lr -0.001: must be above 0"),
        ({"lr": float("inf")}, "--lr inf"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"lr_g": 0.0}, "--lr-g 0.0: must be above 0"),
        ({"lr_d": float("inf")}, "--lr-d inf: must be above 0"),
        ({"d_steps": 0}, "--d-steps 0: must be at least 1"),
        ({"augment": "color"}, "--augment color: must be colour, translation, cutout, joined by commas, or none"),
        ({"augment": "none,cutout"}, "--augment none,cutout: must be"),
        ({"augment": ""}, "--augment : must be"),
        ({"beta1": 1.0}, "--beta1 1.0: must be at least 0 and below 1"),
        ({"beta1": -0.1}, "--beta1 -0.1"),
        ({"beta2": 1.0}, "--beta2 1.0: must be at least 0 and below 1"),
        ({"beta2": float("nan")}, "--beta2 nan"),
        ({"label_smoothing": 0.5}, "--label-smoothing 0.5: must be at least 0 and below 0.5"),
        ({"label_smoothing": 0.9}, "below 0.5; for real labels of 0.9 it is 0.1"),
        ({"label_smoothing": -0.1}, "--label-smoothing -0.1"),
        ({"label_smoothing": 0.1, "objective": "hinge"}, "--label-smoothing has no meaning for --objective hinge"),
        ({"label_smoothing": 0.1, "objective": "rpgan"}, "--label-smoothing has no meaning for --objective rpgan"),
        ({"arch": "stylegan"}, "unknown architecture 'stylegan'"),
        ({"resolution": 100}, "resolution 100"),
        ({"resolution": "64x100"}, "resolution 64x100"),
        ({"resolution": "64 by 64"}, "--resolution 64 by 64"),
        ({"channels": 2}, "--channels 2"),
        ({"width": 0}, "--width 0"),
        ({"latent_dim": 0}, "--latent-dim 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        request(**values).resolved()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "values", [{"seed": 0}, {"seed": 2**63 - 1}, {"beta1": 0.0}, {"label_smoothing": 0.49}, {"log_every": 1}]
)
def test_the_borders_are_allowed(values: dict[str, object]) -> None:
    assert flat(request(**values).resolved()).items() >= values.items()


def test_resolving_changes_nothing_in_place() -> None:
    config = TrainConfig()
    config.resolved()
    assert config == replace(config) == TrainConfig()
