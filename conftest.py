"""Shared by tests and benchmarks: `--all`, and tests on all cores."""

import os

import pytest

MOST_WORKERS = 4
"""Processes that test at once: each imports PyTorch, DALI and more."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all` takes the long ones too."""
    parser.addoption("--all", action="store_true", help="the long tests (or benchmarks) too, not only the quick ones")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite takes all cores; what is named on the command line runs in this process."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if not whole or hasattr(config, "workerinput") or not hasattr(options, "numprocesses"):
        return
    if options.numprocesses is None and not options.usepdb and not options.collectonly:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options.numprocesses = min(cores, MOST_WORKERS)
        # Fixtures of a file are made once. Files go out in the order of collection: long ones first.
        options.dist, options.loadscopereorder = "loadfile", False
        # Threads of several processes on one core wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // options.numprocesses)))
