"""Shared by tests and benchmarks: one switch for everything."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all`: also what is left out by default because it takes long."""
    parser.addoption("--all", action="store_true", help="run everything, also what takes long")
