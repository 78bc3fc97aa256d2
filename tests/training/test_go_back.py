"""Going back within a run, and on with other options: --from-step; and what each refusal says to do instead."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learned import assert_same_weights, learned
from measured import ONE
from PIL import Image

from fastdcgan import cli
from fastdcgan.evaluation.records import append_evaluations, read_evaluations
from fastdcgan.storage.files import read_json

NETWORK = ("--data", "data.npy", "--arch", "dcgan16", "--width", "4", "--latent-dim", "6", "--batch-size", "4")
OFTEN = ("--checkpoint-every", "1", "--keep-checkpoints", "9", "--sample-every", "1", "--log-every", "1")
SMALL = (*NETWORK, *OFTEN, "--track", "none", "--precision", "fp32", "--device", "cpu")


def train(*options: object) -> None:
    cli.main(["train", *SMALL, *map(str, options)])


def refusal(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        train(*options)
    return capsys.readouterr().err.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps."""
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("--images", 24, "--out", "a", "--objective", "bce")  # which has labels to smooth
    return folder


@pytest.fixture
def inside(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def steps(run: str = "a", file: str = "metrics.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in Path(run, file).read_text().splitlines()]


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def conditions(run: str = "a") -> dict[str, Any]:
    return read_json(Path(run, "config.json"))["conditions"]


def numbered(*numbers: int) -> list[str]:
    return [f"step-{number:08d}" for number in numbers]


def test_what_came_later_is_set_aside(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: (path / "manifest.json").read_bytes() for path in Path("a/checkpoints").iterdir()}
    lines = Path("a/metrics.jsonl").read_text().splitlines()
    (inside / "a/best.json").write_text(json.dumps({"step": 5, "metric": "kid", "value": 0.1}))
    measured = [replace(ONE, step=step) for step in (3, 5, 6)]
    append_evaluations(inside / "a/evaluations.jsonl", measured)
    train("--images", 16, "--out", "a", "--from-step", 3)
    said = capsys.readouterr().out
    moved = "3 checkpoints, 3 grids, 3 lines of figures and 2 of evaluations are in a/set-aside/1"
    assert f"set aside what came after step 3: {moved}" in said
    assert "resuming  after step 3" in said
    assert names("a/checkpoints") == numbered(1, 2, 3, 4)
    assert names("a/set-aside/1/checkpoints") == numbered(4, 5, 6)
    for path in Path("a/set-aside/1/checkpoints").iterdir():
        assert (path / "manifest.json").read_bytes() == before[path.name]
    assert names("a/set-aside/1/samples") == [f"{name}.png" for name in numbered(4, 5, 6)]
    assert steps() == [1, 2, 3, 4] and steps(file="set-aside/1/metrics.jsonl") == [4, 5, 6]
    kept = [json.loads(line) for line in Path("a/set-aside/1/metrics.jsonl").read_text().splitlines()]
    assert kept == [json.loads(line) for line in lines[3:]]
    assert read_evaluations(inside / "a/evaluations.jsonl") == (measured[:1], 0)
    assert read_evaluations(inside / "a/set-aside/1/evaluations.jsonl") == (measured[1:], 0)
    assert not Path("a/best.json").exists() and Path("a/set-aside/1/best.json").exists()


def test_gone_back_to_alone_the_same_steps_come_again(inside: Path) -> None:
    before = learned(Path("a"), 6)
    train("--images", 24, "--out", "a", "--from-step", 2)
    assert_same_weights(learned(Path("a"), 6), before)


def test_other_options_from_a_step_on(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ("--lr", 1e-12, "--beta1", 0.4, "--beta2", 0.9, "--label-smoothing", 0.1, "--accumulate", 2)
    train("--images", 20, "--out", "a", "--from-step", 4, *changed)
    assert "changed   --lr: 0.0012, now 1e-12" in capsys.readouterr().out
    before, after = learned(Path("a"), 4), learned(Path("a"), 5)
    weights = [name for name in before if re.fullmatch(r"(generator|discriminator)\..*(weight|bias)", name)]
    assert weights and all((after[name] - before[name]).abs().max() < 1e-6 for name in weights)
    (change,) = conditions()["changes"]
    assert change["from_step"] == 4 and "--lr: 0.0012, now 1e-12" in change["options"] and len(change["options"]) == 5
    capsys.readouterr()
    train("--images", 24, "--out", "a", *changed)
    assert "resuming  after step 5" in capsys.readouterr().out, "from now on these are the run's options"
    assert "--beta1: 0.4, now 0.5" in refusal(capsys, "--images", 24, "--out", "a")
    assert conditions()["changes"] == [change]


def test_the_same_command_goes_on_and_not_back_again(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("--out", "a", "--from-step", 3, "--lr", 1e-4)
    train("--images", 16, *command)
    train("--images", 20, *command)
    assert "resuming  after step 4" in capsys.readouterr().out
    assert names("a/set-aside") == ["1"]
    train("--images", 20, "--out", "a", "--from-step", 3, "--lr", 2e-5)
    assert names("a/set-aside") == ["1", "2"] and names("a/checkpoints") == numbered(1, 2, 3, 4, 5)
    assert [change["from_step"] for change in conditions()["changes"]] == [3, 3]


def test_latest_goes_on_with_other_options(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("--images", 28, "--out", "a", "--from-step", "latest", "--lr", 1e-4)
    train(*command)
    assert "resuming  after step 6" in capsys.readouterr().out
    train(*command)
    assert conditions()["changes"] == [{"from_step": 6, "options": ["--lr: 0.0012, now 0.0001"]}]
    assert not Path("a/set-aside").exists()


def test_refusals_name_what_would_do_it(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}
    here = ("--images", 28, "--out", "a")
    assert "so do these with --from-step latest" in refusal(capsys, *here, "--lr", 1e-4)
    for options in (("--objective", "hinge"), ("--batch-size", 6), ("--seed", 1, "--lr", 1e-4)):
        for more in ((), ("--from-step", 3)):
            complaint = refusal(capsys, *here, *options, *more)
            assert "these begin a new run with its weights by --init-from a and another --out" in complaint
    assert "begin anew: choose another --out" in refusal(capsys, *here, "--width", 8)
    assert "step 9 but those of steps 1, 2, 3, 4, 5, 6" in refusal(capsys, *here, "--from-step", 9)
    assert "must be the step of a checkpoint, or latest" in refusal(capsys, *here, "--from-step", "first")
    assert "name its folder by --out" in refusal(capsys, "--images", 28, "--from-step", 3)
    assert "new holds no run" in refusal(capsys, "--images", 28, "--out", "new", "--from-step", 3)
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before
    assert not Path("new").exists() and not Path("runs").exists()


def test_what_the_refusals_name_does_it(inside: Path) -> None:
    train("--images", 28, "--out", "a", "--lr", 1e-4, "--from-step", "latest")
    train("--images", 6, "--batch-size", 6, "--objective", "hinge", "--init-from", "a", "--out", "b")
    assert conditions("b")["begun_from"]["step"] == 7


def test_a_damaged_checkpoint_is_not_gone_back_to(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a/checkpoints/step-00000003/generator.safetensors").write_bytes(b"")
    assert "step-00000003 is damaged" in refusal(capsys, "--images", 24, "--out", "a", "--from-step", 3)
    assert names("a/checkpoints") == numbered(1, 2, 3, 4, 5, 6) and not Path("a/set-aside").exists()


def test_the_reports_advice_names_a_command_that_works(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Grids that became alike after step 4."""
    with Image.open("a/samples/step-00000006.png") as grid:
        size = grid.size
    various = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for step in range(1, 7):
        Image.fromarray(various if step == 4 else various // 9 + 100).save(f"a/samples/step-{step:08d}.png")
    cli.main(["report", "a"])
    page = Path("a/report.html").read_text()
    assert "The samples became alike" in page
    advice = re.search(r"with (--out a --from-step \d+) and a lower --lr", page)
    assert advice is not None
    train("--images", 24, *shlex.split(advice[1]), "--lr", 1e-4)
    assert "resuming  after step 4" in capsys.readouterr().out
