import gc
import subprocess
import sys
import weakref

import pytest

from fastdcgan.limits.memory import collect_cycles_at_exit

MEASURED = """
import torch
from fastdcgan.limits.memory import PeakMemory

before = torch.ones(100 * 2**18)  # 100 MiB
del before
peak = PeakMemory(torch.device("cpu"))
taken = torch.ones(200 * 2**18)
del taken
after = torch.ones(50 * 2**18)
print(peak.mib())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="known on Linux only")
def test_the_peak_counts_from_the_start_of_measuring() -> None:
    """In a process that hands back what it frees: runs within others' tests may have this one keep it for good."""
    said = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True).stdout.strip()
    assert said != "None", "no permission to write to /proc/self/clear_refs"
    assert float(said) == pytest.approx(200, abs=20)


RETURNED = """
import psutil
from fastdcgan.execution.allocator import keep_freed_memory
from fastdcgan.limits.memory import return_free_memory
import torch

def resident():
    return psutil.Process().memory_info().rss / 2**20

keep_freed_memory()
before = resident()
taken = [torch.ones(2**20) for _ in range(50)]  # 200 MiB
held = torch.ones(2**18)  # above them: without being asked the allocator returns only what is at the end
del taken
kept = resident() - before
return_free_memory()
print(kept, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator alone can be told")
def test_freed_memory_is_returned_also_where_it_is_kept_for_training() -> None:
    said = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True).stdout
    kept, left = map(float, said.split())
    assert kept > 190
    assert left < 20


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.ring = self


def test_reference_cycles_are_freed_at_exit() -> None:
    held = Ring()
    with collect_cycles_at_exit():
        lost = weakref.ref(Ring())
        kept = weakref.ref(held)
        # So many objects would make Python look for garbage; what it then finds alive, it looks at seldom.
        others = [[number] for number in range(100_000)]
        assert lost() is not None
    assert lost() is None
    assert kept() is held
    assert len(others) == 100_000


def test_garbage_collection_is_enabled_again_if_it_was() -> None:
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collect_cycles_at_exit():
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    try:
        with collect_cycles_at_exit():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
