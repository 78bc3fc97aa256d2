"""Memory that was freed is used again instead of being mapped and cleared anew. In processes of their own: it is for life."""

import subprocess
import sys

import pytest

COUNT_PAGE_FAULTS = """
import resource, torch
from fastdcgan.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
assert kept == {keep}
for _ in range(2):
    torch.ones(64 * 2**18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(64 * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    """Of making five tensors of 64 MiB, one after the other."""
    code = COUNT_PAGE_FAULTS.format(keep=keep)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator only")
def test_pages_are_faulted_in_once() -> None:
    assert page_faults(keep=True) < 100
    assert page_faults(keep=False) >= 5 * 32, "then there is nothing to gain here"
