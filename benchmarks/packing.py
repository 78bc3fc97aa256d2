"""A folder checked and packed in a process of its own: `python -m benchmarks.packing FOLDER RESOLUTION THREADS`.

Answers with a line of JSON: seconds until all was checked, and until all was packed; and the memory needed at the
height of it, above what was resident once PyTorch and `fastdcgan.data.open` were imported.
"""

import json
import sys
import time

import torch

from fastdcgan.data.open import open_source
from fastdcgan.limits.memory import PeakMemory


def main(folder: str, resolution: str, threads: str) -> None:
    """Check and pack, as the trainer does."""
    checked = 0.0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal checked
        if what == "checking images":
            checked = time.perf_counter() - start

    memory = PeakMemory(torch.device("cpu"))
    start = time.perf_counter()
    source = open_source(
        folder,
        resolution=int(resolution),
        channels=3,
        device="cpu",
        threads=int(threads),
        cache="on",
        on_progress=progress,
    )
    seconds = time.perf_counter() - start
    answer = {
        "pictures": len(source),
        "checked_seconds": checked,
        "seconds": seconds,
        "peak_memory_mib": memory.mib(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
