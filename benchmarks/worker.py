"""One contender in a process of its own: `python -m benchmarks.worker {reference,ours} ARCH BATCH [PLAN]`.

It takes its first step at once, and then answers each line on its standard input with a line of JSON on its standard
output: `step 5` takes five steps and answers how long they took, `memory` answers what the process needed at its
height. It ends with its input. While it waits it is blocked in a read, so it leaves the machine to the other.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import InProcess
from fastdcgan.execution.plan import Plan


def serve(
    requests: Iterable[str], answer: Callable[[str], object], steps: InProcess, memory: Callable[[], float]
) -> None:
    """Answer every request, one line each.

    Args:
        requests: lines.
        answer: called with each answer.
        steps: what is timed.
        memory: MiB that were needed so far.

    Raises:
        ValueError: for a request that is none.
    """
    answer(json.dumps({"warm_up_seconds": steps.time(1)}))
    for line in requests:
        match line.split():
            case ["step", count] if count.isdecimal():
                answer(json.dumps({"seconds": steps.time(int(count))}))
            case ["memory"]:
                answer(json.dumps({"peak_memory_mib": memory()}))
            case _:
                raise ValueError(f"not a request: {line!r}")


def command(implementation: str, arch: str, batch: int, plan: Plan | None = None) -> list[str]:
    """The command line of a worker."""
    words = [sys.executable, "-m", "benchmarks.worker", implementation, arch, str(batch)]
    return words if plan is None else [*words, json.dumps(asdict(plan))]


def peak_memory_mib() -> float:
    """The most main memory that this process has had, or on a GPU the most that PyTorch had of the GPU's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def main(implementation: str, arch_name: str, batch: str, plan: str = "{}") -> None:
    """Build the contender and serve."""
    from benchmarks.conditions import device
    from benchmarks.contenders import finisher, our_step, reference_step
    from fastdcgan.gan.architecture import architecture

    # Answers go where standard output led to; whatever libraries print must not come between them.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        arch, where = architecture(arch_name), device()
        step = (
            reference_step(arch, int(batch), where)
            if implementation == "reference"
            else our_step(arch, int(batch), Plan(**json.loads(plan)), where)
        )
        serve(
            sys.stdin,
            lambda line: answers.write(line + "\n"),
            InProcess(step, finisher(where), time.perf_counter),
            peak_memory_mib,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
