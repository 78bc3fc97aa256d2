"""Runs that learn classes: what they keep, draw and say; and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fastdcgan import Generator, cli
from fastdcgan.data.labels import Labels
from fastdcgan.gan.architecture import Size
from fastdcgan.runs.classes import class_numbers, classes_shown, labels_by_balance, read_class_counts
from fastdcgan.runs.folder import RunFolder, read_architecture
from fastdcgan.runs.generate import load_generator
from fastdcgan.storage.files import read_json
from fastdcgan.telemetry.report.grids import diversity
from fastdcgan.telemetry.watch import Watch

NETWORK = ("--arch", "dcgan16", "--width", 4, "--latent-dim", 6)

QUICK = ("--device", "cpu", "--plan", "default", "--precision", "fp32", "--threads", 1, "--track", "none")

COUNTS = {"bright": 12, "dark owl": 6, "mid": 6}
LEVELS = {"bright": 240, "dark owl": 10, "mid": 120}


def train(*options: object) -> None:
    cli.main(list(map(str, ("train", *NETWORK, *QUICK, "--batch-size", 8, *options))))


def refusal(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main(list(map(str, command)))
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def draw_pictures(folder: Path, counts: dict[str, int]) -> Path:
    """Pictures that are told apart by how bright they are."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            level_HWC = np.clip(LEVELS[name] + rng.integers(-9, 10, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(level_HWC).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 steps on three classes."""
    folder = tmp_path_factory.mktemp("classes")
    data = draw_pictures(folder / "pictures", COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("--data", data, "--conditional", "--images", 24, "--lr", 0.06, "--out", "run", "--decoder", "pillow")
    return folder / "run"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tiles(path: Path) -> NDArray[np.uint8]:
    """[rows, columns, H, W, C] of a grid of 16x16 pictures."""
    pixels_HWC = np.asarray(Image.open(path).convert("RGB"))[2:, 2:]
    rows, columns = pixels_HWC.shape[0] // 18, pixels_HWC.shape[1] // 18
    return pixels_HWC.reshape(rows, 18, columns, 18, 3).swapaxes(1, 2)[:, :, :16, :16]


def test_names_and_balance_are_kept_with_the_run(run: Path) -> None:
    arch = read_architecture(RunFolder(run))
    assert arch.classes == tuple(COUNTS)
    assert read_class_counts(RunFolder(run), arch) == list(COUNTS.values())
    state = read_json(run / "checkpoints" / "step-00000003" / "state.json")
    assert state["architecture"]["classes"] == list(COUNTS)
    generator, loaded, *_ = load_generator(run)
    assert generator.layers[0].weight.shape[0] == 6 + 3
    assert loaded == arch


def test_classes_and_their_imbalance_are_said(run: Path) -> None:
    said = (run / "run.log").read_text()
    assert "classes   3, the largest 2.0 times the smallest: bright 12, dark owl 6, mid 6\n" in said
    assert "not used" not in said


def test_grids_have_a_row_a_class(run: Path) -> None:
    real = tiles(run / "real.png")
    assert real.shape[:2] == (3, 8)
    for row, name in zip(real, COUNTS, strict=True):
        assert abs(float(row.mean()) - LEVELS[name]) < 5, name
    sampled = tiles(run / "samples" / "step-00000003.png")
    assert sampled.shape[:2] == (3, 8)
    generator = Generator.from_run(run)
    assert generator.classes == tuple(COUNTS)
    assert "Rows, from the top: bright, dark owl, mid." in (run / "report.html").read_text()


def test_the_same_command_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.parent / "pictures"
    train("--data", data, "--conditional", "--images", 24, "--lr", 0.06, "--out", run, "--decoder", "pillow")
    assert "Nothing to do" in capsys.readouterr().out


def test_a_class_is_generated_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["generate", str(run), "--count", "6", "--out", "all.npy"])
    assert "6 pictures of 3 classes in turn from step 3" in capsys.readouterr().out
    cli.main(["generate", str(run), "--count", "6", "--class", "mid", "--out", "mid.npy"])
    assert "6 pictures of mid from step 3" in capsys.readouterr().out
    cli.main(["generate", str(run), "--count", "6", "--class", "mid", "bright", "--out", "two.npy"])
    in_turn, mid, two = (np.load(f"{name}.npy") for name in ("all", "mid", "two"))
    assert [number for number in range(6) if np.array_equal(in_turn[number], mid[number])] == [2, 5]
    assert [number for number in range(6) if np.array_equal(two[number], mid[number])] == [0, 2, 4]
    assert np.array_equal(two[3], in_turn[3])
    from_python = np.stack(list(Generator.from_run(run).sample(6, label="mid")))
    assert np.array_equal(from_python, mid)
    assert np.array_equal(np.stack(list(Generator.from_run(run).sample(6, label=["mid", "bright"]))), two)


def test_more_than_a_batch_goes_on_in_turn(run: Path) -> None:
    """64 pictures are made at a time, which is no multiple of three classes."""
    cli.main(["generate", str(run), "--count", "70", "--out", "all.npy"])
    cli.main(["generate", str(run), "--count", "70", "--class", "dark owl", "--out", "owl.npy"])
    found, owl = np.load("all.npy"), np.load("owl.npy")
    assert all(np.array_equal(found[number], owl[number]) == (number % 3 == 1) for number in range(70))


def test_files_are_named_by_their_class(run: Path, tmp_path: Path) -> None:
    cli.main(["generate", str(run), "--count", "3", "--out", "pngs"])
    found = sorted(path.name for path in (tmp_path / "pngs").glob("*.png"))
    assert found == ["00000-bright.png", "00001-dark-owl.png", "00002-mid.png"]
    assert read_json(tmp_path / "pngs" / "generated.json")["classes in turn"] == list(COUNTS)


def test_a_generated_grid_has_a_row_a_class(run: Path) -> None:
    cli.main(["generate", str(run), "--count", "7", "--out", "grid.png"])
    cli.main(["generate", str(run), "--count", "7", "--out", "all.npy"])
    found, wanted = tiles(Path("grid.png")), np.load("all.npy")
    assert found.shape[:2] == (3, 3)
    for number, picture in enumerate(wanted):
        assert np.array_equal(found[number % 3, number // 3], picture), number
    assert not found[1, 2].any() and not found[2, 2].any()
    assert np.array_equal(tiles_of(Generator.from_run(run).grid(7)), found)


def tiles_of(picture: Image.Image) -> NDArray[np.uint8]:
    picture.save("from-python.png")
    return tiles(Path("from-python.png"))


def test_walks_are_of_a_class(run: Path) -> None:
    generator = Generator.from_run(run)
    first = next(generator.walk(3, label="mid"))
    assert np.array_equal(first, next(generator.sample(1, label="mid")))
    assert np.array_equal(next(generator.walk(3, path=1)), list(generator.sample(2))[1])
    for name in ("mid", "bright"):
        cli.main(["interpolate", str(run), "--frames", "3", "--class", name, "--out", f"{name}.webp"])
    cli.main(["interpolate", str(run), "--frames", "3", "--class", "mid", "--checkpoint", "1", "--out", "early.webp"])
    assert Path("mid.webp").read_bytes() != Path("early.webp").read_bytes()
    assert Path("mid.webp").read_bytes() != Path("bright.webp").read_bytes()


def test_saved_and_opened_it_knows_its_classes(run: Path) -> None:
    Generator.from_run(run).save_pretrained("mine")
    assert json.loads(Path("mine/config.json").read_text())["classes"] == list(COUNTS)
    again = Generator.from_pretrained("mine")
    assert again.classes == tuple(COUNTS)
    assert np.array_equal(next(again.sample(1, label="mid")), next(Generator.from_run(run).sample(1, label="mid")))


def test_an_evaluation_draws_by_the_datas_balance() -> None:
    drawn_N = labels_by_balance([900, 90, 10], 10_000, seed=0, position=0)
    assert drawn_N is not None and drawn_N.dtype == torch.int64
    assert np.bincount(drawn_N) == pytest.approx([9000, 900, 100], abs=100)
    assert not torch.equal(drawn_N, labels_by_balance([900, 90, 10], 10_000, seed=0, position=1))  # type: ignore[arg-type]
    assert labels_by_balance([], 5, seed=0, position=0) is None


def test_of_many_classes_the_most_frequent_are_shown() -> None:
    assert classes_shown([5, 1, 9]) == [0, 1, 2]
    assert classes_shown([1, *range(100, 120)]) == list(range(5, 21))


def test_classes_that_each_became_alike_are_noticed() -> None:
    """Two classes differ from each other, whatever becomes of the pictures within each."""
    rng = torch.Generator().manual_seed(0)
    lively = torch.rand(16, 3, 8, 8, generator=rng) * 2 - 1
    alike = torch.cat([torch.full((8, 3, 8, 8), -0.9), torch.full((8, 3, 8, 8), 0.9)])
    watch = Watch()
    assert watch.samples(lively, 1, columns=8) is None
    assert "became alike" in (watch.samples(alike, 2, columns=8) or "")
    grid_HWC = np.zeros((18 * 2 + 2, 18 * 8 + 2, 3), np.uint8)
    grid_HWC[20:] = 200
    assert diversity(grid_HWC, Size(16, 16), row_a_class=True) == 0
    assert diversity(grid_HWC, Size(16, 16)) != 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_exported_it_takes_the_class_as_a_second_input(
    to: str, precision: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written unless the exported file draws the same pictures of all classes."""
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    cli.main(["export", str(run), "--to", to, "--precision", precision, "--out", "out"])
    assert f"step 3 of {run} in {precision}" in capsys.readouterr().out
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession("out/generator.onnx", providers=["CPUExecutionProvider"])
        assert [(one.name, one.type) for one in session.get_inputs()] == [
            ("z", "tensor(float)"),
            ("labels", "tensor(int64)"),
        ]
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(COUNTS)


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "no such class": (("generate", "run", "--class", "cat"), "--class cat: must be one of bright, dark owl, mid"),
    "a walk of no such class": (("interpolate", "run", "--class", "cat"), "--class cat: must be one of bright,"),
    "the tutorial": (("export", "run", "--to", "tutorial"), "--to tutorial: the tutorial's networks have no classes"),
    "begun without": (
        ("train", *NETWORK, "--data", "pictures", "--init-from", "run", "--out", "other"),
        "--init-from run has learned classes: add --conditional",
    ),
    "exact ranks": (
        ("train", *NETWORK, "--data", "pictures", "--conditional", "--exact-ranks", 2, "--out", "other"),
        "--exact-ranks 2 does not go with --conditional",
    ),
    "gone on with without": (
        ("train", *NETWORK, *QUICK, "--batch-size", 8, "--data", "pictures", "--out", "run"),
        "--conditional: True, now False",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    command, why = REFUSED[name]
    assert why in refusal(capsys, *command)


def test_pictures_without_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "pictures.npy", np.zeros((9, 16, 16, 3), np.uint8))
    asked = ("train", *NETWORK, *QUICK, "--data", "pictures.npy", "--conditional", "--out", "run")
    assert "--conditional: pictures.npy names no classes of its pictures: put those" in refusal(capsys, *asked)
    assert not (tmp_path / "run").exists()


def test_other_classes_are_another_network(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw_pictures(tmp_path / "others", {"bright": 12, "mid": 12})
    asked = ("train", *NETWORK, *QUICK, "--batch-size", 8, "--data", data, "--conditional", "--init-from", run)
    line = refusal(capsys, *asked, "--out", tmp_path / "run")
    assert "classes 'bright, dark owl, mid' there, 'bright, mid' here" in line


def test_a_new_run_begins_with_the_weights_of_its_classes(run: Path, tmp_path: Path) -> None:
    data = run.parent / "pictures"
    train("--data", data, "--conditional", "--images", 8, "--init-from", run, "--out", "again", "--decoder", "pillow")
    assert (tmp_path / "again/samples/step-00000000.png").read_bytes() == (
        run / "samples" / "step-00000003.png"
    ).read_bytes()


def test_numbers_of_classes(run: Path) -> None:
    arch = read_architecture(RunFolder(run))
    assert class_numbers([], arch) == (0, 1, 2)
    assert class_numbers(["mid", "bright"], arch) == (2, 0)
    without = arch.with_classes(())
    assert without.generator[0].in_channels == 6 and class_numbers([], without) == ()
    with pytest.raises(ValueError, match="no classes were learned: train with --conditional"):
        class_numbers(["mid"], without)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["cat"], "all pictures are of one class, cat"),
        (["cat", "dog", "cat"], "several classes have the name cat"),
        ([str(number) for number in range(1001)], "1,001 classes are too many"),
    ],
)
def test_classes_that_can_not_be_learned(names: list[str], why: str, run: Path) -> None:
    with pytest.raises(ValueError, match=why):
        read_architecture(RunFolder(run)).with_classes(names)


def test_a_damaged_list_of_classes_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record: dict[str, Any] = read_json(run / "config.json")
    record["architecture"]["classes"] = [["bright"]]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    assert "config.json can't be read: its classes are no names" in refusal(capsys, "generate", "run")


def test_labels_are_told_apart_by_names_and_numbers() -> None:
    numbers = np.array([0, 1, 1], np.int32)
    digests = {
        Labels(numbers, ("a", "b")).digest(),
        Labels(numbers, ("a", "c")).digest(),
        Labels(1 - numbers, ("a", "b")).digest(),
    }
    assert len(digests) == 3
