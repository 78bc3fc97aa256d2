"""How the threads that share a layer's arithmetic wait for one another."""

import os


def load_torch_to_sleep_while_waiting() -> None:
    """Import PyTorch, whose threads then leave their core to others while they wait for work.

    By default OpenMP's threads ask in a loop for milliseconds, which answers soonest on a quiet machine. A small
    network makes a picture in less: two threads beside busy programs, or beside our own that encode PNGs, took three
    times the processor time of one (docs/runs.md). OpenMP reads `OMP_WAIT_POLICY` once, when it is loaded; a user's own
    counts.
    """
    ours = "OMP_WAIT_POLICY" not in os.environ
    if ours:
        os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        import torch  # noqa: F401
    finally:
        if ours:
            del os.environ["OMP_WAIT_POLICY"]
