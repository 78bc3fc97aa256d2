"""Nothing that is read is run: pickles under every name, and libraries of others in a shared cache."""

import gzip
import io
import os
import pickle
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdcgan.config import DataConfig, ExecutionConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.data.datasets.cifar10 import _batch_from_pickle, open_cifar10
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.open import open_source
from fastdcgan.kernels import native
from fastdcgan.kernels.native.build import compiler
from fastdcgan.runs.generate import generate_from_run
from fastdcgan.storage import private
from fastdcgan.training.trainer import train


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.ran), "w")


def saved_by_torch(thing: object) -> bytes:
    file = io.BytesIO()
    torch.save({"generator": thing}, file)
    return file.getvalue()


PICKLES: dict[str, Callable[[object], bytes]] = {"pickle": pickle.dumps, "torch.save": saved_by_torch}


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture(params=PICKLES)
def evil(request: pytest.FixtureRequest, ran: Path) -> bytes:
    data = PICKLES[request.param](Evil(ran))
    loader = (
        pickle.loads if request.param == "pickle" else lambda data: torch.load(io.BytesIO(data), weights_only=False)
    )
    loader(data)
    assert ran.exists(), "it does nothing, so that it did not run would show nothing"
    ran.unlink()
    return data


def request(out: Path, data: Path, images: int = 16) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(arch="dcgan16", width=4, latent_dim=4),
        data=DataConfig(data=str(data), batch_size=8),
        execution=ExecutionConfig(device="cpu", plan="default", precision="fp32"),
        run=RunConfig(out=out, images=images, track="none", checkpoint_every=1),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two steps, each with a checkpoint, and its pictures."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    np.save(folder / "data.npy", rng.integers(0, 256, (16, 16, 16, 3), np.uint8))
    train(request(folder / "run", folder / "data.npy"))
    return folder / "run", folder / "data.npy"


@pytest.fixture
def run(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def a_file_instead_of_a_checkpoint(run: Path, evil: bytes) -> None:
    (run / "checkpoints" / "step-00000100").write_bytes(evil)


def every_file_of_a_checkpoint(run: Path, evil: bytes) -> None:
    for path in newest(run).iterdir():
        path.write_bytes(evil)


def a_whole_checkpoint_of_pickles(run: Path, evil: bytes) -> None:
    fake = run / "checkpoints" / "step-00000100"
    fake.mkdir()
    names = [path.name for path in newest(run).iterdir()]
    for name in (*names, "optimizer.pt", "optimizer.bin", "pytorch_model.bin", "random_states_0.pkl", "scheduler.bin"):
        (fake / name).write_bytes(evil)


def pickles_beside(run: Path, evil: bytes) -> None:
    for name in ("optimizer.pt", "generator.pt", "generator.pkl", "state.pkl", "generator.bin", "generator.pth"):
        (newest(run) / name).write_bytes(evil)
        (run / "checkpoints" / name).write_bytes(evil)


def the_weights(run: Path, evil: bytes) -> None:
    (newest(run) / "generator.safetensors").write_bytes(evil)


def the_state(run: Path, evil: bytes) -> None:
    (newest(run) / "state.json").write_bytes(evil)


def the_runs_own_files(run: Path, evil: bytes) -> None:
    for name in ("config.json", "metrics.jsonl", "skipped.txt"):
        (run / name).write_bytes(evil)


ATTACKS = (
    a_file_instead_of_a_checkpoint,
    every_file_of_a_checkpoint,
    a_whole_checkpoint_of_pickles,
    pickles_beside,
    the_weights,
    the_state,
    the_runs_own_files,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("verb", ["resume", "generate"])
def test_a_pickle_in_a_run_does_not_run(
    attack: Callable[[Path, bytes], None],
    verb: str,
    run: Path,
    trained: tuple[Path, Path],
    evil: bytes,
    ran: Path,
    tmp_path: Path,
) -> None:
    """It may be passed over or refused in one line, and nothing else."""
    attack(run, evil)
    try:
        if verb == "resume":
            train(request(run, trained[1], images=24))
        else:
            generate_from_run(run, count=1, seed=0, out=tmp_path / "grid.png")
    except ValueError as refusal:
        assert "\n" not in str(refusal)
    assert not ran.exists()


@pytest.mark.parametrize(
    "name", ["data.npy", "data.npz", "data.tar", "train-images-idx3-ubyte", "data_batch_1", "a.png"]
)
def test_a_pickle_among_the_pictures_does_not_run(name: str, evil: bytes, ran: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(evil)
    for spec in (folder, folder / name):
        with pytest.raises(ValueError):
            open_source(str(spec), resolution=16, channels=3, device="cpu", threads=1, cache="on")
    assert not ran.exists()


def test_an_array_of_objects_does_not_run(ran: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.array([Evil(ran)], object), allow_pickle=True)
    np.savez(tmp_path / "data.npz", images=np.array([Evil(ran)], object))
    for name in ("data.npy", "data.npz"):
        with pytest.raises(ValueError, match="Python objects"):
            open_source(str(tmp_path / name), resolution=16, channels=3, device="cpu", threads=1)
    assert not ran.exists()


def batches(folder: Path, first: bytes) -> Path:
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(first)
    return folder


def archive(folder: Path, first: bytes) -> Path:
    with gzip.open(folder / "cifar-10-python.tar.gz", "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(1, 6):
            member = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{number}")
            member.size = len(first)
            tar.addfile(member, io.BytesIO(first))
    return folder


@pytest.mark.parametrize("form", [batches, archive])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_batch_of_cifar10_that_calls_is_refused(
    form: Callable[[Path, bytes], Path], protocol: int, ran: Path, tmp_path: Path
) -> None:
    folder = form(tmp_path, pickle.dumps({"data": Evil(ran)}, protocol))
    with pytest.raises(ValueError, match=r"data_batch_1: damaged.*asks for (_?io|builtins|__builtin__)\.open"):
        open_cifar10(folder, frame=Frame.of(32), channels=3, threads=1)
    assert not ran.exists()


TWICE_FOREVER = b"(tq\x00" + b"h\x00h\x00\x86q\x00" * 100  # a tuple of twice a tuple of twice ...
BOMBS = {
    "a place in the memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a bytearray": b"\x80\x05\x96" + (2**50).to_bytes(8, "little") + b".",
    "a key hashed forever": b"\x80\x02}" + TWICE_FOREVER + b"Ns.",
    "keys hashed forever": b"\x80\x02}(" + TWICE_FOREVER + b"Nu.",
    "a dict hashed forever": b"\x80\x02(" + TWICE_FOREVER + b"Nd.",
    "a set hashed forever": b"\x80\x04\x8f(" + TWICE_FOREVER + b"\x90.",
    "a frozen set": b"\x80\x04(" + TWICE_FOREVER + b"\x91.",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.timeout(20)
def test_small_pickles_ask_for_neither_gigabytes_nor_ages(bomb: bytes) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((pickle.UnpicklingError, TypeError, ValueError, LookupError)):
        _batch_from_pickle(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "a GiB"


def test_a_count_that_is_a_list_is_not_multiplied() -> None:
    """By 3,072, which is memory without end."""
    from fastdcgan.data.datasets import cifar10

    recorded, dtype = cifar10._StandIn(), cifar10._StandIn("u1")
    recorded.__setstate__((1, ([0] * 2**20, 3072), dtype, False, b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10._SafeUnpickler, "load", lambda self: {b"data": recorded})
        with pytest.raises(ValueError, match="another size"):
            _batch_from_pickle(b"")


# --- Libraries --------------------------------------------------------------------------------------------------------

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="owners and permissions as Linux has them")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of ours, whatever lies above it."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


@LINUX
def test_a_folder_made_for_compiled_code_is_private(home: Path) -> None:
    before = os.umask(0)
    try:
        assert private.ensure_private_folder(home / "new" / "native") is False, "new can be written by all"
        assert private.ensure_private_folder(home / "native")
    finally:
        os.umask(before)
    assert (home / "native").stat().st_mode & 0o777 == 0o700


@LINUX
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_private(mode: int, home: Path) -> None:
    (home / "native").mkdir()
    (home / "native").chmod(mode)
    assert not private.ensure_private_folder(home / "native")


@LINUX
def test_a_folder_below_a_world_writable_one_is_private_only_if_that_is_sticky(home: Path) -> None:
    home.chmod(0o777)
    assert not private.ensure_private_folder(home / "native")
    home.chmod(0o1777)
    assert private.ensure_private_folder(home / "native")


@LINUX
def test_a_link_is_not_private(home: Path) -> None:
    (home / "elsewhere").mkdir(mode=0o700)
    (home / "native").symlink_to(home / "elsewhere")
    assert not private.ensure_private_folder(home / "native")


@LINUX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_not_private(home: Path) -> None:
    (home / "native").mkdir(mode=0o700)
    os.chown(home / "native", 12345, 12345)
    assert not private.ensure_private_folder(home / "native")
    assert not private.is_private(home / "native")


def compiled() -> Path | None:
    """The library in the cache, once it has been built."""
    native.library.cache_clear()
    try:
        native.library()
    finally:
        native.library.cache_clear()
    from fastdcgan.storage.cache import cache_folder

    return next((cache_folder() / "native").glob("*.so"), None)


@LINUX
@pytest.mark.skipif(native.instruction_set() is None or not compiler(), reason="nothing is compiled here")
def test_a_library_of_others_in_a_shared_cache_is_not_loaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs would have to be built: that ours is put in its place, or built elsewhere, shows that it was not."""
    loaded: list[str] = []

    def build(program: str, instruction_set: str, library: Path) -> None:
        library.write_bytes(b"ours")
        library.chmod(0o700)

    monkeypatch.setenv("FASTDCGAN_CACHE", str(home / "shared"))
    monkeypatch.setattr(native, "library_path", lambda instruction_set: home / "none came with the package")
    monkeypatch.setattr(native, "build", build)
    monkeypatch.setattr(native.ctypes, "CDLL", lambda path: loaded.append(Path(path).read_text()) or path)
    library = compiled()
    assert library is not None
    assert loaded == ["ours"]

    library.write_text("theirs")
    library.chmod(0o666)
    compiled()
    assert loaded[-1] == "ours", "a file that all may write is built anew"

    library.write_text("theirs")
    library.chmod(0o700)
    library.parent.chmod(0o777)
    compiled()
    assert loaded[-1] == "ours", "a folder that all may write to is none to load from"
    assert library.read_text() == "theirs"
    library.parent.chmod(0o700)
    compiled()
    assert loaded[-1] == "theirs", "what only we can have written is loaded, and this test can fail"


@LINUX
def test_inductors_cache_is_private(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(home / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    private.use_private_inductor_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(home / "cache" / "inductor")
    (home / "cache" / "inductor").chmod(0o777)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    private.use_private_inductor_cache()
    elsewhere = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert not elsewhere.is_relative_to(home)
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    elsewhere.rmdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "said")
    private.use_private_inductor_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "said", "the environment is trusted"


def test_a_plan_with_inductor_sets_its_private_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdcgan.config import RecipeConfig
    from fastdcgan.execution import prepare
    from fastdcgan.execution.plan import Plan
    from fastdcgan.gan import models
    from fastdcgan.gan.architecture import architecture

    asked = threading.Event()
    monkeypatch.setattr(prepare, "use_private_inductor_cache", asked.set)
    networks = models.build(architecture("dcgan16", width=4), seed=0)
    prepare.prepare(Plan(backend="aot_eager"), *networks, RecipeConfig(), torch.device("cpu"))
    assert not asked.is_set()
    prepare.prepare(Plan(backend="inductor"), *networks, RecipeConfig(), torch.device("cpu"))
    assert asked.is_set()
