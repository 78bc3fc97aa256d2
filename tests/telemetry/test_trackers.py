import re
import sqlite3
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastdcgan.telemetry import trackers as module
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.trackers import TrackedRun, Trackers, check_installed

GRID_CHW = torch.rand(3, 8, 8)


def record(step: int) -> Record:
    return Record(
        step=step,
        images=16 * step,
        epoch=0.1,
        seconds=1.0,
        loss_d=1.5,
        loss_g=0.5,
        d_real=0.75,
        d_fake=0.25,
        images_per_sec=100.0,
        data_wait_fraction=0.0,
    )


def run(folder: Path, resume_step: int = 0) -> TrackedRun:
    return TrackedRun(folder=folder, run_id="12ab34cd", resume_step=resume_step, configuration={"lr": 2e-4})


class Service:
    """Accelerate's side of a service that keeps what it is given, until it breaks."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.tracker = SimpleNamespace(url="https://example.org/run")
        self.configuration: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = self.broken = False

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.configuration = values

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.broken:
            raise ConnectionError("the service\nis gone")
        self.logged.append((step, values))


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    """Stand-ins for both, by name, once they are started."""
    started: dict[str, Service] = {}

    def finish(name: str) -> None:
        started[name].finished = True

    def start(service: str, project: str, /, **settings: Any) -> Service:
        started[service] = Service({"project": project, **settings})
        return started[service]

    for name in module.SERVICES:
        package = ModuleType(name)
        package.Image = lambda picture: picture  # type: ignore[attr-defined]
        package.finish = partial(finish, name)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, package)
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_SILENT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(module, "start_tracker", start)
    return started


def test_figures_and_grids_reach_all_trackers(services: dict[str, Service], tmp_path: Path) -> None:
    said: list[str] = []
    trackers = Trackers(("tensorboard", "wandb", "trackio"), run(tmp_path), say=said.append, warn=said.append)
    trackers.write(record(10))
    trackers.write_grid(GRID_CHW, 10)
    trackers.close()
    for service in services.values():
        assert service.configuration == {"lr": 2e-4}
        (step, figures), (_, grids) = service.logged
        assert step == 10 and figures["loss/D"] == 1.5 and figures["probability/D(G(z))"] == 0.25
        assert grids["samples"].size == (8, 8)
        assert service.finished
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss/G")] == [0.5]
    assert events.Images("samples")
    assert [line.split(",")[0].split(";")[0] for line in said] == ["tracking  wandb", "tracking  trackio"]


def test_a_second_session_continues_the_trackers_run(services: dict[str, Service], tmp_path: Path) -> None:
    seen = []
    for step in (0, 20):
        Trackers(("wandb", "trackio"), run(tmp_path, step), say=print, warn=print)
        wandb, trackio = services["wandb"].settings, services["trackio"].settings
        assert wandb["resume"] == trackio["resume"] == "allow"
        seen.append((wandb["id"], trackio["name"]))
    assert seen[0] == seen[1] == ("12ab34cd", f"{tmp_path.name}-12ab34cd")


def test_a_failing_tracker_is_dropped_and_named_once(services: dict[str, Service], tmp_path: Path) -> None:
    said: list[str] = []
    trackers = Trackers(("wandb", "trackio"), run(tmp_path), say=said.append, warn=said.append)
    said.clear()
    services["wandb"].broken = True
    for step in (1, 2, 3):
        trackers.write(record(step))
        trackers.write_grid(GRID_CHW, step)
    trackers.close()
    assert said == ["wandb failed and is left out from here on: the service"]
    assert len(services["trackio"].logged) == 6 and services["trackio"].finished


def test_wandb_is_kept_for_later_where_it_cannot_be_sent(
    services: dict[str, Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = module.start_tracker

    def no_account(service: str, project: str, /, **settings: Any) -> Service:
        if settings.get("mode") != "offline":
            raise RuntimeError("No API key configured.")
        return start(service, project, **settings)  # type: ignore[return-value]

    monkeypatch.setattr(module, "start_tracker", no_account)
    said: list[str] = []
    trackers = Trackers(("wandb",), run(tmp_path), say=said.append, warn=said.append)
    trackers.write(record(1))
    assert len(services["wandb"].logged) == 1
    (line,) = said
    assert "No API key configured" in line and f"wandb sync {tmp_path}" in line


def test_what_the_user_says_of_wandbs_mode_is_followed(
    services: dict[str, Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(service: str, project: str, /, **settings: Any) -> Service:
        assert "mode" not in settings
        raise OSError("no network")

    monkeypatch.setattr(module, "start_tracker", fails)
    monkeypatch.setenv("WANDB_MODE", "online")
    said: list[str] = []
    Trackers(("wandb",), run(tmp_path), say=said.append, warn=said.append).write(record(1))
    assert said == ["wandb failed and is left out from here on: no network"]


def test_steps_that_will_be_repeated_are_hidden_in_tensorboard(tmp_path: Path) -> None:
    for resume_step, steps in ((0, (10, 20, 30)), (20, (30,))):
        trackers = Trackers(("tensorboard",), run(tmp_path, resume_step), say=print, warn=print)
        for step in steps:
            trackers.write(record(step))
        trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/G")] == [10, 20, 30]


@pytest.mark.parametrize("name", module.SERVICES)
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(module, "version", missing)
    with pytest.raises(ValueError, match=re.escape(f"pip install 'fastdcgan[{name}]'")):
        check_installed(("tensorboard", name))


# --- The services themselves, offline ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_wandb_needs_no_network_and_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb.sdk", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    follow(("wandb",), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-12ab34cd.wandb")
    assert file.read_bytes().count(b"loss/D") >= 2
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/samples_*.png"))


@pytest.mark.slow
def test_trackio_needs_no_network_and_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="needs the extra trackio")
    follow(("trackio",), tmp_path)
    (file,) = (tmp_path / "trackio").glob("fastdcgan*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    assert [step for step, metrics in rows if "loss/D" in str(metrics)] == [10, 20]
    assert [step for step, metrics in rows if "samples" in str(metrics)] == [20]


def follow(names: tuple[str, ...], folder: Path) -> None:
    from accelerate import PartialState

    PartialState(cpu=True)
    said: list[str] = []
    trackers = Trackers(names, run(folder), say=said.append, warn=said.append)
    for step in (10, 20):
        trackers.write(record(step))
    trackers.write_grid(GRID_CHW, 20)
    trackers.close()
    assert len(said) == 1 and "failed" not in said[0]
