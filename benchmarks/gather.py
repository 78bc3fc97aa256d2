"""What reading pictures from a pack costs the processor, against copying them from a mapped one: `python -m
benchmarks.gather`.

A mapped file is cheaper to copy from, and ends the process (SIGBUS) where a page of it can't be read: packs are read.
Both take turns in one thread, over the same numbers, from the page cache. Prints microseconds of processor time for a
batch of 128, in brackets quartiles.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fastdcgan.data.array import ArraySource
from fastdcgan.data.arrays.npy_pictures import open_npy
from fastdcgan.execution.allocator import keep_freed_memory

SHAPES = ((28, 28, 1), (64, 64, 3), (128, 128, 3))
BATCH = 128


def gathered(shape: tuple[int, int, int], *, megabytes: int, turns: int, batches: int) -> dict[str, list[float]]:
    """Microseconds a batch of each turn, by way: `mapped` and `read`."""
    count = megabytes * 10**6 // int(np.prod(shape))
    rng = np.random.default_rng(0)
    taken = [rng.integers(0, count, BATCH).tolist() for _ in range(batches)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.npy"
        np.save(path, rng.integers(0, 256, (count, *shape), np.uint8))
        sources = {
            "mapped": ArraySource(np.load(path, mmap_mode="r"), description="", origin=""),
            "read": ArraySource(open_npy(path, str(path)), description="", origin=""),
        }
        found: dict[str, list[float]] = {way: [] for way in sources}
        for source in sources.values():  # pages are mapped into the process when they are first touched
            for _ in source.read([range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]):
                pass
        for _ in range(turns):
            for way, source in sources.items():
                start = time.thread_time()
                for _ in source.read(taken):
                    pass
                found[way].append((time.thread_time() - start) / batches * 1e6)
    return found


def main(*, megabytes: int = 200, turns: int = 21, batches: int = 200) -> None:
    """Print a line for each shape of pictures."""
    torch.set_num_threads(1)
    keep_freed_memory()
    for shape in SHAPES:
        found = gathered(shape, megabytes=megabytes, turns=turns, batches=batches)
        said = []
        for way, times in found.items():
            low, median, high = np.percentile(times, (25, 50, 75))
            said.append(f"{way} {median:.0f} us ({low:.0f} to {high:.0f})")
        print(f"{'x'.join(map(str, shape)):>10}: {', '.join(said)}")


if __name__ == "__main__":
    main()
