"""A new run that begins with the weights of another one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learned import assert_same_weights, learned

from fastdcgan import cli
from fastdcgan.runs.origin import is_same, split
from fastdcgan.storage.files import read_json

NETWORK = ("--arch", "dcgan16", "--width", "4", "--latent-dim", "6")
OFTEN = ("--checkpoint-every", "1", "--sample-every", "1", "--track", "none", "--precision", "fp32", "--device", "cpu")


def train(*options: object) -> None:
    cli.main(["train", *OFTEN, *map(str, options)])


def refusal(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        train(*options)
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of pictures, and a run of 3 steps on the first."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    for name in ("first", "second"):
        np.save(folder / f"{name}.npy", rng.integers(0, 256, (12, 16, 16, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("--data", "first.npy", *NETWORK, "--batch-size", 4, "--images", 12, "--out", "a")
    return folder


@pytest.fixture
def inside(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def conditions(run: str) -> dict[str, Any]:
    return read_json(Path(run, "config.json"))["conditions"]


def config(run: str) -> dict[str, Any]:
    return read_json(Path(run, "config.json"))["config"]


@pytest.mark.parametrize(("origin", "step"), [("a", 3), ("a@2", 2), ("a@latest", 3), ("a@best", 1)])
def test_weights_and_moments_are_those_of_the_other_run(
    origin: str, step: int, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "a" / "best.json").write_text(json.dumps({"step": 1, "metric": "kid", "value": 0.5}))
    # So little is learned that the weights stay as they were.
    train("--init-from", origin, "--data", "second.npy", "--batch-size", 6, "--images", 6, "--lr", 1e-12, "--out", "b")
    said = capsys.readouterr().out
    assert f"begun     with the weights of a@{step} ({4 * step} images), and Adam's moments" in said
    assert "--batch-size: 4, now 6" in said and "--lr: 0.0012, now 1e-12" in said
    assert "--data: first.npy, now second.npy" in said
    before, after = learned(Path("a"), step), learned(Path("b"), 1)
    for name, tensor in before.items():
        network = name.split(".")[0]
        if name.endswith(".step"):
            assert after[name] == tensor + 1, name
        elif network in ("generator", "discriminator") and name.endswith(("weight", "bias")):
            assert torch.allclose(after[name], tensor, atol=1e-6), name
    assert Path("b/samples/step-00000000.png").read_bytes() == Path(f"a/samples/step-{step:08d}.png").read_bytes()
    assert config("b")["init_from"] == f"a@{step}", "no open ends"
    ancestor = conditions("b")["begun_from"]
    assert ancestor == {
        "run": "a",
        "run_id": conditions("a")["run_id"],
        "step": step,
        "images": 4 * step,
        "moments": True,
    }
    assert conditions("b")["run_id"] != ancestor["run_id"]


def test_a_fresh_optimizer(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--init-from", "a", "--fresh-optimizer", "--images", 4, "--batch-size", 4, "--lr", 1e-12, "--out", "b")
    assert "without Adam's moments" in capsys.readouterr().out
    steps = {name: tensor for name, tensor in learned(Path("b"), 1).items() if name.endswith(".step")}
    assert steps and all(tensor == 1 for tensor in steps.values())
    assert conditions("b")["begun_from"]["moments"] is False


def test_network_and_data_are_those_of_the_other_run_where_none_are_named(inside: Path) -> None:
    train("--init-from", "a", "--batch-size", 4, "--images", 4, "--objective", "hinge", "--out", "b")
    found = config("b")
    assert (found["arch"], found["width"], found["latent_dim"]) == ("dcgan16", 4, 6)
    assert (found["data"], found["objective"]) == ("first.npy", "hinge")


def test_it_goes_on_and_does_not_begin_again(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = ("--batch-size", 4, "--data", "second.npy")
    train("--init-from", "a", *same, "--images", 12, "--out", "undisturbed")
    train("--init-from", "a", *same, "--images", 4, "--out", "b")
    shutil.rmtree("a")  # it isn't needed any more
    capsys.readouterr()
    train("--init-from", "a", *same, "--images", 8, "--out", "b")
    said = capsys.readouterr().out
    assert "resuming  after step 1" in said and "begun     with" not in said
    train(*NETWORK, *same, "--images", 12, "--out", "b")
    assert_same_weights(learned(Path("b"), 3), learned(Path("undisturbed"), 3))
    assert conditions("b")["begun_from"]["run"] == "a"


def test_what_has_no_checkpoint_yet_begins_again_with_the_same(inside: Path) -> None:
    options = ("--init-from", "a", "--batch-size", 4, "--images", 8, "--out")
    train(*options, "undisturbed")
    train(*options, "b")
    shutil.rmtree("b/checkpoints")
    train(*options, "b")
    assert_same_weights(learned(Path("b"), 2), learned(Path("undisturbed"), 2))


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        (("--width", 8), "layer 1 of the generator is 6 to 8 channels, kernel 4, stride 1 there, 6 to 16 channels"),
        (("--latent-dim", 7), "layer 1 of the generator is 6 to 8 channels, kernel 4, stride 1 there, 7 to 8 channels"),
        (("--channels", 4), "layer 3 of the generator is 4 to 3 channels, kernel 4, stride 2 there, 4 to 4 channels"),
        (("--arch", "dcgan32"), "layer 1 of the generator is 6 to 8 channels, kernel 4, stride 1 there, 6 to 16"),
    ],
)
def test_networks_of_another_size_are_refused_by_the_first_layer(
    options: tuple[object, ...], layer: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint = refusal(capsys, "--init-from", "a@2", *options, "--out", "b")
    assert f"--init-from a@2 does not fit: {layer}" in complaint
    assert "--arch dcgan16 --width 4 --channels 3 --latent-dim 6" in complaint
    assert not Path("b").exists()


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ("nowhere", "no such run folder: nowhere"),
        ("a@7", "step 7 but those of steps 1, 2, 3"),
        ("a@best", "no best.json"),
        ("first.npy", "first.npy"),
        ("a@first", "no such run folder: a@first"),
    ],
)
def test_what_is_not_there(origin: str, words: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refusal(capsys, "--init-from", origin, "--out", "b")
    assert not Path("b").exists()


def test_damaged_checkpoints_are_passed_over_but_a_named_one_is_refused(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "a/checkpoints/step-00000003/optimizer.safetensors").write_bytes(b"")
    options = ("--batch-size", 4, "--images", 4, "--out")
    assert "step-00000003 is damaged" in refusal(capsys, "--init-from", "a@3", *options, "b")
    assert not Path("b", "config.json").exists()
    train("--init-from", "a", *options, "b")
    said = capsys.readouterr().out
    assert "passed    over checkpoint a/checkpoints/step-00000003" in said and "weights of a@2" in said


def test_another_origin_than_it_has_begun_with_is_refused(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--batch-size", 4, "--images", 4)
    train("--init-from", "a@2", *options, "--out", "b")
    train("--data", "first.npy", *NETWORK, *options, "--out", "new")
    capsys.readouterr()
    complaint = refusal(capsys, "--init-from", "a@3", *options, "--out", "b")
    assert "b holds a run that has begun with a@2, not with a@3" in complaint
    complaint = refusal(capsys, "--init-from", "a", *options, "--data", "first.npy", "--out", "new")
    assert "new holds a run that has begun with new weights, not with a" in complaint
    complaint = refusal(capsys, "--init-from", "a@2", *options, "--out", "a")
    assert "is the run in --out itself" in complaint
    assert "--fresh-optimizer" in refusal(capsys, *options, "--fresh-optimizer", "--out", "c")


def test_without_out_a_run_with_another_origin_gets_a_folder_of_its_own(inside: Path) -> None:
    options = ("--data", "first.npy", *NETWORK, "--batch-size", 4, "--images", 4)
    train("--init-from", "a", *options)
    train(*options)
    train(*options)
    (first, second) = sorted(Path("runs").iterdir())
    assert config(str(first))["init_from"] == "a@3" and config(str(second))["init_from"] is None


def test_imported_weights_are_trained_on(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["export", "a", "--to", "tutorial", "--out", "exported"])
    cli.main(["import", "exported/netG.pth", "exported/netD.pth", "--out", "mine"])
    options = ("--init-from", "mine", "--batch-size", 4, "--images", 4, "--lr", 1e-12, "--out", "b")
    assert "--init-from mine: it knows no pictures: name yours by --data" in refusal(capsys, *options)
    train(*options, "--data", "second.npy")
    assert "without Adam's moments" in capsys.readouterr().out
    before, after = learned(Path("a"), 3), learned(Path("b"), 1)
    for name in ("discriminator.layers.0.weight", "discriminator.layers.2.weight"):
        assert torch.allclose(after[name], before[name], atol=1e-6)


def test_the_report_says_where_it_came_from(inside: Path) -> None:
    train("--init-from", "a@2", "--batch-size", 4, "--images", 4, "--out", "b")
    page = Path("b/report.html").read_text()
    assert "begun with" in page and "a@2" in page


def test_profiling_begins_there_too(inside: Path) -> None:
    window = ("--profile-wait", "0", "--profile-warmup", "1", "--profile-active", "1")
    cli.main(["profile", "--init-from", "a", "--batch-size", "4", "--out", "p", "--device", "cpu", *window])
    assert Path("p/profile/summary.json").exists()


def test_the_name_of_a_checkpoint_is_split_from_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split("runs/a@12") == (Path("runs/a"), "12")
    assert split("runs/a@best") == (Path("runs/a"), "best")
    assert split("me@home/a") == (Path("me@home/a"), "latest")
    Path("a@12").mkdir()
    assert split("a@12") == (Path("a@12"), "latest"), "a folder of that name is meant"
    assert is_same("b@3", "b") and is_same("b@3", "b@best") and is_same("b@3", "b@3")
    assert not is_same("b@3", "b@4") and not is_same("b@3", "c@3") and not is_same("b@3", None)
    assert is_same(None, None) and not is_same(None, "b")
