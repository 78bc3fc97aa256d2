"""Shared by all tests: which of them run, a cache folder of their own, the command line as a user calls it."""

import getpass
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from figures import figure, tell_figures

__all__ = ["figure"]  # a fixture for all tests

ROOT = Path(__file__).parents[1]

Command = Callable[..., subprocess.CompletedProcess[str]]


LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests only with `--all`, or where `-m` or a test's own name asks for them; GPU tests only with a GPU."""
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    long = {item for item in items if item.get_closest_marker("slow")}
    if config.option.all or config.option.markexpr or any("::" in argument for argument in config.args):
        if hasattr(config, "workerinput"):  # processes end together only if what takes long is begun first
            of_file: Counter[Path] = Counter()
            for item in long:
                of_file[item.path] += seconds_of(item)
            items.sort(key=lambda item: -of_file[item.path])
        else:
            items.sort(key=lambda item: item in long)
        return
    items[:] = [item for item in items if item not in long]
    config.stash[LEFT_OUT] = len(long)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = len(long)


def seconds_of(long: pytest.Item) -> int:
    """About how long a test takes: as its mark says, `slow(seconds)`, or as most do."""
    mark = long.get_closest_marker("slow")
    return int(mark.args[0]) if mark and mark.args else 5


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker left out; all of them leave out the same."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was counted, what was left out, and how to run it."""
    tell_figures(terminalreporter, config)
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.section("left out")
        terminalreporter.line(
            f"{left_out} long tests (kills, damage, compilation, corpora): pytest --all runs them too"
        )


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What tests draw and index stays out of the user's cache, and the user's cache out of the tests."""
    before = os.environ.get("FASTDCGAN_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FASTDCGAN_CACHE"] = str(folder)
    # But compiling takes minutes: what Inductor keeps stays for the next session.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")
    yield folder
    if before is None:
        del os.environ["FASTDCGAN_CACHE"]
    else:
        os.environ["FASTDCGAN_CACHE"] = before


@pytest.fixture(autouse=True)
def memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping freed memory is for a process's whole life: no test leaves that to the next."""
    monkeypatch.setattr("fastdcgan.execution.prepare.keep_freed_memory", lambda: True)


@pytest.fixture(scope="session", autouse=True)
def ceilings_are_measured_once() -> Iterator[None]:
    """At the end of every run this takes longer than all the rest of a tiny one."""
    from fastdcgan.telemetry.report import end_of_run, run_facts

    with pytest.MonkeyPatch.context() as patch:
        for module in (end_of_run, run_facts):
            patch.setattr(module, "device_ceilings", cache(module.device_ceilings))
        yield


@pytest.fixture(autouse=True)
def compiler_as_new() -> None:
    """No test inherits compiled code: its guards count towards the compiler's limit of variants."""
    if "torch._dynamo" in sys.modules:
        import torch

        torch.compiler.reset()


@pytest.fixture(scope="session")
def fastdcgan() -> Command:
    """`fastdcgan(...)` runs the command line in a process of its own."""

    def run(*arguments: object, launcher: tuple[str, ...] = ("-m", "fastdcgan")) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *launcher, *map(str, arguments)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            cwd=ROOT,
        )

    return run


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests leave pictures of what they saw: $FASTDCGAN_SCREENSHOTS, else among pytest's temporary folders."""
    folder = os.environ.get("FASTDCGAN_SCREENSHOTS")
    if folder is None:
        return tmp_path_factory.mktemp("screenshots")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 JPEG crops of scikit-learn's two sample photographs, 96x128, in two folders."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photographs")
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        photograph = Image.fromarray(pixels)
        (folder / name).mkdir()
        for number in range(120):
            row, column = divmod(number, 12)
            box = (column * 45, row * 30, column * 45 + 96, row * 30 + 128)
            photograph.crop(box).save(folder / name / f"{number:03d}.jpg", quality=92)
    return folder
