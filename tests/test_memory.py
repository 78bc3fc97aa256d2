import sys

import pytest
import torch

from fastdcgan.memory import PeakMemory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="known on Linux only")
def test_the_peak_is_what_was_taken_at_the_most_and_only_since_then() -> None:
    before = torch.ones(100 * 2**18)  # 100 MiB
    del before
    peak = PeakMemory(CPU)
    assert peak.mib() is not None, "no permission to write to /proc/self/clear_refs"
    taken = torch.ones(200 * 2**18)
    del taken
    after = torch.ones(50 * 2**18)
    assert peak.mib() == pytest.approx(200, abs=20)
    del after
