"""What a user can get wrong: one clear line, exit code 2, never a traceback, and no run folder left behind."""

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Command
from PIL import Image

from fastdcgan import cli
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import TakeStep
from fastdcgan.gan.step import StepMetrics, TrainState, train_step
from fastdcgan.limits.roofline import KNOWN_GPUS
from fastdcgan.training import trainer


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command line in this process; returns its one line of complaint."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    complaint = capsys.readouterr().err.strip().splitlines()
    assert len(complaint) == 1, complaint
    assert complaint[0].startswith("fastdcgan: error: ")
    return complaint[0]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Three good pictures and two bad ones."""
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 50), (number * 80, 10, 200)).save(folder / f"{number}.jpg")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("hello")
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--images", 0), "--images 0"),
        (("--epochs", 0), "--epochs 0"),
        (("--images", 5, "--epochs", 5), "give one"),
        (("--batch-size", -1), "--batch-size -1"),
        (("--arch", "dcgan63"), "63"),
        (("--arch", "stylegan"), "'stylegan'"),
        (("--arch", "dcgan28", "--resolution", 64), "28x28"),
        (("--resolution", 100), "the nearest are 96 and 112"),
        (("--resolution", "64x100"), "the nearest are 64x96 and 56x88"),
        (("--resolution", "64:100"), "HEIGHTxWIDTH, as 128x64"),
        (("--fit", "squeeze"), "--fit"),
        (("--channels", 2), "--channels 2"),
        (("--lr", 0), "--lr 0"),
        (("--label-smoothing", 0.7), "--label-smoothing 0.7"),
        (("--objective", "hinge", "--label-smoothing", 0.1), "hinge"),
        (("--seed", -1), "--seed -1"),
        (("--data-threads", 100_000), "--data-threads 100000"),
    ],
)
def test_options_that_make_no_sense(
    options: tuple[object, ...], words: str, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert words in refusal(capsys, "train", "--data", few, "--out", out, *options)
    assert not out.exists()


def test_data_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "no such folder" in refusal(capsys, "train", "--data", tmp_path / "nowhere", "--out", out)
    (tmp_path / "nothing").mkdir()
    assert "no pictures" in refusal(capsys, "train", "--data", tmp_path / "nothing", "--out", out)
    (tmp_path / "nothing" / "notes.txt").write_text("hello")
    assert "1 other file" in refusal(capsys, "train", "--data", tmp_path / "nothing", "--out", out)
    assert not out.exists()


def test_fewer_good_pictures_than_a_batch(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complaint = refusal(capsys, "train", "--data", few, "--batch-size", 4, "--out", tmp_path / "out")
    assert "--batch-size 4" in complaint and "3 usable" in complaint
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(out) in refusal(capsys, "train", "--data", few, "--batch-size", 2, "--out", out)


def test_another_configuration_in_the_same_folder(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    same = ("train", "--data", few, "--batch-size", 2, "--out", out, "--arch", "dcgan16", "--width", 4)
    cli.main([str(argument) for argument in (*same, "--images", 4)])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    complaint = refusal(capsys, *same, "--images", 4, "--lr", 0.1, "--objective", "hinge")
    assert "--lr" in complaint and "--objective" in complaint and "--beta1" not in complaint
    assert "already holds a run" in refusal(capsys, *same, "--images", 4, "--resume", "off")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    cli.main([str(argument) for argument in (*same, "--images", 4)])
    assert "Nothing to do" in capsys.readouterr().out
    cli.main([str(argument) for argument in (*same, "--images", 8)])
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_checkpoint_of_another_architecture_is_passed_over(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, width in (("a", 4), ("b", 8)):
        arguments = ("train", "--data", few, "--batch-size", 2, "--images", 2, "--out", tmp_path / name)
        cli.main([str(a) for a in (*arguments, "--arch", "dcgan16", "--width", width)])
    theirs = tmp_path / "b" / "checkpoints" / "step-00000001"
    ours = tmp_path / "a" / "checkpoints" / "step-00000001"
    ours.rename(tmp_path / "a" / "kept")
    shutil.copytree(theirs, ours)
    capsys.readouterr()
    complaint = refusal(capsys, "generate", tmp_path / "a", "--out", tmp_path / "grid.png")
    assert "is of another run" in complaint and str(ours) in complaint
    assert not (tmp_path / "grid.png").exists()

    shutil.rmtree(ours)
    (tmp_path / "a" / "kept").rename(ours)
    theirs.rename(ours.with_name("step-00000009"))
    cli.main(["generate", str(tmp_path / "a"), "--out", str(tmp_path / "grid.png")])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("passed over: ") and "step-00000009 " in said[0]
    assert "from step 1 of" in said[1] and (tmp_path / "grid.png").exists()


def run_of(few: Path, out: Path, images: int, *more: object) -> None:
    options = ("--data", few, "--batch-size", 2, "--arch", "dcgan16", "--width", 4, "--checkpoint-every", 1)
    cli.main([str(a) for a in ("train", *options, "--out", out, "--images", images, *more)])


def test_a_damaged_checkpoint_is_named_passed_over_and_kept(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    for run in (out, undisturbed):
        run_of(few, run, 6)
    capsys.readouterr()
    saved = out / "checkpoints" / "step-00000003"
    flipped = bytearray((saved / "optimizer.safetensors").read_bytes())
    flipped[-1] ^= 1
    (saved / "optimizer.safetensors").write_bytes(flipped)
    run_of(few, out, 6)
    said = capsys.readouterr().out
    assert f"passed    over checkpoint {saved} is damaged: its optimizer.safetensors is not what was written" in said
    assert "resuming  after step 2" in said
    for name in ("generator", "discriminator", "optimizer"):
        file = Path("checkpoints") / "step-00000003" / f"{name}.safetensors"
        assert (out / file).read_bytes() == (undisturbed / file).read_bytes()
    aside = saved.with_name(f"{saved.name}.set-aside")
    assert (aside / "optimizer.safetensors").read_bytes() == flipped


def test_where_all_checkpoints_are_damaged_the_run_does_not_begin_again(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(few, tmp_path / "out", 6)
    folder = tmp_path / "out" / "checkpoints"
    files = ("state.json", "average.safetensors", "manifest.json")
    for number, saved in enumerate(sorted(folder.iterdir())):
        (saved / files[number]).write_bytes(b"")
    capsys.readouterr()
    train = ("train", "--data", few, "--batch-size", 2, "--arch", "dcgan16", "--width", 4, "--images", 8)
    for arguments in ((*train, "--out", tmp_path / "out"), ("generate", tmp_path / "out", "--out", tmp_path / "x.png")):
        complaint = refusal(capsys, *arguments)
        assert f"no checkpoint in {folder} can be used" in complaint and "(and 2 more like it)" in complaint
        assert "step-00000003 is damaged: its manifest.json is damaged" in complaint


def test_a_run_from_before_there_were_ids_goes_on(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run_of(few, out, 4)
    for saved in (out / "checkpoints").iterdir():
        (saved / "manifest.json").unlink()
        record = json.loads((saved / "state.json").read_text())
        (saved / "state.json").write_text(json.dumps({**record, "format": 1, "run": None}))
    config = json.loads((out / "config.json").read_text())
    del config["conditions"]["run_id"], config["config"]["keep_every"]
    (out / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    run_of(few, out, 6)
    assert "resuming  after step 2" in capsys.readouterr().out
    given = json.loads((out / "config.json").read_text())["conditions"]["run_id"]
    assert json.loads((out / "checkpoints" / "step-00000003" / "state.json").read_text())["run"] == given


def test_a_run_that_lost_its_config_keeps_its_id(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_of(few, out, 4)
    before = json.loads((out / "config.json").read_text())["conditions"]["run_id"]
    (out / "config.json").unlink()
    run_of(few, out, 6)
    assert json.loads((out / "config.json").read_text())["conditions"]["run_id"] == before


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_of(few, out, 4)
    capsys.readouterr()

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    options = ("--data", few, "--batch-size", 2, "--arch", "dcgan16", "--width", 4, "--checkpoint-every", 1)
    complaint = refusal(capsys, "train", *options, "--out", out, "--images", 2000)
    assert "checkpoint of step 3 can't be written" in complaint and "No space left on device" in complaint
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["step-00000001", "step-00000002"]
    assert len((out / "metrics.jsonl").read_text().splitlines()) < 10, "noticed soon"


def test_weights_that_are_no_numbers_are_never_saved(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses of a step are those before its update, so they can be well when its gradients were not."""
    steps = 0

    def poisoned(plan: Plan, state: TrainState) -> TakeStep:
        def take(real_BCHW: torch.Tensor, z_BL: torch.Tensor) -> StepMetrics:
            nonlocal steps
            steps += 1
            metrics = train_step(state, real_BCHW, z_BL)
            if steps == 4:
                next(state.generator.parameters()).data[0] = float("nan")
            return metrics

        return take

    monkeypatch.setattr(trainer, "step_function", poisoned)
    out = tmp_path / "out"
    options = ("--data", few, "--batch-size", 2, "--out", out, "--arch", "dcgan16", "--width", 4)
    complaint = refusal(capsys, "train", *options, "--images", 20, "--checkpoint-every", 2)
    assert "weights" in complaint and "step 4" in complaint and complaint.count("step-00000002") == 1
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002"]


def test_generate_from_a_step_with_its_average_or_its_last_weights(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(few, tmp_path / "run", 24)
    made = []
    for options in ((), ("--weights", "last"), ("--checkpoint", "10"), ("--checkpoint", "12")):
        cli.main(["generate", str(tmp_path / "run"), "--count", "4", "--out", str(tmp_path / "grid.png"), *options])
        made.append((tmp_path / "grid.png").read_bytes())
    assert made[0] == made[3] and len(set(made)) == 3
    assert "step 10 of" in capsys.readouterr().out
    complaint = refusal(capsys, "generate", tmp_path / "run", "--checkpoint", 7)
    assert "step 7" in complaint and "10, 11, 12" in complaint


def test_generate_from_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such run folder" in refusal(capsys, "generate", tmp_path / "nowhere")
    assert "config.json" in refusal(capsys, "generate", tmp_path)
    assert "--count 0" in refusal(capsys, "generate", tmp_path, "--count", 0)


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [
        ("pack", ("--resolution", 100), "resolution 100"),
        ("pack", ("--resolution", -1), "resolution -1"),
        ("pack", ("--channels", 2), "--channels 2"),
        ("pack", ("--threads", 0), "--threads 0"),
        ("pack", ("--threads", 100_000), "--threads 100000"),
        ("data", ("--resolution", 1024), "resolution 1024"),
        ("data", ("--channels", 0), "--channels 0"),
        ("data", ("--out", "sheet.txt"), "--out sheet.txt"),
    ],
)
def test_sizes_that_no_network_makes(
    verb: str, options: tuple[object, ...], words: str, few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, verb, few, *options)


def test_pictures_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    nowhere = tmp_path / "no\nwhere"
    assert r"no such folder: " in refusal(capsys, "pack", nowhere)
    assert r"no\nwhere" in refusal(capsys, "data", nowhere, "--out", out)
    (tmp_path / "nothing").mkdir()
    assert "it is empty" in refusal(capsys, "data", tmp_path / "nothing", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "the name is empty"),
        ("https://example.com/train.tar", "https://example.com/train.tar: an address"),
        ("~nobody-of-this-name/x", "no such user"),
        ("x" * 5000, "name too long"),
        ("a\0b", "no such folder"),
    ],
)
def test_names_that_no_folder_has(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refusal(capsys, "pack", name)


def test_data_of_which_nothing_can_be_used(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in few.glob("[0-9].jpg"):
        path.unlink()
    out, listed = tmp_path / "sheet.png", tmp_path / "skipped.txt"
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", str(few), "--out", str(out), "--skipped", str(listed)])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and "no usable picture" in captured.err
    assert "2 files that can't be used" in captured.out and "1 x empty file" in captured.out
    assert len(listed.read_text().splitlines()) == 2
    assert not out.exists()


def test_a_pack_by_hand_is_what_training_uses(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    pack = ("pack", str(few), "--resolution", "16")
    cli.main([*pack])
    said = capsys.readouterr().out
    assert "3 pictures" in said and "img/s" in said and "2 files" in said and "text.jpg" in said
    (array,) = (tmp_path / "cache" / "packs").glob("*.npy")
    assert str(array) in said and f"fastdcgan train --data {few} --resolution 16 uses it" in said
    good, times = array.read_bytes(), array.stat()

    options = ("--arch", "dcgan16", "--width", 4, "--batch-size", 2, "--images", 2, "--device", "cpu")
    cli.main([str(a) for a in ("train", "--data", few, "--out", tmp_path / "out", *options)])
    assert f"packed in {array}" in capsys.readouterr().out
    assert array.stat().st_mtime_ns == times.st_mtime_ns, "built once"

    cli.main([*pack])
    assert "whole" in capsys.readouterr().out
    array.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(array, ns=(times.st_atime_ns, times.st_mtime_ns))
    cli.main([*pack])
    assert "was damaged; built" in capsys.readouterr().out
    assert array.read_bytes() == good


def test_data_is_described_and_shown(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, listed = tmp_path / "sheets" / "sheet.png", tmp_path / "skipped.txt"
    cli.main(["data", str(few), "--out", str(out), "--skipped", str(listed), "--resolution", "32"])
    said = capsys.readouterr().out
    for words in ("3 pictures", "JPEG RGB", "40x50", "none yet", "1 x empty file", str(listed), str(out)):
        assert words in said
    assert len(listed.read_text().splitlines()) == 2
    with Image.open(out) as sheet:
        assert sheet.size == (2 * 34 + 2, 2 * 34 + 2), "a grid of 2 by 2"
        assert [round(level, -1) for level in sheet.getpixel((40, 10))] == [80, 10, 200]  # type: ignore[union-attr]
    (tmp_path / "file").touch()
    cli.main(["data", str(few), "--out", str(out)])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["data", str(few), "--out", str(tmp_path / "file" / "sheet.png")])
    assert "can't write to" in capsys.readouterr().err


def test_the_roofline_of_what_there_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    cli.main(["roofline", "--arch", "dcgan32"])
    said = capsys.readouterr().out
    assert "this CPU" in said and "H100" in said and "0.38" in said
    assert "predicted and not measured" in said and "launches" in said
    assert "'vgg'" in refusal(capsys, "roofline", "--arch", "vgg")
    assert "--batch-size 0" in refusal(capsys, "roofline", "--batch-size", 0)


def test_tuning_prints_a_table_and_training_uses_it(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fastdcgan.execution.plan.native_precision", lambda device: "bf16")
    monkeypatch.setattr("fastdcgan.limits.roofline.measure_ceilings", lambda seconds: KNOWN_GPUS["A100"])
    networks = ("--arch", "dcgan16", "--width", 4, "--batch-size", 2)
    cli.main([str(a) for a in ("tune", *networks, "--seconds", 1, "--json", tmp_path / "t.json", "--device", "cpu")])
    said = capsys.readouterr().out
    assert "the reference" in said and "> " in said and "parity" in said
    assert max(map(len, said.splitlines()[:-1])) <= 100
    rows = json.loads((tmp_path / "t.json").read_text())["plans"]
    assert list(dict.fromkeys(row["plan"].split(" + ")[0] for row in rows)) == ["reference", "bf16", "fp32"]
    (chosen,) = (row for row in rows if row["chosen"])
    assert chosen["speedup"] == max(row["speedup"] or 0 for row in rows[1:])
    assert chosen["parity_error"] <= chosen["parity_allowed"] and 0 < chosen["ceiling_fraction"] < 1

    options = ("--data", few, "--out", tmp_path / "out", *networks, "--images", 2, "--device", "cpu")
    cli.main([str(a) for a in ("train", *options)])
    assert f"plan      {chosen['plan']}: chosen on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arch", "vgg"), "'vgg'"),
        (("--channels", 2), "--channels 2"),
        (("--batch-size", 0), "--batch-size 0"),
        (("--seconds", 0), "--seconds 0"),
        (("--threads", 0), "--threads 0"),
    ],
)
def test_tuning_what_makes_no_sense(
    options: tuple[object, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, "tune", *options)


def test_unknown_options_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["train", "--colour", "red"],
        ["train", "--lr", "fast"],
        ["paint"],
        ["train", "--compile", "maybe"],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--batchsize", 3), "unrecognized options: --batchsize, 3; perhaps you meant: --batch-size INT"),
        (("train", "--lr", "fast"), "--lr: could not convert string to float: 'fast'"),
        (("train", "--epochs", "many"), "--epochs: invalid literal for int() with base 10: 'many'"),
        (("train", "--epochs", "None"), "--epochs: invalid literal for int() with base 10: 'None'"),
        (("train", "--compile", "maybe"), "invalid choice 'maybe' for argument '--compile'"),
        (("train", "--lr"), "missing value for argument '--lr'"),
        (("generate",), "missing from fastdcgan generate: PATH"),
        (("paint",), "unrecognized options: paint; available subcommands: train, generate, data"),
        ((), "expected one of {train, generate, data"),
    ],
)
@pytest.mark.parametrize("colours", [False, True])
def test_a_mistyped_command_is_answered_in_one_line(
    arguments: tuple[object, ...],
    words: str,
    colours: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr("tyro._fmtlib._FORCE_ANSI", colours)
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", colours)
    complaint = refusal(capsys, *arguments)
    assert complaint.startswith(f"fastdcgan: error: {words}") and not set(complaint) & set("│─╭\x1b")


@pytest.mark.slow
def test_data_and_pack_in_processes_of_their_own(fastdcgan: Command, few: Path, tmp_path: Path) -> None:
    described = fastdcgan("data", few, "--out", tmp_path / "sheet.png")
    assert described.returncode == 0 and described.stderr == "", described.stderr
    assert "3 pictures" in described.stdout and (tmp_path / "sheet.png").exists()
    built, found = (fastdcgan("pack", few, "--decoder", "pillow") for _ in range(2))
    assert built.returncode == found.returncode == 0 and built.stderr == found.stderr == ""
    assert "img/s" in built.stdout and "whole" in found.stdout


@pytest.mark.slow
def test_the_process_ends_with_2(fastdcgan: Command, tmp_path: Path) -> None:
    for launcher in (("-m", "fastdcgan", "train"), ("train.py",)):
        result = fastdcgan("--data", tmp_path / "nowhere", launcher=launcher)
        assert result.returncode == 2
        assert result.stderr.strip() == f"fastdcgan: error: no such folder: {tmp_path / 'nowhere'}"
        assert "Traceback" not in result.stdout


@pytest.mark.slow
def test_a_checkout_that_is_not_installed_trains(fastdcgan: Command, few: Path, tmp_path: Path) -> None:
    (tmp_path / "uninstalled.py").write_text(
        "import importlib.metadata as metadata, runpy, sys\n"
        "def version(name, known=metadata.version):\n"
        "    if name == 'fastdcgan': raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
        "sys.path.insert(0, '.')\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    tiny = ("--arch", "dcgan16", "--width", 4, "--batch-size", 2, "--images", 2, "--device", "cpu", "--track", "none")
    options = ("--data", few, "--out", tmp_path / "out", *tiny)
    result = fastdcgan(*options, launcher=(str(tmp_path / "uninstalled.py"),))
    assert result.returncode == 0, result.stderr
    versions = json.loads((tmp_path / "out" / "config.json").read_text())["versions"]
    assert versions["fastdcgan"] == importlib.metadata.version("fastdcgan"), "the same, installed or not"


def table_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What `fastdcgan scale` prints on a wide terminal, in one line."""
    monkeypatch.setenv("COLUMNS", "200")
    cli.main(["scale", *options])
    return " ".join(capsys.readouterr().out.split())


def test_scale_says_that_it_predicts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = table_of(capsys, monkeypatch, "--gpus", "1..512")
    assert text.count("A prediction, not a measurement") == 2  # strong and weak
    assert "512" in text and "launches" in text and "H100" in text
    assert "2 counts that don't divide the batch" in text


def test_scale_cuts_no_figure_off_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cli.main(["scale", "--gpus", "1..512", "--link", "nvlink+ethernet10"])
    printed = capsys.readouterr().out
    assert "…" not in printed and "1,226,077" in printed and max(map(len, printed.splitlines())) <= 80


def test_scale_takes_other_machines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--gpu", "a100", "--gpus", "8,64", "--scaling", "weak", "--link", "ethernet10", "--batch-norm", "sync")
    text = table_of(capsys, monkeypatch, *options)
    assert "A100" in text and "all-reduce" in text and "are synchronised" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpu", "tpu"), "--gpu tpu: know a100, h100, h200"),
        (("--gpus", "many"), "--gpus many"),
        (("--gpus", "5..7"), "no power of two"),
        (("--link", "pigeon"), "--link pigeon"),
        (("--link", "nvlink"), "at most 8 GPUs"),
        (("--batch-size", "0"), "--batch-size 0"),
        (("--gpus", "3", "--scaling", "strong"), "can't be divided"),
        (("--critical-batch", "0"), "--critical-batch 0.0: must be above 0"),
        (("--arch", "dcgan63"), "63"),
    ],
)
def test_scale_refuses_in_one_line(options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refusal(capsys, "scale", *options)
