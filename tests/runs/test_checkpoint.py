import json
import os
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from corrupted import corrupt
from safetensors.torch import load_file, save_file
from small_states import ARCH, everything, fresh, load, load_generator, same, save, train
from torch import Tensor

from fastdcgan.execution.plan import Plan
from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.step import TrainState
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.folder import list_checkpoints, read_newest
from fastdcgan.runs.checkpoints.record import STATE_FILE, Progress
from fastdcgan.storage import checksummed

FILES = ("generator.safetensors", "discriminator.safetensors", "optimizer.safetensors", "state.json")

PLANS = {
    "default": Plan(),
    "channels-first, plain Adam": Plan(channels_last=False, fused_adam=False),
    "fp16": Plan(precision="fp16"),
}


def without_manifest(path: Path) -> Path:
    """A checkpoint as it was before there were manifests."""
    (path / "manifest.json").unlink()
    record = json.loads((path / "state.json").read_text())
    del record["run"], record["plan"]
    (path / "state.json").write_text(json.dumps({**record, "format": 1}))
    return path


def assert_same(found: TrainState, wanted: TrainState) -> None:
    a, b = everything(found), everything(wanted)
    assert a.keys() == b.keys()
    for name in a:
        if isinstance(a[name], Tensor):
            assert (a[name].dtype, a[name].stride()) == (b[name].dtype, b[name].stride()), name
            assert torch.equal(a[name], b[name]), name
        else:
            assert a[name] == b[name], name


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other in networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def after_two_steps() -> TrainState:
    state = fresh()
    train(state, 1, 2)
    return state


@pytest.fixture(scope="module")
def trained_in_fp16() -> TrainState:
    """Not to be changed."""
    state = fresh(PLANS["fp16"])
    train(state, 1)
    return state


@pytest.fixture
def trained(after_two_steps: TrainState) -> TrainState:
    return deepcopy(after_two_steps)


@pytest.fixture
def saved(trained: TrainState, tmp_path: Path) -> Path:
    return save(tmp_path, trained, ARCH, Progress(step=2, images=10, seconds=1.25), keep=3)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_resumed_training_equals_uninterrupted_training(plan: Plan, tmp_path: Path) -> None:
    uninterrupted = fresh(plan)
    train(uninterrupted, 1, 2, 3)
    progress = Progress(step=3, images=15, seconds=2.5)
    path = save(tmp_path, uninterrupted, ARCH, progress, keep=3)

    resumed = fresh(plan, seed=99)
    assert load(path, resumed, ARCH) == progress
    assert_same(resumed, uninterrupted)
    for state in (uninterrupted, resumed):
        train(state, 4, 5, 6)
    assert_same(resumed, uninterrupted)
    if plan.precision != "fp16":  # whose first steps overflow and are left out
        assert everything(resumed)["G.layers.0.weight.step"] == 6


def test_fp16_scalers_are_restored(tmp_path: Path) -> None:
    state = fresh(PLANS["fp16"])
    train(state, 1, 2)
    state.scaler_d.update(128.0)
    path = save(tmp_path, state, ARCH, Progress(step=2), keep=3)
    resumed = fresh(PLANS["fp16"])
    load(path, resumed, ARCH)
    assert resumed.scaler_d.get_scale() == 128
    assert resumed.scaler_g.get_scale() == state.scaler_g.get_scale()
    assert resumed.scaler_d.state_dict() == state.scaler_d.state_dict() != fresh(PLANS["fp16"]).scaler_d.state_dict()


def test_saving_changes_nothing(trained: TrainState, tmp_path: Path) -> None:
    twin = fresh()
    train(twin, 1, 2)
    save(tmp_path, trained, ARCH, Progress(step=2), keep=3)
    assert_same(trained, twin)


def test_the_generator_can_be_loaded_alone(trained: TrainState, saved: Path) -> None:
    generator, _ = models.build(ARCH, seed=5)
    assert load_generator(saved, generator, ARCH) == Progress(step=2, images=10, seconds=1.25)
    wanted = trained.generator.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in generator.state_dict().items())


def test_a_checkpoint_is_tensors_and_json_alone(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted((*FILES, "manifest.json"))
    for path in saved.glob("*.safetensors"):
        assert load_file(path)
    record = json.loads((saved / "state.json").read_text())
    assert (record["step"], record["images"], record["seconds"]) == (2, 10, 1.25)
    # pickles, and the zip files in which torch.save puts them, begin like this
    assert not [path.name for path in saved.iterdir() if path.read_bytes()[:2] in (b"\x80\x02", b"PK")]


def test_tensors_have_the_plain_modules_names_even_from_compiled_networks(tmp_path: Path) -> None:
    state = fresh(Plan(backend="aot_eager"))
    train(state, 1)
    path = save(tmp_path, state, ARCH, Progress(step=1), keep=3)
    plain = models.build(ARCH, seed=0)
    for network, file in zip(plain, FILES[:2], strict=True):
        assert load_file(path / file).keys() == network.state_dict().keys()
    wanted = {
        f"{label}.{name}.{key}"
        for label, network in zip(("generator", "discriminator"), plain, strict=True)
        for name, _ in network.named_parameters()
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert load_file(path / "optimizer.safetensors").keys() == wanted
    resumed = fresh()
    load(path, resumed, ARCH)
    assert_same(resumed, state)


def test_only_the_newest_are_kept(trained: TrainState, tmp_path: Path) -> None:
    paths = [save(tmp_path, trained, ARCH, Progress(step=step), keep=2) for step in (9, 10, 100, 1000)]
    assert list_checkpoints(tmp_path) == paths[-2:]
    assert sorted(tmp_path.iterdir()) == sorted(paths[-2:])


def test_newest_is_by_number_not_by_name(trained: TrainState, tmp_path: Path) -> None:
    older = save(tmp_path, trained, ARCH, Progress(step=99_999_999), keep=3)
    newer = save(tmp_path, trained, ARCH, Progress(step=100_000_000), keep=3)
    assert list_checkpoints(tmp_path) == [older, newer]
    save(tmp_path, trained, ARCH, Progress(step=100_000_001), keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-100000001"]


def test_no_checkpoints_where_there_is_no_folder(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == list_checkpoints(tmp_path / "nowhere") == []


def test_the_same_step_again_replaces_it(trained: TrainState, saved: Path, tmp_path: Path) -> None:
    train(trained, 7)
    assert save(tmp_path, trained, ARCH, Progress(step=2), keep=3) == saved
    assert list(tmp_path.iterdir()) == [saved]
    resumed = fresh()
    load(saved, resumed, ARCH)
    assert_same(resumed, trained)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_failed_save_leaves_no_checkpoint_and_harms_none(
    calls: int, trained: TrainState, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def disk_full(tensors: dict[str, Tensor], path: Path) -> None:
        nonlocal written
        if written == calls:
            raise OSError(28, "No space left on device")
        written += 1
        save_file(tensors, path)

    monkeypatch.setattr("safetensors.torch.save_file", disk_full)
    with pytest.raises(ValueError, match=r"checkpoint of step 3 can't be written to .*: No space left on device$"):
        save(tmp_path, trained, ARCH, Progress(step=3), keep=1)
    assert list(tmp_path.iterdir()) == [saved]
    resumed = fresh()
    load(saved, resumed, ARCH)
    assert_same(resumed, trained)

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    path = save(tmp_path, trained, ARCH, Progress(step=3), keep=1)
    assert list_checkpoints(tmp_path) == [path]


def test_a_copy_that_the_user_keeps_beside_is_not_taken_for_a_checkpoint(
    trained: TrainState, saved: Path, tmp_path: Path
) -> None:
    copy = saved.with_name(f"{saved.name}-best")
    saved.rename(copy)
    (tmp_path / "step-00000009.txt").write_text("looked good")
    path = save(tmp_path, trained, ARCH, Progress(step=3), keep=1)
    assert list_checkpoints(tmp_path) == [path]
    assert copy.is_dir()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (architecture("dcgan16", width=8, latent_dim=6), ["width 4 there, 8 here"]),
        (architecture("dcgan16", width=4, latent_dim=6, channels=1), ["channels 3 there, 1 here"]),
        (architecture("dcgan16", width=4, latent_dim=7), ["latent_dim 6 there, 7 here"]),
        (
            architecture("dcgan32", width=8, latent_dim=6),
            ["name dcgan16 there, dcgan32 here", "resolution 16 there, 32 here", "width 4 there, 8 here"],
        ),
    ],
)
def test_another_architecture_is_refused_by_its_fields(saved: Path, other: Architecture, words: list[str]) -> None:
    state = fresh(arch=other)
    before = everything(state)
    generator, _ = models.build(other, seed=0)
    for attempt in (lambda: load(saved, state, other), lambda: load_generator(saved, generator, other)):
        with pytest.raises(ValueError, match="of another architecture") as refusal:
            attempt()
        assert str(saved) in str(refusal.value)
        assert all(word in str(refusal.value) for word in words)
        assert "ConvSpec" not in str(refusal.value), "fields are named, not whole tables"
    assert all(torch.equal(t, before[name]) for name, t in everything(state).items() if isinstance(t, Tensor))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_by_one(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [cut, cut_by_one, empty, garble, zero, Path.unlink])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_damaged_file_is_refused_by_name(
    file: str, damage: Callable[[Path], None], with_manifest: bool, saved: Path
) -> None:
    if not with_manifest:
        without_manifest(saved)
    damage(saved / file)
    state = fresh()
    before = everything(state)
    with pytest.raises(ValueError) as refusal:
        load(saved, state, ARCH)
    assert f"checkpoint {saved} is damaged: its {file} " in str(refusal.value)
    assert same(everything(state), before)


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("change", ["missing", "misshapen", "of another type"])
def test_tensors_that_do_not_fit_are_refused_by_name(name: str, change: str, saved: Path) -> None:
    tensors = load_file(saved / name)
    victim = next(key for key in tensors if key.endswith(("layers.3.weight", "layers.3.weight.exp_avg")))
    if change == "missing":
        del tensors[victim]
    else:
        tensors[victim] = {
            "misshapen": lambda: tensors[victim][..., :-1].contiguous(),
            "of another type": lambda: tensors[victim].bfloat16(),
        }[change]()
    without_manifest(saved)
    save_file(tensors, saved / name)
    state = fresh()
    before = everything(state)
    with pytest.raises(ValueError, match=r"does not fit: .*layers\.3\.weight"):
        load(saved, state, ARCH)
    assert same(everything(state), before)


@pytest.mark.parametrize("text", ["null", "[]", "7", '"step"', "{}", '{"format": 99}', '{"format": 1}'])
def test_a_record_of_another_kind_is_refused(text: str, saved: Path) -> None:
    (without_manifest(saved) / "state.json").write_text(text)
    with pytest.raises(ValueError) as refusal:
        load(saved, fresh(), ARCH)
    assert str(saved) in str(refusal.value)


@pytest.mark.parametrize("key", ["format", "step", "images", "seconds", "architecture", "scaler_g", "scaler_d"])
@pytest.mark.parametrize("loss", ["missing", "of another type"])
def test_a_record_with_a_missing_or_mistyped_field_is_refused(
    key: str, loss: str, trained_in_fp16: TrainState, tmp_path: Path
) -> None:
    path = without_manifest(save(tmp_path, trained_in_fp16, ARCH, Progress(step=1), keep=3))
    record = json.loads((path / "state.json").read_text())
    if loss == "missing":
        del record[key]
    else:
        record[key] = ["what?"]
    (path / "state.json").write_text(json.dumps(record))
    with pytest.raises(ValueError) as refusal:
        load(path, deepcopy(trained_in_fp16), ARCH)
    assert str(path) in str(refusal.value)


@pytest.fixture(scope="module")
def of_two_runs(after_two_steps: TrainState, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoints of the same step and architecture. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    other = fresh(seed=5)
    train(other, 3, 4)
    ours = save(folder / "ours", after_two_steps, ARCH, Progress(step=2, images=10), keep=3, run="ours")
    return ours, save(folder / "other", other, ARCH, Progress(step=2, images=10), keep=3, run="other")


def test_no_damage_loads_wrong_numbers_or_ends_in_anything_but_our_own_error(
    of_two_runs: tuple[Path, Path], after_two_steps: TrainState, tmp_path: Path
) -> None:
    wanted, state = everything(after_two_steps), fresh()
    before, refused = everything(state), 0
    for number in range(300):
        path = tmp_path / f"{number}" / "step-00000002"
        done = corrupt(number, *of_two_runs, path)
        try:
            load(path, state, ARCH, run="ours")
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error), done
            assert same(everything(state), before), done
            refused += 1
        else:  # damage that changes nothing, as of a file by the same bytes, or of white space
            assert same(everything(state), wanted), done
            state = fresh()
        shutil.rmtree(path)
    assert 250 < refused < 300


def test_without_a_manifest_damage_still_ends_in_nothing_but_our_own_error(
    of_two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, other = (without_manifest(Path(shutil.copytree(path, tmp_path / path.parent.name))) for path in of_two_runs)
    state, refused = fresh(), 0
    before = everything(state)
    for number in range(200):
        path = tmp_path / f"{number}" / "step-00000002"
        done = corrupt(number, ours, other, path)
        try:
            load(path, state, ARCH)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error), done
            assert same(everything(state), before), done
            refused += 1
        else:
            state = fresh()
        shutil.rmtree(path)
    assert 100 < refused < 200


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
@pytest.mark.parametrize("put", ["another run's", "a pipe", "a folder", "far too much"])
def test_a_file_that_is_not_its_own_is_refused(
    file: str, put: str, of_two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(of_two_runs[0], tmp_path / "step-00000002"))
    (path / file).unlink()
    match put:
        case "another run's":
            shutil.copy(of_two_runs[1] / file, path / file)
        case "a pipe":
            os.mkfifo(path / file)
        case "a folder":
            (path / file).mkdir()
        case "far too much":
            with (path / file).open("wb") as large:
                large.truncate(1 << 40)
    with pytest.raises(ValueError, match=f"checkpoint {path} is damaged: its "):
        load(path, fresh(), ARCH)


def test_without_a_manifest_what_is_far_too_large_is_not_read_either(saved: Path) -> None:
    without_manifest(saved)
    with (saved / FILES[0]).open("r+b") as large:
        large.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than the limit"):
        load(saved, fresh(), ARCH)


def test_a_pickle_under_a_checkpoints_name_does_not_run(saved: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "it ran",))

    for name in FILES:
        path = Path(shutil.copytree(saved, tmp_path / name / saved.name))
        torch.save({"weights": Malicious()}, path / name)
        with pytest.raises(ValueError, match="is damaged"):
            load(path, fresh(), ARCH)
        path = without_manifest(Path(shutil.copytree(saved, tmp_path / f"{name} without manifest" / saved.name)))
        torch.save({"weights": Malicious()}, path / name)
        with pytest.raises(ValueError, match="is damaged"):
            load(path, fresh(), ARCH)
    assert not (tmp_path / "it ran").exists()


def test_numbers_in_a_record_that_are_not_finite_or_out_of_range_are_refused(saved: Path) -> None:
    record = (without_manifest(saved) / "state.json").read_text()
    for wrong in ("NaN", "1e999", "-1", str(2**63), "9" * 5000, '1, "step": 1'):
        (saved / "state.json").write_text(record.replace('"step": 2', f'"step": {wrong}'))
        with pytest.raises(ValueError, match=r"is damaged: .* state\.json"):
            load(saved, fresh(), ARCH)


def test_a_checkpoint_under_another_step_s_name_is_refused(saved: Path) -> None:
    moved = saved.rename(saved.with_name("step-00000007"))
    with pytest.raises(ValueError, match=r"step-00000007 is not what its name says: it is of step 2$"):
        load(moved, fresh(), ARCH)


def test_numbers_that_are_not_finite_are_refused(saved: Path) -> None:
    weights = load_file(saved / FILES[1])
    weights["layers.0.weight"][0] = float("nan")
    without_manifest(saved)
    save_file(weights, saved / FILES[1])
    with pytest.raises(ValueError, match="numbers that are not finite"):
        load(saved, fresh(), ARCH)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_newest_intact_checkpoint_of_this_run_is_read(trained: TrainState, tmp_path: Path) -> None:
    def read(path: Path) -> int:
        return checkpoint.read(path, fresh(), ARCH, "ours").progress.step

    assert read_newest(tmp_path, read) == (None, [])
    a, b, c = (save(tmp_path, trained, ARCH, Progress(step=step), keep=9, run="ours") for step in (8, 9, 10))
    d = save(tmp_path, trained, ARCH, Progress(step=11), keep=9, run="other")
    assert read_newest(tmp_path, read) == (10, [f"checkpoint {d} is of another run (other, this is ours)"])
    flip(c / FILES[2])
    (b / "manifest.json").unlink()
    found, skipped = read_newest(tmp_path, read)
    assert found == 8
    assert skipped[1:] == [
        f"checkpoint {c} is damaged: its optimizer.safetensors is not what was written",
        f"checkpoint {b} is damaged: its manifest.json is missing",
    ]
    empty(a / "state.json")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used: .* \(and 3 more like it\)\. Put back"):
        read_newest(tmp_path, read)


def test_damaged_ones_and_other_runs_do_not_count_and_are_never_removed(trained: TrainState, tmp_path: Path) -> None:
    def put(step: int, run: str = "ours") -> Path:
        return save(tmp_path, trained, ARCH, Progress(step=step), keep=2, run=run)

    one, two = put(1), put(2)
    flip(two / FILES[0])
    other = save(tmp_path, trained, ARCH, Progress(step=3), keep=9, run="other")
    four = put(4)
    assert list_checkpoints(tmp_path) == [one, two, other, four]
    five = put(5)
    assert list_checkpoints(tmp_path) == [two, other, four, five]
    assert sorted(tmp_path.iterdir()) == [two, other, four, five]


def test_every_nth_is_kept(trained: TrainState, tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, trained, ARCH, Progress(step=step), keep=2, keep_every=3)
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [3, 6, 7, 8]


def test_a_damaged_one_whose_name_is_needed_is_set_aside(trained: TrainState, saved: Path, tmp_path: Path) -> None:
    for number in range(2):
        flip(saved / FILES[number])
        flipped = (saved / FILES[number]).read_bytes()
        assert save(tmp_path, trained, ARCH, Progress(step=2), keep=3) == saved
        load(saved, fresh(), ARCH)
        aside = tmp_path / f"step-00000002.set-aside{'-2' * number}"
        assert (aside / FILES[number]).read_bytes() == flipped
    assert list_checkpoints(tmp_path) == [saved]


def test_leftovers_of_a_killed_process_are_removed(trained: TrainState, saved: Path, tmp_path: Path) -> None:
    for left in (".step-00000003", ".step-00000001.removed", ".step-00000002.replaced"):
        shutil.copytree(saved, tmp_path / left)
    outside = tmp_path.with_name("outside")
    shutil.copytree(saved, outside)
    (tmp_path / ".step-00000004").symlink_to(outside)
    path = save(tmp_path, trained, ARCH, Progress(step=4), keep=3)
    assert sorted(tmp_path.iterdir()) == [saved, path]
    assert not path.is_symlink() and len(list(outside.iterdir())) == 5, "nothing is written or removed through a link"


def test_a_snapshot_is_not_changed_by_the_steps_after_it(trained: TrainState, tmp_path: Path) -> None:
    before = deepcopy(trained)
    snap = checkpoint.snapshot(trained, ARCH, Progress(step=2))
    train(trained, 3)
    resumed = fresh()
    load(checkpoint.write(tmp_path, snap, keep=1), resumed, ARCH)
    assert_same(resumed, before)


def test_fp16_without_any_update_yet_is_resumed(tmp_path: Path) -> None:
    state = fresh(PLANS["fp16"])
    assert not state.optimizer_g.state
    path = save(tmp_path, state, ARCH, Progress(step=1), keep=1)
    resumed = fresh(PLANS["fp16"], seed=9)
    load(path, resumed, ARCH)
    for each in (state, resumed):
        train(each, 2, 3, 4, 5)
    assert_same(resumed, state)


@pytest.mark.parametrize("field", ["run", "architecture"])
def test_names_in_a_record_drive_no_terminal(field: str, of_two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Found by fuzzing, with the checksums made anew."""
    path = shutil.copytree(of_two_runs[0], tmp_path / "step-00000002")
    record = json.loads((path / STATE_FILE).read_text())
    record[field] = "\x1b[31m\n" if field == "run" else record[field] | {"name": "\x1b[31m\n"}
    (path / STATE_FILE).write_text(json.dumps(record))
    (path / checksummed.MANIFEST).unlink()
    checksummed._write_manifest(path)
    with pytest.raises(ValueError, match=f"of another {field}") as refusal:
        load(path, fresh(), ARCH, run="ours")
    assert str(refusal.value).isprintable()
