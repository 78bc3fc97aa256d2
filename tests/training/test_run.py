"""Real runs: photographs through DALI, Accelerate and the command line, in a process of their own."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, Command
from learned import assert_same_weights, learned
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastdcgan import cli
from fastdcgan.config import TrainConfig, flat, from_flat
from fastdcgan.data.hidden import IN_HIDDEN_FOLDER
from fastdcgan.data.source import Skipped
from fastdcgan.runs.folder import RunFolder
from fastdcgan.training import run
from fastdcgan.training.announce import list_skipped
from fastdcgan.training.run import Schedule, batch_for_few

LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", "train.py")

KEYS = [
    *("step", "images", "epoch", "seconds"),
    *("loss_d", "loss_g", "d_real", "d_fake"),
    *("images_per_sec", "data_wait_fraction", "rollbacks"),
]

TINY = ("--arch", "dcgan32", "--width", 8, "--batch-size", 24, "--log-every", 4, "--precision", "fp32", "--threads", 1)


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(fastdcgan: Command, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 36 steps over photographs, some files of which are broken, through `accelerate launch`."""
    data = tmp_path_factory.mktemp("data") / "photographs"
    shutil.copytree(photographs, data)
    whole = (data / "china" / "000.jpg").read_bytes()
    (data / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "empty.png").touch()
    (data / "text.jpg").write_text("not a picture")
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = fastdcgan(
        "--data", data, "--out", out, "--images", 36 * 24, "--flip", *TINY, "--checkpoint-every", 12, launcher=LAUNCH
    )
    assert result.returncode == 0, result.stderr
    (out / "stdout.txt").write_text(result.stdout)
    (out / "data.txt").write_text(str(data))
    return out


@pytest.mark.slow
def test_a_run_leaves_its_folder(undisturbed: Path) -> None:
    records = metrics(undisturbed)
    assert [record["step"] for record in records] == list(range(4, 37, 4))
    for record in records:
        assert list(record) == KEYS
        assert all(math.isfinite(value) for value in record.values())
        assert record["images"] == record["step"] * 24
        assert record["epoch"] == pytest.approx(record["step"] / 10)
        assert record["images_per_sec"] > 0
        assert 0 <= record["data_wait_fraction"] <= 1
        assert 0 < record["d_real"] < 1 and 0 < record["d_fake"] < 1

    config = json.loads((undisturbed / "config.json").read_text())
    assert config["config"]["batch_size"] == 24 and config["config"]["arch"] == "dcgan32"
    assert torch.__version__.startswith(config["versions"]["torch"])  # which has no +cpu or +cu130
    assert "DALI" in config["conditions"]["data"]

    samples = sorted((undisturbed / "samples").glob("*.png"))
    assert samples[0].stem == "step-00000000" and samples[-1].stem == "step-00000036"
    with Image.open(samples[-1]) as grid:
        assert grid.size == (8 * 34 + 2, 8 * 34 + 2)
    assert samples[0].read_bytes() != samples[-1].read_bytes()
    with Image.open(undisturbed / "losses.png") as plot:
        assert plot.width > 500

    events = EventAccumulator(str(undisturbed / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/G")] == [record["step"] for record in records]
    assert events.Images("samples")

    assert [path.name for path in sorted((undisturbed / "checkpoints").iterdir())] == [
        "step-00000012",
        "step-00000024",
        "step-00000036",
    ]


@pytest.mark.slow
def test_the_discriminator_learns_photographs(undisturbed: Path) -> None:
    records = metrics(undisturbed)
    assert records[-1]["d_real"] > records[-1]["d_fake"] + 0.2
    assert records[-1]["loss_d"] < 2 * math.log(2)  # what a D that knows nothing pays


def test_damaged_pictures_do_not_drown_among_labels(tmp_path: Path) -> None:
    class Told(list[str]):
        def say(self, line: str) -> None:
            self.append(line)

    def told(damaged: int, labels: int) -> list[str]:
        skipped = [Skipped(path=f"{n}.jpg", reason="empty file") for n in range(damaged)]
        skipped += [Skipped(path=f"{n}.txt", reason="not an image", not_a_picture=True) for n in range(labels)]
        lines = Told()
        list_skipped(SimpleNamespace(skipped=skipped), folder, lines)  # type: ignore[arg-type]
        return lines

    folder = RunFolder(tmp_path)
    listed = f"all listed in {tmp_path / 'skipped.txt'}"
    assert told(0, 0) == []
    assert told(0, 1200) == [f"skipped   1,200 files that are no pictures (.txt), {listed}"]
    assert told(1, 2) == [
        "skipped   1 file that can't be used:",
        "          0.jpg: empty file",
        f"          and 2 files that are no pictures (.txt), {listed}",
    ]
    hidden = Skipped(path=".git/a", reason=IN_HIDDEN_FOLDER, not_a_picture=True, count=12, hidden=".git")
    lines = Told()
    list_skipped(SimpleNamespace(skipped=[hidden]), folder, lines)  # type: ignore[arg-type]
    assert lines == [f"left out  12 files in hidden or tool folders (.git), {listed.removeprefix('all ')}"]
    assert told(12, 3)[-2:] == [
        f"          and 2 more, {listed}",
        f"          and 3 files that are no pictures (.txt), {listed}",
    ]


@pytest.mark.slow
def test_broken_files_are_named_and_counted(undisturbed: Path) -> None:
    said, kept = (undisturbed / "stdout.txt").read_text(), (undisturbed / "skipped.txt").read_text()
    assert "240 pictures" in said
    assert (
        said.count("not used, all are learned together (--conditional: each): 2 of 120 pictures each: china, flower\n")
        == 1
    )
    for name in ("truncated.jpg", "empty.png", "text.jpg"):
        assert said.count(name) == 1 and kept.count(name) == 1
    assert json.loads((undisturbed / "config.json").read_text())["conditions"]["skipped"] == 3


@pytest.mark.slow
def test_the_same_command_goes_on_bit_for_bit(undisturbed: Path, fastdcgan: Command, tmp_path: Path) -> None:
    """A run killed between checkpoints, begun again: the same weights, moments, figures and grids as never killed."""
    out = tmp_path / "killed"
    command = ["--data", (undisturbed / "data.txt").read_text(), "--out", out, "--flip", *TINY]
    command += ["--checkpoint-every", 12]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdcgan", "train", *map(str, command), "--images", str(36 * 24)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "step-00000012").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Pictures decoded as they are read are those of the pack that the killed run read.
    result = fastdcgan("train", *command, "--images", 36 * 24, "--data-cache", "off")
    assert result.returncode == 0, result.stderr
    assert "resuming" in result.stdout and "changed " not in result.stdout
    assert_same_weights(learned(out, 36), learned(undisturbed, 36))
    timeless = [key for key in KEYS if key not in ("seconds", "images_per_sec", "data_wait_fraction")]
    assert [[r[k] for k in timeless] for r in metrics(out)] == [[r[k] for k in timeless] for r in metrics(undisturbed)]
    for grid in (undisturbed / "samples").iterdir():
        assert (out / "samples" / grid.name).read_bytes() == grid.read_bytes(), grid.name

    config = json.loads((out / "config.json").read_text())
    config["conditions"]["data_fingerprint"] = "of other pictures"
    (out / "config.json").write_text(json.dumps(config))
    result = fastdcgan("train", *command, "--images", 36 * 24)
    assert "these are not the pictures that the run was begun with" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there a process can only be ended, not asked to stop")
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.exhaustive)])
def test_a_request_to_stop_saves_first(name: str, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    command = [
        sys.executable,
        "-m",
        "fastdcgan",
        "train",
        "--data",
        photographs,
        "--out",
        out,
        "--images",
        10**6,
        *TINY,
    ]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or not metrics(out):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.Signals[name]
    assert "stopped after step" in said and "Traceback" not in said
    last = metrics(out)[-1]["step"]
    assert (out / "checkpoints" / f"step-{last:08d}" / "generator.safetensors").is_file()


@pytest.mark.slow
def test_generate_is_a_function_of_the_seed(undisturbed: Path, fastdcgan: Command, tmp_path: Path) -> None:
    """The first in a process of its own, the others in this one: nothing else is to matter."""

    def asked(seed: int, out: str) -> list[str]:
        return ["generate", str(undisturbed), "--count", "5", "--seed", str(seed), "--out", str(tmp_path / out)]

    result = fastdcgan(*asked(0, "a.png"))
    assert result.returncode == 0, result.stderr
    cli.main(asked(0, "b.png"))
    cli.main(asked(1, "c.png"))
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    cli.main(asked(0, "each"))
    written = sorted(path.name for path in (tmp_path / "each").iterdir())
    assert written == [*(f"0000{i}.png" for i in range(5)), "generated.json"]
    with Image.open(tmp_path / "each" / "00000.png") as one, Image.open(tmp_path / "a.png") as grid:
        assert one.tobytes() == grid.crop((2, 2, 34, 34)).tobytes()


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(photographs: Path, fastdcgan: Command, tmp_path: Path) -> None:
    out = tmp_path / "nan"
    result = fastdcgan(
        "train", "--data", photographs, "--out", out, *TINY, "--images", 1200, "--lr", 1e30, "--log-every", 1
    )
    assert result.returncode == 2
    assert "became nan at step" in result.stderr or "became inf at step" in result.stderr
    assert "checkpoint" in result.stderr and "Traceback" not in result.stderr
    saved = sorted((out / "checkpoints").iterdir())
    if saved:
        assert str(saved[-1]) in result.stderr
        assert all(torch.isfinite(t).all() for t in learned(out, int(saved[-1].name[5:])).values())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["dcgan28", "dcgan64"])
def test_pillow_and_greyscale_and_epochs(arch: str, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / arch
    options = ["--arch", arch, "--width", 8, "--channels", 1, "--batch-size", 120, "--epochs", 2, "--track", "none"]
    cli.main(list(map(str, ("train", "--data", photographs, "--out", out, *options, "--decoder", "pillow"))))
    assert metrics(out)[-1]["step"] == 4 and metrics(out)[-1]["epoch"] == 2
    assert not (out / "tensorboard").exists()


@pytest.mark.parametrize(
    ("options", "count", "processes", "batch"),
    [
        ({}, 150 * 128, 1, 128),
        ({}, 150 * 128 - 1, 1, 64),
        ({}, 2500, 1, 16),
        ({}, 128, 1, 16),
        ({}, 15, 1, 8),
        ({}, 1, 1, 1),
        ({}, 2500, 4, 16),
        ({"accumulate": 4}, 2500, 1, 64),
        ({"accumulate": 8}, 40, 4, 32),  # no smaller one has a part for each
        ({"accumulate": 16}, 40, 4, 128),  # refused
        ({"exact_ranks": 64}, 40, 1, 128),
        ({"exact_ranks": 8, "accumulate": 4}, 40, 1, 32),
        ({"exact_ranks": 16, "accumulate": 4}, 40, 1, 128),
        ({"data": "faces"}, 40, 1, 16),
        ({"d_steps": 3}, 3 * 150 * 32, 1, 32),
        ({"d_steps": 3}, 400, 1, 16),
        ({"d_steps": 3}, 2, 1, 128),
    ],
)
def test_few_pictures_are_taken_in_a_smaller_batch(
    options: dict[str, object], count: int, processes: int, batch: int
) -> None:
    config = from_flat({**flat(TrainConfig()), "data": "/photos", **options}).resolved()
    assert batch_for_few(config, count, processes) == batch


@pytest.mark.parametrize(
    ("options", "count", "steps"),
    [
        ({"batch_size": 16}, 2500, 3125),  # 50,000 images are more than 20 epochs
        ({"batch_size": 128}, 20_000, 20 * 156),
        ({"batch_size": 16, "d_steps": 5}, 2500, 625),
        ({"batch_size": 16, "epochs": 2}, 2500, 2 * 156),
        ({"batch_size": 16, "images": 160}, 2500, 10),
        ({"batch_size": 16, "data": "faces"}, 8000, 2250),
    ],
)
def test_how_long_is_trained(options: dict[str, object], count: int, steps: int) -> None:
    config = from_flat({**flat(TrainConfig()), "data": "/photos", **options}).resolved()
    assert Schedule.of(config, count).total == steps


def test_a_batch_that_pictures_do_not_fill_is_refused() -> None:
    config = from_flat({**flat(TrainConfig()), "data": "/photos", "batch_size": 64}).resolved()
    with pytest.raises(ValueError, match=r"--batch-size 64 is more than the 40 usable images in /photos: use .* 40 or"):
        Schedule.of(config, 40)
    config = from_flat({**flat(config), "d_steps": 2}).resolved()
    with pytest.raises(ValueError, match=r"--batch-size 64 for each of --d-steps 2 is more than the 100 .* 50 or less"):
        Schedule.of(config, 100)


def test_a_step_counts_the_pictures_of_all_updates_of_the_discriminator() -> None:
    config = from_flat({**flat(TrainConfig()), "data": "/photos", "d_steps": 5, "epochs": 3}).resolved()
    schedule = Schedule.of(config, 128 * 5 * 10 + 600)
    assert (config.images_a_step, schedule.per_epoch, schedule.total) == (640, 10, 30)
    config = from_flat({**flat(TrainConfig()), "data": "/photos", "d_steps": 5, "images": 641}).resolved()
    assert Schedule.of(config, 10_000).total == 2


def test_a_run_without_a_budget_keeps_that_which_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a later version's is another; one that was named does not stay."""
    np.save(tmp_path / "pictures.npy", np.random.default_rng(0).integers(256, size=(32, 16, 16, 3), dtype=np.uint8))

    def steps(out: str, *options: object) -> int:
        small = ("--arch", "dcgan16", "--width", 4, "--plan", "default", "--threads", 1, "--track", "none")
        data = ("--data", tmp_path / "pictures.npy", "--out", tmp_path / out)
        cli.main(list(map(str, ("train", *data, *small, *options))))
        return int(metrics(tmp_path / out)[-1]["step"])

    monkeypatch.setattr(run, "EPOCHS", 1)
    monkeypatch.setattr(run, "FEWEST_IMAGES", 64)
    assert steps("usual") == 64 / 16
    assert steps("named", "--images", 32) == 32 / 16
    monkeypatch.setattr(run, "FEWEST_IMAGES", 96)
    assert steps("usual") == 64 / 16
    assert steps("named") == 96 / 16
    assert steps("usual", "--images", 80) == 80 / 16
    assert steps("usual") == 96 / 16


@pytest.mark.slow
def test_a_run_over_few_pictures_goes_on_in_its_own_batch(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, out = tmp_path / "few", tmp_path / "out"
    few.mkdir()
    for path in sorted((photographs / "china").iterdir())[:40]:
        shutil.copy(path, few)

    def train(*options: object) -> str:
        small = ("--arch", "dcgan32", "--width", 8, "--threads", 1, "--track", "none")
        cli.main(list(map(str, ("train", "--data", few, "--out", out, *small, *options))))
        return capsys.readouterr().out

    said = train("--images", 64)
    assert said.count("batch     16 instead of 128, as 40 pictures would be too few steps (--batch-size)") == 1
    assert "memorised" in said and "--recipe small-data may help" in said
    assert json.loads((out / "config.json").read_text())["config"]["batch_size"] == 16

    assert "instead of" not in train("--images", 128)
    assert metrics(out)[-1]["step"] == 8
    train("--images", 192, "--batch-size", 16)  # naming it does not change how it was begun
    train("--images", 256)
    assert metrics(out)[-1]["step"] == 16
    with pytest.raises(SystemExit):
        train("--images", 256, "--batch-size", 32)
    assert "--batch-size" in capsys.readouterr().err
