"""A run's generator: sampled, walked, saved and opened again."""

import json
import random
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fastdcgan import Generator, Run, cli, train


def trained(folder: Path, channels: int) -> Run:
    """A run whose pictures have all levels from black to white, with checkpoints of two steps."""
    pictures_NHWC = np.random.default_rng(0).integers(0, 2, (16, 16, 16, channels), np.uint8) * 255
    np.save(folder / "pictures.npy", pictures_NHWC)
    model = {"arch": "dcgan16", "width": 4, "channels": channels, "batch_size": 4, "images": 64, "lr": 0.05, "ema": 0.5}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fastdcgan.telemetry.report.end_of_run.device_ceilings", lambda *_: None)
        patched.setattr("fastdcgan.training.recorder.plot_losses", lambda *_: None)
        how = {"device": "cpu", "checkpoint_every": 8, "track": "none", "quiet": True}
        return train(data=folder / "pictures.npy", **model, out=folder / "run", **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("run"), 3)


@pytest.fixture(scope="module", params=[1, 3, 4])
def run_of_any_channels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("run"), request.param)


def by_command_line(run: Run, tmp_path: Path, *options: object) -> np.ndarray[Any, Any]:
    out = tmp_path / "generated.npy"
    cli.main(list(map(str, ("generate", run.path, "--out", out, *options))))
    return np.load(out)  # type: ignore[no-any-return]


def test_pictures_are_those_of_the_command_line(run_of_any_channels: Run, tmp_path: Path) -> None:
    run = run_of_any_channels
    theirs = by_command_line(run, tmp_path, "--count", 70, "--seed", 5, "--truncation", 0.7)
    ours = list(Generator.from_run(run).sample(70, 5, truncation=0.7))
    assert np.array_equal(np.stack(ours).reshape(theirs.shape), theirs)
    assert np.unique(theirs).size > 20


def test_a_checkpoint_and_the_last_weights_can_be_chosen(run: Run, tmp_path: Path) -> None:
    (first, last) = sorted(run.checkpoints)
    theirs = by_command_line(run, tmp_path, "--count", 2, "--weights", "last", "--checkpoint", first)
    ours = list(Generator.from_run(str(run.path), checkpoint=first, weights="last").sample(2))
    assert np.array_equal(np.stack(ours).reshape(theirs.shape), theirs)
    others = list(Generator.from_run(run).sample(2))
    assert not np.array_equal(others, ours)
    with pytest.raises(ValueError, match="those of steps"):
        Generator.from_run(run, checkpoint=last + 1)


def test_what_can_not_be_chosen_is_said(run: Run) -> None:
    for choice, said in (
        ({"checkpoint": "oldest"}, "--checkpoint oldest: must be latest, best or a step"),
        ({"weights": "ema"}, "--weights ema: must be average or last"),
    ):
        with pytest.raises(ValueError, match=said):
            Generator.from_run(run, **choice)  # type: ignore[arg-type]


def test_kinds(run_of_any_channels: Run) -> None:
    run = run_of_any_channels
    generator = Generator.from_run(run)
    (array,), (tensor,), (picture,) = (list(generator.sample(1, 2, kind=kind)) for kind in ("array", "tensor", "pil"))
    assert array.shape == (16, 16, generator.arch.channels) and array.dtype == np.uint8
    assert torch.equal(tensor, torch.from_numpy(array).permute(2, 0, 1))
    assert isinstance(picture, Image.Image) and picture.mode == {1: "L", 3: "RGB", 4: "RGBA"}[generator.arch.channels]
    assert np.array_equal(np.asarray(picture).reshape(array.shape), array)
    with pytest.raises(ValueError, match="kind 'jpeg': must be array, tensor or pil"):
        list(generator.sample(1, kind="jpeg"))  # type: ignore[arg-type]


def test_a_grid_is_that_of_the_command_line(run_of_any_channels: Run, tmp_path: Path) -> None:
    run = run_of_any_channels
    cli.main(list(map(str, ("generate", run.path, "--count", 5, "--out", tmp_path / "grid.png"))))
    with Image.open(tmp_path / "grid.png") as theirs:
        ours = Generator.from_run(run).grid(5)
        assert np.array_equal(np.asarray(ours.convert("RGBA")), np.asarray(theirs.convert("RGBA")))


def test_a_walk_begins_at_a_sample_and_is_closed(run: Run) -> None:
    generator = Generator.from_run(run)
    second = list(generator.sample(2, 3))[1]
    walk = np.stack(list(generator.walk(60, 3, path=1))).astype(int)
    assert len(walk) == 60 and np.abs(walk[0] - second).max() <= 1
    steps = np.abs(walk - np.roll(walk, 1, 0)).mean((1, 2, 3))
    assert steps[0] < 3 * np.median(steps), "the last frame is as near to the first as to any other"
    for frames, path in ((1, 0), (60, 10**6)):
        with pytest.raises(ValueError, match="at least 2 frames, of path 0 to "):
            generator.walk(frames, path=path)


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 1, "seed": -1}, {"count": 1, "truncation": 0.0}])
def test_numbers_out_of_range_are_refused_at_once(run: Run, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be "):
        Generator.from_run(run).sample(**options)


def test_memory_is_that_of_a_batch(run: Run) -> None:
    generator = Generator.from_run(run)
    pictures = generator.sample(10**12)
    list(islice(pictures, 1000))
    before = psutil.Process().memory_info().rss
    for _ in islice(pictures, 20_000):
        pass
    assert psutil.Process().memory_info().rss - before < 4_000_000  # 20,000 pictures are 5 to 20 MB


def test_nothing_global_is_changed(run: Run, tmp_path: Path) -> None:
    state = random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()
    generator = Generator.from_run(run)
    generator.save_pretrained(tmp_path / "saved")
    list(Generator.from_pretrained(tmp_path / "saved").sample(2))
    assert (random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()) == state


def test_it_is_saved_and_opened_as_the_hub_has_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    generator = Generator.from_run(run)
    generator.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["arch"] == "dcgan16" and config["width"] == 4
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "pipeline_tag: unconditional-image-generation" in card and "library_name: fastdcgan" in card
    opened = Generator.from_pretrained(tmp_path / "saved")
    assert not opened.training and capsys.readouterr().out == ""
    assert np.array_equal(list(opened.sample(3)), list(generator.sample(3)))
    opened.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder, tensors: (folder / "config.json").unlink(), "it needs config.json and model.safetensors"),
        (lambda folder, tensors: (folder / "model.safetensors").unlink(), "it needs config.json and model.safetensors"),
        (
            lambda folder, tensors: (folder / "model.safetensors").write_bytes(b"\x80\x04."),
            "no generator that this ver",
        ),
        (lambda folder, tensors: (folder / "config.json").write_text('{"width": "4"}'), "width can't be '4'"),
        (lambda folder, tensors: (folder / "config.json").write_text('{"exec": "x"}'), "unknown fields exec"),
        (lambda folder, tensors: save(folder, tensors, first=torch.ones(3)), r"layers.0.weight is \[3\] there, \["),
        (lambda folder, tensors: save(folder, tensors, another=torch.ones(3)), r"another is \[3\] there, unknown here"),
        (
            lambda folder, tensors: save(folder, tensors, first=torch.tensor(float("nan"))),
            "numbers that are not finite",
        ),
    ],
)
def test_damage_is_named_in_one_line(run: Run, tmp_path: Path, damage: Any, said: str) -> None:
    Generator.from_run(run).save_pretrained(tmp_path)
    damage(tmp_path, load_file(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match=said) as refused:
        Generator.from_pretrained(tmp_path)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def save(folder: Path, tensors: dict[str, torch.Tensor], **changed: torch.Tensor) -> None:
    """Weights with some changed: a number stands for all of a tensor's."""
    names = {"first": "layers.0.weight", "another": "another"}
    for key, tensor in changed.items():
        like = tensors.get(names[key])
        tensors[names[key]] = torch.full_like(like, tensor.item()) if like is not None and not tensor.dim() else tensor
    save_file(tensors, folder / "model.safetensors")


def test_what_is_passed_over_is_warned_of(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    first, last = Run(copy).checkpoints.values()
    (last / "average.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=re.escape(f"passed over: checkpoint {last} is damaged")):
        generator = Generator.from_run(copy)
    assert np.array_equal(
        list(generator.sample(1)), list(Generator.from_run(copy, checkpoint=int(first.name[5:])).sample(1))
    )


def test_a_new_one_has_random_weights() -> None:
    generator = Generator(arch="dcgan32", width=8, channels=1)
    assert generator(torch.zeros(2, 100)).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="resolution 31"):
        Generator(arch="dcgan31")
