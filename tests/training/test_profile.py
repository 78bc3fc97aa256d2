"""`--profile` and `fastdcgan profile`: a run's folder has a profile afterwards, and is otherwise what it was."""

import hashlib
import json
from pathlib import Path

import pytest
from conftest import Command
from PIL import Image

from fastdcgan import cli
from fastdcgan.limits.roofline import Ceilings
from fastdcgan.telemetry.profiler import step_profiler
from fastdcgan.telemetry.profiler.profiled_intervals import Interval, ProfiledIntervals

WINDOW = ("--profile-wait", "1", "--profile-warmup", "1", "--profile-active", "2")
TINY = (
    *("--arch", "dcgan16", "--width", "4", "--batch-size", "4", "--precision", "fp32", "--device", "cpu"),
    *("--plan", "default", "--decoder", "pillow", "--track", "none", "--log-every", "2"),
)
FILES = {"trace.json.gz", "memory.png", "summary.txt", "summary.json", "tensorboard"}


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Ceilings(name="this CPU", flops={"fp32": 1e11, "bf16": 2e11}, bytes=2e10)
    monkeypatch.setattr(step_profiler, "device_ceilings", lambda device, seconds: here)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        Image.new("RGB", (16, 16), (20 * number, 90, 200)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    cli.main(["train", "--data", str(pictures), "--out", str(out), "--images", "24", *TINY])
    return out


def contents(folder: Path) -> dict[str, str]:
    """Of all but the profile."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "profile" not in path.parts
    }


def test_training_leaves_a_profile_beside_the_rest(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    request = ["train", "--data", str(pictures), "--out", str(out), "--images", "24", *TINY]
    cli.main([*request, "--profile", *WINDOW])
    assert {path.name for path in (out / "profile").iterdir()} == FILES
    said = capsys.readouterr().out
    assert (out / "profile" / "summary.txt").read_text().strip() in said
    assert "ui.perfetto.dev" in said
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 6


def test_recorded_steps_stay_out_of_the_figures_of_speed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laps: list[Interval] = []
    monkeypatch.setattr(ProfiledIntervals, "toggle", lambda self, now: laps.append(now))
    request = ["train", "--data", str(pictures), "--out", str(tmp_path / "run"), "--images", "24", *TINY]
    cli.main([*request, "--log-every", "6", "--checkpoint-every", "6", "--profile", *WINDOW])
    assert [lap.steps for lap in laps] == [2, 4]
    assert all(lap.seconds > 0 for lap in laps)


def test_a_profiled_run_learns_what_any_other_does(run: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli.main(["train", "--data", str(pictures), "--out", str(out), "--images", "24", *TINY, "--profile", *WINDOW])
    newest = "checkpoints/step-00000006/generator.safetensors"
    assert (out / newest).read_bytes() == (run / newest).read_bytes()


def test_a_run_is_profiled_where_it_stands_and_stays_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    capsys.readouterr()
    cli.main(["profile", str(run), *WINDOW])
    assert contents(run) == before
    assert {path.name for path in (run / "profile").iterdir()} == FILES
    said = capsys.readouterr().out
    assert f"profile   steps 9 to 10 of {run}" in said
    summary = json.loads((run / "profile" / "summary.json").read_text())
    assert summary["subject"]["plan"] == json.loads((run / "config.json").read_text())["conditions"]["plan"]
    names = {phase["name"] for phase in summary["phases"]}
    assert {"data wait", "generator", "backward D", "optimizer G", "metrics"} <= names


def test_without_a_run_options_say_what_is_profiled(pictures: Path, tmp_path: Path) -> None:
    cli.main(["profile", "--data", str(pictures), "--out", str(tmp_path / "new"), *TINY, *WINDOW])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["profile"]
    assert {path.name for path in (tmp_path / "new" / "profile").iterdir()} == FILES


def test_few_pictures_are_profiled_in_the_batch_that_they_would_be_trained_in(pictures: Path, tmp_path: Path) -> None:
    at = TINY.index("--batch-size")
    cli.main(["profile", "--data", str(pictures), "--out", str(tmp_path), *TINY[:at], *TINY[at + 2 :], *WINDOW])
    assert ", batch 8, " in (tmp_path / "profile" / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profile", "{tmp}/none"], "no such run folder"),
        (["profile", "{tmp}"], "is not a run's folder: it has no config.json"),
        (["profile", "{run}", "--batch-size", "8"], "another configuration (--batch-size: 4, now 8)"),
        (["profile", "{run}", "--out", "{tmp}/x"], "goes into its own folder"),
        (["profile", "{run}", "--profile-active", "0"], "--profile-active 0: must be at least 1"),
        (["profile", "--out", "{run}", *TINY], "already holds a run: fastdcgan profile {run} profiles it"),
        (
            ["train", "--data", "{pictures}", "--out", "{tmp}/r", "--images", "24", *TINY, "--profile"],
            "--profile-wait 10 --profile-warmup 3 --profile-active 5 need 18 steps, and the run has 6 left",
        ),
    ],
)
def test_what_cannot_be_profiled_is_said_in_one_line(
    arguments: list[str], words: str, run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"run": run, "tmp": tmp_path, "pictures": pictures}
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([argument.format(**names) for argument in arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert words.format(**names) in said[0]


@pytest.mark.parametrize("verb", ["train", "profile"])
def test_a_profile_folder_that_is_a_file(
    verb: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profile").touch()
    request = ["--data", str(pictures), "--out", str(tmp_path), *TINY, *WINDOW]
    with pytest.raises(SystemExit):
        cli.main([verb, *request, "--profile", "--images", "24"])
    assert f"can't write to the output folder {tmp_path / 'profile'}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["profile"]


@pytest.mark.slow
def test_two_ranks_write_their_own_and_name_their_all_reduce(
    fastdcgan: Command, pictures: Path, tmp_path: Path
) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py")
    done = fastdcgan(
        *("--data", pictures, "--out", tmp_path / "run", "--images", "24", *TINY, "--profile", *WINDOW),
        launcher=launcher,
    )
    assert done.returncode == 0, done.stderr
    ranks = {"trace-rank1.json.gz", "memory-rank1.png", "summary-rank1.txt", "summary-rank1.json"}
    assert {path.name for path in (tmp_path / "run" / "profile").iterdir()} == FILES | ranks
    for name in ("summary.json", "summary-rank1.json"):
        summary = json.loads((tmp_path / "run" / "profile" / name).read_text())
        assert "all-reduce" in {phase["name"] for phase in summary["phases"]}
        assert "discriminator real + discriminator fake" in {phase["name"] for phase in summary["phases"]}
