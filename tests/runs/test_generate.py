"""Pictures by the thousand: which they are, the files they come in, and going on after a kill."""

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_states import fresh, save

from fastdcgan.config import ModelConfig, TrainConfig
from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.open import open_source
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import VALUE_RANGE, RunFolder, create, write_config
from fastdcgan.runs.generate import generate_from_run, load_generator
from fastdcgan.runs.pictures import writers
from fastdcgan.runs.pictures.latents import LatentOfEachSeed, LatentsOfFile, SeedLatents, truncate
from fastdcgan.runs.pictures.stream import batch_size, picture_batches
from fastdcgan.runs.pictures.unfinished import refuse_another_request
from fastdcgan.runs.pictures.writers import MAX_GRID_BYTES, png_bytes
from fastdcgan.runs.sampling import generate, grid

ARCH = architecture("dcgan16", width=4, latent_dim=6)
SINGLE_FILES = ["npy", "npz", "tar"]


def make_run(
    path: Path, arch: Architecture = ARCH, *steps: int, value_range: tuple[float, float] | None = None
) -> Path:
    """A run with checkpoints of other weights each; of numbers of a range."""
    folder = RunFolder(path)
    create(folder)
    config = TrainConfig(model=ModelConfig.of(arch)).resolved()
    write_config(folder, config, arch, {"run_id": "ours", VALUE_RANGE: value_range})
    for step in steps or (7,):
        state = fresh(arch=arch, seed=step)
        fresh_weights = state.generator.state_dict()  # whose pictures hardly differ
        state.generator.load_state_dict({n: 5 * v if v.ndim == 4 else v for n, v in fresh_weights.items()})
        save(folder.checkpoints, state, arch, Progress(step=step), keep=9, run="ours")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pixels(path: Path) -> NDArray[np.uint8]:
    """All pictures in what was written, in order."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        with np.load(path) as found:
            return found["arr_0"]
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            return np.stack([np.asarray(Image.open(archive.extractfile(member))) for member in archive])
    return np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))])


def expected(run: Path, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """By the plain way, which holds all of them."""
    generator, arch, _, _ = load_generator(run)
    pictures_BCHW = generate(generator, latents(seed, Stream.GENERATE, 0, count, arch.latent_dim))
    return pictures_BCHW.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def assert_nearly(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> None:
    """Alike but for the rounding of a few values."""
    assert found.shape == wanted.shape and found.dtype == np.uint8
    off = np.abs(found.astype(int) - wanted.astype(int))
    assert off.max() <= 1 and (off > 0).mean() < 1e-3


@pytest.mark.parametrize("format", ["png", *SINGLE_FILES])
def test_every_format_holds_the_same_pictures(run: Path, format: str) -> None:
    said = generate_from_run(run, count=150, seed=3, format=format)
    out = Path("generated" if format == "png" else f"generated.{format}")
    assert said == f"150 pictures from step 7 of {run}: {out}"
    assert_nearly(pixels(out), expected(run, 150, seed=3))
    assert not list(Path().glob(".*")), "nothing is left beside it"


def test_the_grid_is_that_of_training(run: Path) -> None:
    generate_from_run(run, count=10)
    with Image.open("generated.png") as image:
        found = np.asarray(image)
    generator, arch, _, _ = load_generator(run)
    wanted = grid(generate(generator, latents(0, Stream.GENERATE, 0, 10, arch.latent_dim)))
    assert_nearly(found, wanted.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def test_rectangles(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", architecture("dcgan64x16", width=4, latent_dim=6))
    generate_from_run(run, count=7)
    generate_from_run(run, count=7, format="npy")
    generator, arch, _, _ = load_generator(run)
    pictures_BCHW = generate(generator, latents(0, Stream.GENERATE, 0, 7, arch.latent_dim))
    wanted = grid(pictures_BCHW).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    with Image.open("generated.png") as image:
        assert_nearly(np.asarray(image), wanted)
    assert np.load("generated.npy").shape == (7, 64, 16, 3)


def test_too_many_for_a_grid_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"too many for one grid .* end in \.npy, \.npz or \.tar"):
        generate_from_run(run, count=MAX_GRID_BYTES // 16**2)
    assert not Path("generated.png").exists()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(channels: int, mode: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", architecture("dcgan16", width=4, latent_dim=6, channels=channels))
    generate_from_run(run, count=3, format="png")
    generate_from_run(run, count=3, format="npy")
    generate_from_run(run, count=1)
    for file in (Path("generated", "00001.png"), Path("generated.png")):
        with Image.open(file) as image:
            assert (image.mode, image.size) == (mode, (16, 16))
    array = np.load("generated.npy")
    assert array.shape == (3, 16, 16, channels)
    assert np.array_equal(pixels(Path("generated")).reshape(array.shape), array)
    if channels == 4:
        assert np.unique(array[..., 3]).size > 1, "alpha is the network's own"


@pytest.mark.parametrize("format", ["png", *SINGLE_FILES])
def test_what_is_made_can_be_trained_on(run: Path, format: str) -> None:
    generate_from_run(run, count=5, format=format)
    out = Path("generated" if format == "png" else f"generated.{format}")
    source = open_source(str(out), resolution=16, channels=3, device="cpu", threads=1, decoder="pillow")
    assert len(source) == 5
    with closing(source.read([range(5)])) as batches:
        assert np.array_equal(next(batches).numpy(), pixels(out))


def test_a_picture_does_not_depend_on_the_count(run: Path) -> None:
    generate_from_run(run, count=64, format="npy", out=Path("few.npy"))
    generate_from_run(run, count=130, format="npy", out=Path("many.npy"))
    assert np.array_equal(np.load("many.npy")[:64], np.load("few.npy"))


def test_a_seed_names_its_picture(run: Path) -> None:
    generate_from_run(run, seeds="3,7-9,1000", format="png")
    names = sorted(file.name for file in Path("generated").glob("*.png"))
    assert names == [f"seed-{seed:05d}.png" for seed in (3, 7, 8, 9, 1000)]
    for seed in (3, 9, 1000):
        assert_nearly(np.asarray(Image.open(f"generated/seed-{seed:05d}.png"))[None], expected(run, 1, seed))


def test_latents_of_a_file(run: Path) -> None:
    z_BL = latents(5, Stream.GENERATE, 0, 70, 6).numpy()
    for name, array in (("a", z_BL), ("b", z_BL.astype(np.float64)[:, :, None, None]), ("c", np.asfortranarray(z_BL))):
        np.save(f"{name}.npy", array)
        generate_from_run(run, latents=Path(f"{name}.npy"), out=Path(f"{name}-made.npy"))
        assert_nearly(np.load(f"{name}-made.npy"), expected(run, 70, seed=5))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 7), np.float32), r"must be .* \[N, 6\].* they are float32 of 5x7"),
        (np.zeros((5, 6), np.int64), "they are int64 of 5x6"),
        (np.zeros(6, np.float32), "of 6"),
        (np.zeros((0, 6), np.float32), "--latents z.npy"),
        (np.array([[0] * 6, [0, 0, np.nan, 0, 0, 0]], np.float32), "row 1 has numbers that are not finite"),
        (np.full((1, 6), 1e39), "row 0 has numbers that are not finite in fp32"),
        (np.array([{}], object), "damaged, or not a .npy file of numbers"),
    ],
)
def test_latents_that_do_not_fit_are_refused(run: Path, array: NDArray[np.generic], words: str) -> None:
    np.save("z.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=words):
        generate_from_run(run, latents=Path("z.npy"), format="npy")
    assert [path.name for path in Path().iterdir()] == ["z.npy"]


def test_files_that_hold_no_latents_are_refused(run: Path) -> None:
    Path("text.npy").write_text("hello")
    np.savez("z.npz", a=np.zeros((1, 6)))
    for name, words in (("nowhere.npy", "No such file"), ("text.npy", "damaged"), ("z.npz", "several arrays")):
        with pytest.raises(ValueError, match=f"--latents {name}: .*{words}"):
            generate_from_run(run, latents=Path(name))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "--count 0"),
        ({"seed": -1}, "--seed -1"),
        ({"truncation": 0.0}, "--truncation 0"),
        ({"seeds": "9-3"}, "--seeds 9-3: must be"),
        ({"seeds": "1-5,3"}, "names 3 twice"),
        ({"seeds": "all"}, "--seeds all: must be"),
        ({"seeds": f"{2**63}"}, "must be"),
        ({"seeds": f"0-{2**63 - 1}"}, "must be fewer than"),
        ({"seeds": "1", "count": 3}, "leave --count"),
        ({"latents": Path("z"), "seed": 3}, "leave --count"),
        ({"latents": Path("z"), "seeds": "3"}, "give one"),
        ({"format": "npy", "out": Path("a.tar")}, "must end in .npy"),
        ({"format": "tar", "out": Path("folder")}, "must end in .tar"),
        ({"format": "png", "out": Path("a.npy")}, "must be a folder's"),
        ({"checkpoint": 9}, "step 9 but those of steps 7"),
        ({"checkpoint": "best"}, "no best.json"),
    ],
)
def test_requests_that_make_no_sense(run: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generate_from_run(run, **options)  # type: ignore[arg-type]
    assert not list(Path().iterdir())


def test_the_best_checkpoint_is_the_one_that_an_evaluation_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ARCH, 5, 7)
    best = RunFolder(run).best
    best.write_text(json.dumps({"step": 5, "metric": "kid", "value": 0.1}))
    assert "from step 5 of" in generate_from_run(run, count=1, checkpoint="best")
    assert "from step 7 of" in generate_from_run(run, count=1)
    best.write_text(json.dumps({"step": 6, "metric": "kid", "value": 0.1}))
    with pytest.raises(ValueError, match="its best checkpoint, of step 6, but those of steps 5, 7"):
        generate_from_run(run, checkpoint="best")
    long = f'{{"step": 5, "metric": "kid", "value": 1{"0" * 400}}}'  # found by fuzzing: no float holds it
    other = '{"step": 5, "metric": "kid", "value": 1, "by": "beauty"}'
    for damaged in (
        other,
        "{",
        "[]",
        '{"step": "5", "metric": "kid", "value": 1}',
        '{"step": 5}',
        long,
        r'{"\ud800": 5}',
    ):
        best.write_text(damaged)
        with pytest.raises(ValueError, match=r"best.json can't be read") as refused:
            generate_from_run(run, checkpoint="best")
        assert str(refused.value).isprintable()


def test_truncated_latents_are_those_of_the_truncated_normal_distribution() -> None:
    z_BL = latents(0, Stream.GENERATE, 0, 20_000, 5)
    for limit in (0.5, 1.0, 2.0):
        within = truncate(z_BL, limit)
        assert within.abs().max() <= limit
        at = torch.linspace(0.01, 0.99, 50)
        redrawn = z_BL[z_BL.abs() < limit]
        assert torch.allclose(within.flatten().quantile(at), redrawn.quantile(at), atol=0.02 * limit)
        order = z_BL[:, 0].argsort()
        assert bool((within[order, 0].diff() >= 0).all()), "in order"
    assert torch.allclose(truncate(z_BL, 9.0), z_BL, atol=1e-5)
    extreme = truncate(torch.tensor([[-40.0, 40.0, 0.0]]), 1.0)
    assert torch.allclose(extreme, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_truncation_changes_the_pictures(run: Path) -> None:
    for name, truncation in (("all", None), ("half", 0.5)):
        generate_from_run(run, count=64, truncation=truncation, out=Path(f"{name}.npy"))
    every, half = (np.load(f"{name}.npy").astype(float) for name in ("all", "half"))
    assert half.std(0).mean() < 0.8 * every.std(0).mean(), "they vary less"


@pytest.mark.parametrize("start", [0, 64, 4096, 4160])
def test_latents_are_the_same_from_any_number_on(start: int) -> None:
    whole = latents(3, Stream.GENERATE, 0, 5000, 7)
    batches = list(SeedLatents(seed=3, count=5000, latent_dim=7).batches(64, start))
    assert torch.equal(torch.cat(batches), whole[start:])
    assert {len(batch) for batch in batches[:-1]} == {64}


def test_seeds_from_any_number_on() -> None:
    chosen = LatentOfEachSeed.parsed("5, 100-199,7", 3)
    assert len(chosen) == 102
    assert [chosen.name(n) for n in (0, 1, 100, 101)] == ["seed-00005", "seed-00100", "seed-00199", "seed-00007"]
    assert torch.equal(torch.cat(list(chosen.batches(10, 20))), torch.cat(list(chosen.batches(64)))[20:])


def test_batches_are_fewer_of_larger_pictures() -> None:
    sizes = {
        name: batch_size(architecture(name)) for name in ("dcgan28", "dcgan64", "dcgan128", "dcgan256", "dcgan512")
    }
    assert sizes == {"dcgan28": 64, "dcgan64": 64, "dcgan128": 32, "dcgan256": 8, "dcgan512": 2}


class Killed(BaseException):
    """As KeyboardInterrupt, at a place that a test has chosen."""


def stopping_at(done: int) -> Callable[[str, int, int], None]:
    def on_progress(what: str, now: int, total: int) -> None:
        if now >= done:
            raise Killed

    return on_progress


def whole(path: Path) -> dict[str, bytes]:
    """The content of a file, or of all files in a folder."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("format", ["png", *SINGLE_FILES])
def test_what_was_stopped_goes_on_and_ends_as_undisturbed(run: Path, format: str) -> None:
    suffix = "" if format == "png" else f".{format}"
    out, undisturbed = Path(f"out{suffix}"), Path(f"undisturbed{suffix}")
    generate_from_run(run, count=400, format=format, out=undisturbed)
    for stop in (64, 200):
        with pytest.raises(Killed):
            generate_from_run(run, count=400, format=format, out=out, on_progress=stopping_at(stop))
        assert format == "png" or not out.exists(), "no half of a file looks whole"
    begun: list[int] = []
    generate_from_run(run, count=400, format=format, out=out, on_progress=lambda _, done, __: begun.append(done))
    assert begun[0] >= 192, "it does not begin again"
    assert whole(out) == whole(undisturbed)
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize("format", SINGLE_FILES)
def test_what_was_written_but_not_noted_is_written_again(run: Path, format: str) -> None:
    """A kill leaves more in the file than the journal says, or half a picture."""
    out, undisturbed = Path(f"out.{format}"), Path(f"undisturbed.{format}")
    generate_from_run(run, count=200, out=undisturbed)
    with pytest.raises(Killed):
        generate_from_run(run, count=200, out=out, on_progress=stopping_at(128))
    with Path(f".{out}.unfinished").open("ab") as file:
        file.write(b"half a picture")
    generate_from_run(run, count=200, out=out)
    assert whole(out) == whole(undisturbed)


@pytest.mark.parametrize("format", SINGLE_FILES)
def test_what_was_stopped_when_all_was_made_is_finished(run: Path, format: str) -> None:
    """A `.npz` is copied then, which takes a while. The last batch is no whole one."""
    out, undisturbed = Path(f"out.{format}"), Path(f"undisturbed.{format}")
    generate_from_run(run, count=200, out=undisturbed)
    with pytest.raises(Killed):
        generate_from_run(run, count=200, out=out, on_progress=stopping_at(200))
    generate_from_run(run, count=200, out=out)
    assert whole(out) == whole(undisturbed)


@pytest.mark.parametrize("done", [1, 201])
def test_a_journal_that_can_not_be_true_is_no_reason_to_stop(done: int, run: Path) -> None:
    generate_from_run(run, count=200, out=Path("undisturbed.npy"))
    with pytest.raises(Killed):
        generate_from_run(run, count=200, out=Path("out.npy"), on_progress=stopping_at(128))
    journal = Path(".out.npy.journal")
    journal.write_text(json.dumps(json.loads(journal.read_text()) | {"done": done}))
    generate_from_run(run, count=200, out=Path("out.npy"))
    assert whole(Path("out.npy")) == whole(Path("undisturbed.npy"))


def test_a_file_that_is_shorter_than_noted_is_begun_again(run: Path) -> None:
    generate_from_run(run, count=200, out=Path("undisturbed.npy"))
    with pytest.raises(Killed):
        generate_from_run(run, count=200, out=Path("out.npy"), on_progress=stopping_at(128))
    with Path(".out.npy.unfinished").open("r+b") as file:
        file.truncate(1000)
    generate_from_run(run, count=200, out=Path("out.npy"))
    assert Path("out.npy").read_bytes() == Path("undisturbed.npy").read_bytes()


def test_a_png_that_lost_its_end_is_made_again(run: Path) -> None:
    generate_from_run(run, count=100, format="png")
    before = whole(Path("generated"))
    for number, cut in ((3, 0), (70, 40)):
        file = Path("generated", f"{number:05d}.png")
        file.write_bytes(file.read_bytes()[:cut])
    Path("generated", "00080.png").unlink()
    generate_from_run(run, count=100, format="png")
    assert whole(Path("generated")) == before


def test_another_request_does_not_go_on_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ARCH, 5)
    for format in ("npy", "png"):
        with pytest.raises(Killed):
            generate_from_run(run, count=200, format=format, on_progress=stopping_at(64))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"holds .* pictures of another request \(seed 0, now 1\)"):
            generate_from_run(run, count=200, seed=1, format=format)  # type: ignore[arg-type]
    make_run(run, ARCH, 7)
    for format in ("npy", "png"):
        with pytest.raises(ValueError, match=r"\(step 5, now 7; weights .*\): --checkpoint 5 goes on with it"):
            generate_from_run(run, count=200, format=format)  # type: ignore[arg-type]
        assert "200 pictures from step 5" in generate_from_run(run, count=200, format=format, checkpoint=5)  # type: ignore[arg-type]


def test_a_damaged_journal_is_refused_in_printable_words() -> None:
    with pytest.raises(ValueError, match="the same options go on with it") as refused:
        refuse_another_request(Path("some.npy"), {"step": "\x1f", "seed": 0}, {"step": 2, "seed": 0}, 2)
    assert str(refused.value).isprintable()


def test_a_folder_of_somebody_elses_pictures_is_left_alone(run: Path) -> None:
    Path("photos").mkdir()
    Path("photos", "00000.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="photos holds 1 PNGs of which nothing is known"):
        generate_from_run(run, count=2, out=Path("photos"))
    assert whole(Path("photos")) == {"00000.png": b"mine"}


@pytest.mark.parametrize("format", ["npy", "npz"])
def test_arrays_have_the_range_of_the_data(format: str, tmp_path: Path) -> None:
    bytes_run, run = make_run(tmp_path / "bytes"), make_run(tmp_path / "run", value_range=(-40, 10))
    said = generate_from_run(run, count=70, format=format)
    assert said.endswith(f"generated.{format}, as float32 of -40 to 10, the data's own values")
    generate_from_run(bytes_run, count=70, out=Path(f"bytes.{format}"))
    found, as_bytes = pixels(Path(f"generated.{format}")), pixels(Path(f"bytes.{format}"))
    assert found.dtype == np.float32 and as_bytes.dtype == np.uint8 and not Path("bytes.json").exists()
    back = ValueRange(-40, 10).to_bytes(found)
    assert np.abs(back.astype(int) - as_bytes).max() <= 1 and (back != as_bytes).mean() < 1e-3
    assert len(np.unique(found)) > 256, "not rounded to bytes"
    assert found.min() >= -40 and found.max() <= 10
    assert found.min() >= -40 and found.max() <= 10
    assert json.loads(Path("generated.json").read_text())["value_range"] == [-40, 10]


def test_an_array_of_values_goes_on_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", value_range=(0, 1e6))
    generate_from_run(run, count=200, out=Path("undisturbed.npy"))
    with pytest.raises(Killed):
        generate_from_run(run, count=200, out=Path("out.npy"), on_progress=stopping_at(128))
    generate_from_run(run, count=200, out=Path("out.npy"))
    assert Path("out.npy").read_bytes() == Path("undisturbed.npy").read_bytes()


def test_pngs_say_which_values_0_and_255_stand_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", value_range=(-40, 10.5))
    generate_from_run(run, count=3, format="png")
    assert pixels(Path("generated")).dtype == np.uint8
    assert json.loads(Path("generated/generated.json").read_text())["value_range"] == [-40, 10.5]


def test_no_other_file_is_taken_for_the_record_of_an_array(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", value_range=(0, 1))
    for content in ("[]", '{"mine": 1}', "no JSON"):
        Path("out.json").write_text(content)
        with pytest.raises(ValueError, match=r"out\.json is to say what out\.npy was made with, but is something else"):
            generate_from_run(run, count=3, out=Path("out.npy"))
        assert Path("out.json").read_text() == content and not Path("out.npy").exists()


def test_a_range_that_is_none_is_none(tmp_path: Path) -> None:
    for number, damaged in enumerate(([1, 0], [0, "1"], [0], 7, [0, True], {"0": 1})):
        run = make_run(tmp_path / f"run{number}", value_range=damaged)  # type: ignore[arg-type]
        generate_from_run(run, count=1, out=Path("out.npy"))
        assert np.load("out.npy").dtype == np.uint8


def test_two_at_once_are_refused(run: Path) -> None:
    def meanwhile(what: str, done: int, total: int) -> None:
        with pytest.raises(ValueError, match=r"another process is writing out.npy"):
            generate_from_run(run, count=70, out=Path("out.npy"))

    generate_from_run(run, count=70, out=Path("out.npy"), on_progress=meanwhile)
    assert len(np.load("out.npy")) == 70


def test_a_disk_that_is_full_ends_it_in_one_line_and_it_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_from_run(run, count=200, format="png", out=Path("undisturbed"))
    written = 0

    def full(picture_HWC: NDArray[np.uint8]) -> bytes:
        nonlocal written
        written += 1
        if written > 100:
            raise OSError(28, "No space left on device")
        return png_bytes(picture_HWC)

    with monkeypatch.context() as patched:
        patched.setattr("fastdcgan.runs.pictures.writers.png_bytes", full)
        with pytest.raises(ValueError, match="can't write to out: No space left on device; the same command goes on"):
            generate_from_run(run, count=200, format="png", out=Path("out"))
    generate_from_run(run, count=200, format="png", out=Path("out"))
    assert whole(Path("out")) == whole(Path("undisturbed"))


@pytest.mark.parametrize("with_codec", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pngs_hold_the_pictures_exactly(with_codec: bool, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_codec:
        pytest.importorskip("imagecodecs", reason="needs the extra png")
    else:
        monkeypatch.setattr(writers, "_fast_codec", lambda: None)
    noise_HWC = np.random.default_rng(0).integers(0, 256, (24, 40, channels), dtype=np.uint8)
    made_BHWC = np.stack([noise_HWC, np.full_like(noise_HWC, 200)])
    for picture_HWC in (*made_BHWC, made_BHWC.transpose(0, 2, 1, 3)[0]):  # the last is not contiguous
        encoded = png_bytes(picture_HWC)
        with Image.open(io.BytesIO(encoded)) as image:
            assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
            assert np.array_equal(np.asarray(image).reshape(picture_HWC.shape), picture_HWC)
    assert len(png_bytes(made_BHWC[1])) < 400, "flat areas take hardly any room"


@pytest.mark.parametrize("name", ["out.npy", ".out.npy.unfinished", ".out.npy.journal"])
def test_nothing_is_written_through_links(name: str, run: Path) -> None:
    Path("precious").write_text("precious")
    Path(name).symlink_to("precious")
    try:
        generate_from_run(run, count=3, out=Path("out.npy"))
    except ValueError as refusal:
        assert "can't write to out.npy" in str(refusal)
    assert Path("precious").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize(("format", "count"), [("png", 5_000), ("npy", 150_000)])
def test_a_kill_loses_nothing(run: Path, format: str, count: int) -> None:
    out, undisturbed = (Path(f"{name}{'' if format == 'png' else '.npy'}") for name in ("out", "undisturbed"))
    options = ("--count", str(count), "--format", format, "--out", str(out))
    command = [sys.executable, "-m", "fastdcgan", "generate", str(run), *options]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        place = out if format == "png" else Path(f".{out}.journal")
        until = time.monotonic() + 60
        while not place.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)
        process.kill()
        process.wait()
        assert format == "png" or not out.exists()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    generate_from_run(run, count=count, format=format, out=undisturbed)  # type: ignore[arg-type]
    assert whole(out) == whole(undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", architecture("dcgan64", width=4))
    code = (
        "import re, sys; from pathlib import Path; import torch; torch.set_num_threads(1);"
        "from fastdcgan.runs.generate import generate_from_run as make;"
        "make(Path(sys.argv[1]), count=int(sys.argv[2]), out=Path(sys.argv[3]));"
        # not ru_maxrss, which begins at what the process that started this one has
        "print(int(re.search('VmHWM: *(.*) kB', Path('/proc/self/status').read_text())[1]) // 1024)"
    )

    def peak_mib(count: int, out: str) -> int:
        command = [sys.executable, "-c", code, str(run), str(count), out]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    few = peak_mib(640, "few.npy")
    for out in ("many.npy", "many.tar"):
        many = peak_mib(6400, out)  # 75 MiB of pixels, 300 MiB in fp32
        assert many < few + 30, f"{out}: {few} MiB for 640, {many} MiB for 6,400"
    assert few < 1000


def test_the_stream_leaves_the_generator_as_it_was(run: Path) -> None:
    generator, arch, _, _ = load_generator(run)
    generator.train()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    state = torch.get_rng_state()
    chosen = SeedLatents(seed=0, count=70, latent_dim=6)
    assert [len(batch) for batch in picture_batches(generator, arch, chosen)] == [64, 6]
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    assert generator.training and torch.equal(state, torch.get_rng_state())


def test_latents_of_a_file_are_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.ones((300, 6), np.float32))
    found = LatentsOfFile(tmp_path / "z.npy", 6)
    assert len(found) == 300 and found.name(3) == "00003"
    assert [len(z_BL) for z_BL in found.batches(128, 128)] == [128, 44]
