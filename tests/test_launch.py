"""The launch configurations, and two processes that train together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from PIL import Image

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "launch").glob("*.yaml"))


def test_there_is_a_configuration_for_each_kind_of_machine() -> None:
    assert [path.stem for path in CONFIGS] == ["cpu", "gpu", "gpu_8", "two_nodes"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration(path: Path) -> None:
    keys = yaml.safe_load(path.read_text()).keys()
    assert keys <= ClusterConfig.__dataclass_fields__.keys()

    config = load_config_from_file(str(path))

    assert config.mixed_precision == "no", "precision is the plan's"
    assert config.use_cpu == (path.stem == "cpu")
    assert config.num_processes == {"cpu": 1, "gpu": 1, "gpu_8": 8, "two_nodes": 16}[path.stem]
    assert config.num_machines == (2 if path.stem == "two_nodes" else 1)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_readme_shows_the_configuration(path: Path) -> None:
    assert f"--config_file launch/{path.name}" in (ROOT / "launch" / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path) -> None:
    """Three steps of 8 images. Had the processes not found each other, each would write a run of its own there."""
    photos, out = tmp_path / "photos", tmp_path / "run"
    write_pictures(photos, count=32)
    options = {
        "--data": photos,
        "--out": out,
        "--arch": "dcgan28",
        "--batch-size": 8,
        "--images": 24,
        "--log-every": 1,
        "--checkpoint-every": 3,
        "--precision": "fp32",
    }
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            str(ROOT / "train.py"),
            *(str(word) for option in options.items() for word in option),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FASTDCGAN_CACHE": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Done.") == 1, finished.stdout
    assert json.loads((out / "config.json").read_text())["conditions"]["processes"] == 2
    assert [path.name for path in tmp_path.rglob("metrics.jsonl")] == ["metrics.jsonl"]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["images"]) for record in records] == [(1, 8), (2, 16), (3, 24)]
    assert len(list((out / "tensorboard").iterdir())) == 1, "one process writes"
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]


def write_pictures(folder: Path, count: int) -> None:
    """Grey gradients of 28x28, each turned another way."""
    folder.mkdir()
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    for number in range(count):
        angle = 2 * np.pi * number / count
        levels = 127.5 + 89 * (x * np.cos(angle) + y * np.sin(angle))
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{number:02d}.png")
