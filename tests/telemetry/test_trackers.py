import re
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastdcgan.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.runs.checkpoints.folder import Best, checkpoint_path, list_checkpoints
from fastdcgan.telemetry import trackers as module
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.trackers import TrackedRun, Trackers, check_installed
from fastdcgan.training import validate
from fastdcgan.training.trainer import train

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


def saved(folder: Path, step: int) -> Path:
    """A run's checkpoint of one file, with its config.json."""
    path = checkpoint_path(folder / "checkpoints", step)
    path.mkdir(parents=True)
    (path / "state.json").write_text(f"of step {step}")
    (folder / "config.json").write_text("{}")
    return path


class Artifact:
    """What both services call one."""

    def __init__(self, name: str, type: str, metadata: dict[str, Any]) -> None:
        self.name, self.type, self.metadata = name, type, metadata
        self.files: set[str] = set()

    def add_dir(self, path: str, name: str) -> None:
        self.files |= {f"{name}/{file.relative_to(path).as_posix()}" for file in Path(path).rglob("*")}

    def add_file(self, path: str, name: str) -> None:
        assert Path(path).is_file()
        self.files.add(name)


class Service:
    """Accelerate's side of a service that keeps what it is given, until it breaks."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.tracker = SimpleNamespace(url="https://example.org/run", log_artifact=self.log_artifact)
        self.artifacts: list[tuple[Artifact, list[str]]] = []
        self.configuration: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = self.broken = False

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.configuration = values

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.broken:
            raise ConnectionError("the service\nis gone")
        self.logged.append((step, values))

    def log_artifact(self, artifact: Artifact, aliases: list[str]) -> None:
        if self.broken:
            raise ConnectionError("the service\nis gone")
        self.artifacts.append((artifact, aliases))


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
        package.Artifact = Artifact  # type: ignore[attr-defined]
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


def test_checkpoints_are_versions_of_one_model_and_the_best_is_known_as_such(
    services: dict[str, Service], tmp_path: Path
) -> None:
    folder, said = tmp_path / "größe 1", list[str]()
    trackers = Trackers(("tensorboard", "wandb", "trackio"), run(folder), say=said.append, warn=said.append)
    said.clear()
    best = Best(step=20, metric="kernel distance", value=0.25)
    for step, best_then in ((10, None), (20, best), (30, best)):
        trackers.write_checkpoint(saved(folder, step), step, best_then)
    assert not said
    for service in services.values():
        first, second, third = service.artifacts
        assert [artifact.name for artifact, _ in service.artifacts] == 3 * ["gr-e-1-12ab34cd"]
        assert first[0].type == "model"
        assert first[0].files == {"config.json", "checkpoints/step-00000010/state.json"}
        assert [aliases[1:] for _, aliases in (first, second, third)] == [
            ["step-00000010"],
            ["step-00000020", "best"],
            ["step-00000030"],
        ]
        assert second[0].metadata == {"step": 20, "metric": "kernel distance", "value": 0.25}


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_a_run_sends_its_checkpoints_and_goes_on_where_that_fails(
    broken: bool, services: dict[str, Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(artifact: Artifact, aliases: list[str]) -> None:
        raise OSError("quota exceeded")

    start = module.start_tracker

    def start_broken(*what: str, **settings: Any) -> Any:
        service = start(*what, **settings)
        service.tracker.log_artifact = fails
        return service

    monkeypatch.setattr(validate, "check_installed", lambda names: None)
    if broken:
        monkeypatch.setattr(module, "start_tracker", start_broken)
    data, out = tmp_path / "pictures.npy", tmp_path / "run"
    np.save(data, np.zeros((20, 16, 16, 3), np.uint8))
    train(
        TrainConfig(
            model=ModelConfig(arch="dcgan16", width=4, latent_dim=6),
            data=DataConfig(data=str(data), batch_size=10),
            run=RunConfig(
                out=out, images=60, checkpoint_every=2, track="wandb", track_checkpoints=True, keep_checkpoints=1
            ),
        )
    )
    sent = [aliases[1] for _, aliases in services["wandb"].artifacts]
    assert sent == ([] if broken else ["step-00000002", "step-00000004", "step-00000006"])
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == ["step-00000006"]
    assert (out / "run.log").read_text().count("wandb failed and is left out from here on: quota exceeded") == broken


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
    sdk = pytest.importorskip("wandb.sdk", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    follow(("wandb",), tmp_path)
    sdk.teardown()  # as at exit: finish() returns before the service, a process of its own, has written all
    (file,) = tmp_path.glob("wandb/offline-run-*/run-12ab34cd.wandb")
    assert file.read_bytes().count(b"loss/D") >= 2
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/samples_*.png"))
    assert file.read_bytes().count(b"checkpoints/step-00000020/state.json") == 1


@pytest.mark.slow
def test_trackio_needs_no_network_and_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio", reason="needs the extra trackio")
    follow(("trackio",), tmp_path)
    (file,) = (tmp_path / "trackio").glob("fastdcgan*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    assert [step for step, metrics in rows if "loss/D" in str(metrics)] == [10, 20]
    assert [step for step, metrics in rows if "samples" in str(metrics)] == [20]
    name = f"{tmp_path.name}-12ab34cd"
    reader = trackio.init(project="fastdcgan", name="reader", auto_log_cpu=False, auto_log_gpu=False)
    found = reader.use_artifact(f"{name}:best", type="model")
    trackio.finish()
    assert {"latest", "best", "step-00000020"} == set(found.aliases)
    found.download(str(tmp_path / "again"))
    assert (tmp_path / "again/checkpoints/step-00000020/state.json").read_text() == "of step 20"
    assert (tmp_path / "again/config.json").is_file()


def follow(names: tuple[str, ...], folder: Path) -> None:
    from accelerate import PartialState

    PartialState(cpu=True)
    said: list[str] = []
    trackers = Trackers(names, run(folder), say=said.append, warn=said.append)
    for step in (10, 20):
        trackers.write(record(step))
    trackers.write_grid(GRID_CHW, 20)
    with ThreadPoolExecutor(1) as thread:  # as checkpoints are written in one
        best = Best(step=20, metric="kernel distance", value=0.25)
        thread.submit(trackers.write_checkpoint, saved(folder, 20), 20, best).result()
    trackers.close()
    assert len(said) == 1 and "failed" not in said[0]
