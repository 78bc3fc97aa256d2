"""Contenders that take turns on a device: the time of steps by CUDA events, each contender with as many as it needs.

`measure.py` gives all contenders as many steps as the fastest needs; here they differ twentyfold, and one that fails
must not end the others' turns.
"""

import math
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.contenders import finisher
from benchmarks.measure import InProcess

TURN_SECONDS = 0.05
"""Of a turn, about."""

LEAST_WARM_UP = {"cuda": 5, "cpu": 1}
"""Steps after the first, by which CUDA graphs are recorded and replayed."""

LEAST_ROUNDS, MOST_ROUNDS = 3, 15

Step = Callable[[], object]


def time_steps(step: Step, count: int, device: torch.device) -> float:
    """Seconds that steps take together: on a GPU between two events in its own stream, else by the clock."""
    if device.type != "cuda":
        return InProcess(step, finisher(device)).time(count)
    torch.cuda.synchronize(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def host_seconds(step: Step, device: torch.device, times: int = 3) -> float | None:
    """Seconds until a step returns to Python, its work queued on an idle device: the best of a few. None on a CPU."""
    if device.type == "cpu":
        return None
    best = math.inf
    for _ in range(times):
        finisher(device)()
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    finisher(device)()
    return best


def take_turns(
    timers: Mapping[str, Callable[[int], float]],
    estimates: Mapping[str, float],
    seconds: float,
    *,
    on_failure: Callable[[str, Exception], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Rounds in which each contender takes one turn, in this order.

    Args:
        timers: by name: take so many steps, and tell the seconds.
        estimates: seconds of a step.
        seconds: after so long no further round begins, if there are `LEAST_ROUNDS`.
        on_failure: told of a contender that failed, which gets no more turns. What it raises ends all.
        clock: tells seconds.

    Returns:
        seconds of a step, in each turn.
    """
    counts = {name: max(1, round(TURN_SECONDS / estimate)) for name, estimate in estimates.items()}
    taken: dict[str, list[float]] = {name: [] for name in timers}
    active, end = list(timers), clock() + seconds
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and clock() >= end:
            break
        for name in list(active):
            try:
                taken[name].append(timers[name](counts[name]) / counts[name])
            except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
                active.remove(name)
                on_failure(name, error)
    return taken
