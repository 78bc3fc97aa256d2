"""Processes forked from one that has imported everything: that saves seconds a process."""

import multiprocessing
import os
import socket
import sys
from functools import cache
from multiprocessing.process import BaseProcess
from typing import Any

import pytest


@cache
def _context() -> Any:
    """Python has one such server a process, which imports what it is told to before it starts: all tests share it.

    Before Python 3.13 it looks for modules where a new interpreter would, not where this one does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.imported"])
    from multiprocessing import forkserver  # which isn't there on Windows

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    return context


def start_server() -> None:
    """For what starts processes by the name "forkserver" itself."""
    _context()


def process(target: Any, *arguments: object) -> BaseProcess:
    """Not started yet."""
    made: BaseProcess = _context().Process(target=target, args=arguments)
    return made


def environments(ranks: int) -> list[dict[str, str]]:
    """What a launcher tells each of so many processes on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    everywhere = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    everywhere["OMP_NUM_THREADS"] = 1  # or Accelerate says that it sets it
    return [
        {name: str(value) for name, value in {**everywhere, "RANK": rank, "LOCAL_RANK": rank}.items()}
        for rank in range(ranks)
    ]
