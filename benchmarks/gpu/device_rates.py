"""What the device itself reaches: its best products and its bandwidth, measured before anything else."""

from typing import Any

import torch

from benchmarks.gpu.turns import time_steps
from fastdcgan.limits.roofline import measure_ceilings

SIDE = 8192
"""Of the square matrices: large enough for a GPU's best rate."""

COPIED_BYTES = 2**30

TIMES, REPEATS = 3, 10
"""The best of so many readings, each of so many runs."""


def measured_rates(device: torch.device) -> dict[str, Any]:
    """FLOP/s by precision, fp32 with TF32 where that is on, and B/s of a copy, read and written counted."""
    if device.type == "cpu":
        found = measure_ceilings(seconds=0.3)
        return {"flops": found.flops, "bytes": found.bytes}
    flops = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a, b = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        flops[name] = 2 * SIDE**3 / _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return {"flops": flops, "bytes": 2 * COPIED_BYTES / _best(lambda: target.copy_(source), device)}


def _best(run: Any, device: torch.device) -> float:
    """Seconds of a run, at best."""
    time_steps(run, REPEATS, device)
    return min(time_steps(run, REPEATS, device) for _ in range(TIMES)) / REPEATS
