"""The exact rung of the parity tests against copies of the package: `red_or_green.py FOLDER ...`.

Prints pytest's exit code for each; what it said is in FOLDER/said.txt. Each copy is tested by a process of its own,
forked from this one, which has imported PyTorch once but nothing of the package.
"""

import os
import sys
from pathlib import Path

import accelerate  # noqa: F401
import hypothesis  # noqa: F401
import pytest
import torch
import torch._dynamo

EXACT = (
    *("tests/parity/test_parity.py", "tests/parity/test_stabilisers.py", "tests/parity/test_classes.py"),
    *("-k", "(dcgan28 and (begin or bit_for_bit) and not full) or stabilised or (begin and classes)"),
)


def tested(folder: Path) -> int:
    """Start a process. Returns its id."""
    if child := os.fork():
        return child
    code = 70
    try:
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT, 0o600)
        for number in (1, 2):
            os.dup2(said, number)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        torch.set_num_threads(1)
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *EXACT]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def main(folders: list[Path]) -> None:
    """As many at once as there are cores."""
    waiting, running, codes = list(folders), dict[int, Path](), dict[Path, int]()
    assert not [name for name in sys.modules if name.partition(".")[0] == "fastdcgan"]
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            folder = waiting.pop(0)
            running[tested(folder)] = folder
        child, status = os.wait()
        codes[running.pop(child)] = os.waitstatus_to_exitcode(status)
    print(*(codes[folder] for folder in folders))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
