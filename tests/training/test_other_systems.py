"""What is otherwise on Windows and macOS, by fakes: names of files, files that are open, numbers of 64 bits."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_states import ARCH, fresh, save, train
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fastdcgan import cli
from fastdcgan.execution.finite import loss_scales, non_finite_tensors
from fastdcgan.gan.average import MovingAverage
from fastdcgan.runs import lock
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import RunFolder
from fastdcgan.telemetry.metrics import MetricsBuffer

RESERVED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


@pytest.fixture
def open_files_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file that this process has open can be removed, renamed or replaced."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("looks into /proc")

    def refuse_open(*paths: Path) -> None:
        held = set()
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # another thread has closed it meanwhile
                held.add(Path(os.path.realpath(entry)))
        if any(path.resolve() in held for path in paths if path.is_file()):
            raise PermissionError(13, "it is being used by another process", str(paths[0]))

    def checked(do: Callable[..., Any]) -> Callable[..., Any]:
        def first(path: Path, *args: Any, **options: Any) -> Any:
            refuse_open(path, *(Path(arg) for arg in args if isinstance(arg, str | Path)))
            return do(path, *args, **options)

        return first

    for name in ("unlink", "rename", "replace"):
        monkeypatch.setattr(Path, name, checked(getattr(Path, name)))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    np.save("data.npy", np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    options = "--data data.npy --arch dcgan16 --width 4 --batch-size 4 --images 12 --checkpoint-every 1 --device cpu"
    cli.main(["train", *options.split(), "--keep-checkpoints", "1", "--out", "a"])
    return tmp_path


def test_open_files_can_stay_where_they_are(open_files_stay: None, trained: Path) -> None:
    with Path("data.npy").open("rb"), pytest.raises(PermissionError):
        Path("data.npy").unlink()
    for out in ("p.png", "p.npy", "p.npz", "p.tar", "p"):
        cli.main(["generate", "a", "--count", "70", "--out", out])
    assert not list(trained.glob(".*.unfinished")) and not list(trained.glob(".*.journal"))


def test_every_system_takes_the_names_of_all_files(trained: Path) -> None:
    window = ("--profile-wait", "0", "--profile-warmup", "1", "--profile-active", "1")
    cli.main(["profile", "a", *window])
    cli.main(["report", "a"])
    names = [path.relative_to(trained) for path in trained.rglob("*")]
    assert len(names) > 20 and [str(name) for name in names if any(map(RESERVED.search, name.parts))] == []
    assert max(Counter(str(name).casefold() for name in names).values()) == 1
    shutil.rmtree("a")


def test_a_folder_that_was_made_for_nothing_is_removed_where_nothing_open_can_be(
    open_files_stay: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Windows:
        name = "nt"

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    monkeypatch.setattr(lock, "os", Windows())
    said: list[str] = []
    with lock.locked(RunFolder(tmp_path / "new"), say=said.append):
        assert (tmp_path / "new").is_dir()
    assert "none on this system" in said[0] and not (tmp_path / "new").exists()


class NoFloat64(TorchDispatchMode):
    """As MPS: nothing has 64 bits after the point."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(one, torch.Tensor) and one.dtype == torch.float64 for one in tree_iter(made)):
            raise TypeError(f"{func}: Cannot convert a MPS Tensor to float64 dtype")
        return made


def test_a_step_and_all_around_it_do_without_float64(tmp_path: Path) -> None:
    with NoFloat64():
        with pytest.raises(TypeError):
            torch.zeros(1).double()
        state = fresh()
        train(state, 1, 2)
        MovingAverage(state.generator, 0.9).update(1)
        buffer = MetricsBuffer(2, torch.device("cpu"))
        buffer.take()
        assert len(loss_scales(state)) == 2 and not list(non_finite_tensors(state))
        save(tmp_path, state, ARCH, Progress(step=2), keep=1)
