"""A run's folder, and pictures, as Python shows them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fastdcgan import Run, open_data, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    np.save(folder / "pictures.npy", np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8))
    model = {"arch": "dcgan16", "width": 4, "batch_size": 4, "images": 12, "log_every": 1, "checkpoint_every": 2}
    return train(data=folder / "pictures.npy", **model, out=folder / "run", track="none", quiet=True, device="cpu")


def test_a_run_shows_what_is_in_its_folder(run: Run) -> None:
    opened = Run.open(str(run.path))
    assert opened == run and {run: 1}[opened] == 1
    assert [record.step for record in run.metrics] == [1, 2, 3]
    assert run.config["width"] == 4 and run.config["latent_dim"] == 100
    assert list(run.grids) == [0, 1, 2, 3] and all(file.is_file() for file in run.grids.values())
    assert list(run.checkpoints) == [2, 3] and (run.checkpoints[3] / "generator.safetensors").is_file()
    assert "<html" in run.report.read_text()
    run.report.unlink()
    assert run.report.is_file()


def test_metrics_as_a_frame(run: Run) -> None:
    frame = run.frame()
    assert frame.index.tolist() == [1, 2, 3] and frame.index.name == "step"
    assert frame["loss_g"].tolist() == [record.loss_g for record in run.metrics]
    assert Run(run.path / "nothing here").frame().columns.tolist() == frame.columns.tolist()


def test_without_pandas_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'fastdcgan\[notebook\]'"):
        run.frame()


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_run_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such run folder|is not a run's folder"):
        Run.open(tmp_path / name)


def test_pictures_are_those_that_training_sees(photographs: Path) -> None:
    pictures = open_data(photographs / "china", resolution=28, data_cache="off", decoder="pillow")
    assert len(pictures) == 120
    (batch_NHWC,) = pictures.read([[5, 3]])
    assert batch_NHWC.shape == (2, 28, 28, 1) and batch_NHWC.unique().numel() > 50
    with pytest.raises(ValueError, match="data_threads 0: must be at least 1"):
        open_data(photographs, data_threads=0)
    with pytest.raises(ValueError, match="no such folder"):
        open_data("nowhere at all")
