"""Programs that came with packages, and what they say of the project's files."""

import subprocess
import sysconfig
from pathlib import Path

import pytest


def tool(name: str) -> str:
    """A program that came with a package."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return str(path)


def checked(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
