"""Memory that was freed is used again instead of being mapped anew. In processes of their own: it is for life."""

import subprocess
import sys

import pytest

COUNT_PAGE_FAULTS = """
import resource, torch
from fastdcgan.execution.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
assert kept == {keep}
for _ in range(10):  # small tensors settle in the gaps at first
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
    once = page_faults(keep=False)
    assert once >= 5 * 32, "huge pages at the least"
    assert page_faults(keep=True) <= once / 4
