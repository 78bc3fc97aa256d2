"""What a run leaves in its folder, to be compared bit for bit with another one's; and small arrays to train on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEPS, BATCH = 11, 8

OF_THE_CLOCK = ("seconds", "images_per_sec", "data_wait_fraction")

TAGS = ("loss/D", "loss/G", "probability/D(x)", "probability/D(G(z))")


def left_behind(run: Path) -> dict[str, Any]:
    """Everything in a run's folder that doesn't depend on the clock."""
    found: dict[str, Any] = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted((*run.rglob("*.safetensors"), *run.glob("samples/*"), run / "real.png"))
    }
    for path in run.glob("checkpoints/*/state.json"):
        record = json.loads(path.read_text())
        found[str(path.relative_to(run))] = {k: v for k, v in record.items() if k not in ("seconds", "run")}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{k: v for k, v in line.items() if k not in OF_THE_CLOCK} for line in lines]
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()
    found["curves"] = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in TAGS}
    found["grids"] = [(e.step, e.encoded_image_string) for e in events.Images("samples")]
    return found


def name_after_the_sitting(run: Path) -> None:
    """TensorBoard reads event files by name, which is the second: sittings of a test are shorter than that."""
    files = sorted((run / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for number, path in enumerate(files):
        path.rename(path.with_name(f"events.out.tfevents.{number:010d}.test"))


def pictures(photographs: Path, most: int = 22) -> list[Path]:
    return sorted(photographs.rglob("*.jpg"))[:most]


def array(photographs: Path, folder: Path) -> Path:
    small = [np.asarray(Image.open(path).convert("RGB").resize((16, 16))) for path in pictures(photographs)]
    np.save(folder / "pictures.npy", np.stack(small))
    return folder / "pictures.npy"
