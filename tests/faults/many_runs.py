"""A notebook's day: many short `train()` calls in one process. A line of JSON for what each of them leaves behind."""

import gc
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import fastdcgan


def main(count: int, folder: Path) -> None:
    """Train so many runs below a folder, and look after each."""
    os.environ["FASTDCGAN_CACHE"] = str(folder / "cache")
    (folder / "tmp").mkdir()
    tempfile.tempdir = str(folder / "tmp")
    np.save(folder / "pictures.npy", np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8))
    for number in range(count):
        fastdcgan.train(
            data=folder / "pictures.npy",
            **{"arch": "dcgan16", "width": 4, "batch_size": 8, "images": 32, "log_every": 2, "checkpoint_every": 2},
            out=folder / "runs" / str(number),
            device="cpu",
            quiet=True,
        )
        print(json.dumps(left_behind(folder)), flush=True)


def left_behind(folder: Path) -> dict[str, Any]:
    """What a run could leave in its process."""
    gc.collect()
    figures = [thing for thing in gc.get_objects() if type(thing).__name__ == "Figure"]
    process = psutil.Process()
    return {
        "memory_mib": process.memory_info().rss / 2**20,
        "threads": process.num_threads(),
        "python_threads": threading.active_count(),
        "files": sorted(file.path for file in process.open_files()),
        "fds": process.num_fds(),
        "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "figures": len(figures),
        "temporary": len(list((folder / "tmp").iterdir())),
        "environment": sorted(os.environ),
        "path": len(sys.path),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
