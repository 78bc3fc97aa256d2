"""Reads the Chrome trace of PyTorch's profiler: operators, named ranges, kernels of a device, memory.

Operators are nested. One whose arithmetic is known (a convolution, a product) counts with all that it calls, so that
results don't depend on the backend; any other counts for its own time without what it calls.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastdcgan.gan.ranges import ALL_RANGES, ALL_REDUCE, DATA_WAIT, OUTSIDE_STEP
from fastdcgan.telemetry.profiler.operators import OperatorCall, bytes_moved, flops

Event = dict[str, Any]

STEP = "ProfilerStep#"
"""PyTorch's name of a step, with the number appended."""

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_RUNTIME_CATEGORIES = ("cuda_runtime", "cuda_driver")
_COMMUNICATION = ("gloo:", "nccl:")
_PLUGIN_DATA_WAIT = f"enumerate(DataLoader)#{DATA_WAIT}.__next__"


@dataclass(kw_only=True)
class OperatorTotal:
    """The total of all calls of an operator in the window."""

    name: str
    calls: int = 0
    seconds: float = 0.0
    """On the device where there is one, else on the CPU."""

    flops: float = 0.0
    bytes: float = 0.0
    """`flops` and `bytes` are 0 where no formula is known."""

    precision: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class MemoryPoint:
    """How much memory was allocated after an allocation or a release."""

    seconds: float
    """Since the window began."""

    bytes: int


@dataclass(frozen=True, kw_only=True)
class NamedRange:
    """A named part of the time line."""

    name: str
    start: float
    """Seconds since the window began."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Window:
    """The recorded steps."""

    steps: int
    seconds: float
    """Of the steps, without samples and checkpoints between them."""

    length: float
    """Seconds from the first step's beginning to the last one's end."""

    rows: Sequence[OperatorTotal]
    """Costliest first; one per operator, and per precision where arithmetic is counted."""

    ranges: Sequence[NamedRange]
    """Our own, and PyTorch's of gradients that are all-reduced."""

    memory: Sequence[MemoryPoint]
    device: str
    """ "cpu", or "gpu" where kernels of one were recorded."""

    device_busy: float | None
    """Seconds in which the device was working; None for a CPU."""


def read(trace: Event, complete_steps: int | None = None) -> Window:
    """Extract a window from a Chrome trace.

    Args:
        trace: as PyTorch wrote it.
        complete_steps: how many steps are complete, as a run may end within one. Default: all.

    Raises:
        ValueError: there is no complete step in it.
    """
    events: list[Event] = trace["traceEvents"]
    found = [e for e in events if _is_complete_event(e, "user_annotation") and e["name"].startswith(STEP)]
    steps = sorted(found, key=lambda e: float(e["ts"]))[:complete_steps]
    if not steps:
        raise ValueError("no step was recorded")
    begin, end = steps[0]["ts"], steps[-1]["ts"] + steps[-1]["dur"]
    if len(steps) == len(found):  # a device finishes after the host has launched its last kernel
        end = max([end, *(e["ts"] + e["dur"] for e in events if e.get("cat") in _ON_DEVICE)])
    events = [e for e in events if begin <= float(e.get("ts", -1)) < end]
    upkeep = [
        (e["ts"], e["ts"] + e["dur"])
        for e in events
        if _is_complete_event(e, "user_annotation") and e["name"] in OUTSIDE_STEP
    ]
    of_steps = [e for e in events if not any(start <= float(e["ts"]) < stop for start, stop in upkeep)]
    kernels = [e for e in of_steps if e.get("cat") in _ON_DEVICE]
    return Window(
        steps=len(steps),
        seconds=(end - begin - sum(stop - start for start, stop in upkeep)) / 1e6,
        length=(end - begin) / 1e6,
        rows=_rows(of_steps, kernels),
        ranges=_ranges(events, begin),
        memory=_memory(events, begin, on_device=bool(kernels)),
        device="gpu" if kernels else "cpu",
        device_busy=_busy_seconds(kernels) if kernels else None,
    )


def for_tensorboard(trace: Event) -> Event:
    """The trace with the older categories that torch-tb-profiler 0.4.3, which is no longer maintained, understands.

    Calls of the driver become `Runtime`, without which kernels are attributed to no operator. Our ranges become
    operators, for user annotations are left out. Waiting for data is added a second time under the name that the plugin
    looks for; else its overview counts the wait as computing.
    """
    return {**trace, "traceEvents": [copy for event in trace["traceEvents"] for copy in _renamed(event)]}


def phases(window: Window) -> dict[str, float]:
    """Seconds by named range, in the order of a step, without upkeep. PyTorch's collectives count as `all-reduce`."""
    spent: dict[str, float] = defaultdict(float)
    for found in window.ranges:
        spent[found.name] += found.seconds
    return {name: spent[name] for name in ALL_RANGES if name in spent and name not in OUTSIDE_STEP}


def _renamed(event: Event) -> Iterable[Event]:
    if event.get("cat") in _RUNTIME_CATEGORIES:
        yield {**event, "cat": "Runtime"}
    elif event.get("cat") == "user_annotation" and event["name"] in ALL_RANGES:
        if event["name"] == DATA_WAIT:
            # before the range of the same length, which is thereby nested within and keeps its own time
            yield {**event, "cat": "cpu_op", "name": _PLUGIN_DATA_WAIT}
        yield {**event, "cat": "cpu_op"}
    else:
        yield event


def _is_complete_event(event: Event, *categories: str) -> bool:
    return event.get("cat") in categories and event.get("ph") == "X"


@dataclass(kw_only=True)
class _OpenEvent:
    """An operator or range of the current nesting."""

    event: Event
    end: float
    own: float
    counted_in: Event | None
    """The operator to which its time is attributed; None for ranges."""

    whole: bool
    """Whether what it calls is attributed to it."""


def _rows(events: Sequence[Event], kernels: Sequence[Event]) -> list[OperatorTotal]:
    rows: dict[tuple[str, str], OperatorTotal] = {}
    owner: dict[int, Event] = {}
    for timeline in _timelines(events):
        for done in _nested(timeline):
            event = done.event
            if done.counted_in is None:
                continue
            owner[event["args"].get("External id", -1)] = done.counted_in
            if done.counted_in is event:
                _count(rows, event, 0.0 if kernels else done.own / 1e6)
    for kernel in kernels:
        launched_by = owner.get(kernel["args"].get("External id", -1))
        if launched_by:
            row = rows[_key(launched_by)]
        else:
            row = rows.setdefault((kernel["name"], ""), OperatorTotal(name=kernel["name"]))
        row.seconds += kernel["dur"] / 1e6
        row.calls += launched_by is None
    return sorted((row for row in rows.values() if row.seconds), key=lambda row: -row.seconds)


def _key(event: Event) -> tuple[str, str]:
    call = OperatorCall.of(event)
    return call.name, call.precision if flops(call) is not None else ""


def _count(rows: dict[tuple[str, str], OperatorTotal], event: Event, seconds: float) -> None:
    key, call = _key(event), OperatorCall.of(event)
    row = rows.setdefault(key, OperatorTotal(name=call.name, precision=key[1] or "fp32"))
    row.calls += 1
    row.seconds += seconds
    row.flops += flops(call) or 0.0
    row.bytes += bytes_moved(call) or 0.0


def _timelines(events: Sequence[Event]) -> Iterable[list[Event]]:
    """The events of each thread by time, outer before inner."""
    by_thread: dict[tuple[Any, Any], list[Event]] = defaultdict(list)
    for event in events:
        if _is_complete_event(event, "cpu_op", "user_annotation"):
            by_thread[event["pid"], event["tid"]].append(event)
    for timeline in by_thread.values():
        yield sorted(timeline, key=lambda event: (event["ts"], -event["dur"]))


def _nested(timeline: Sequence[Event]) -> Iterable[_OpenEvent]:
    """Each operator and range of a thread, with its time without what it calls."""
    stack: list[_OpenEvent] = []
    for event in timeline:
        while stack and stack[-1].end <= event["ts"]:
            yield stack.pop()
        parent = stack[-1] if stack else None
        if parent is not None and parent.whole:
            counted_in: Event | None = parent.counted_in
        else:
            counted_in = event if event["cat"] == "cpu_op" else None
            if parent is not None:
                parent.own -= event["dur"]
        whole = (parent is not None and parent.whole) or (
            counted_in is event and flops(OperatorCall.of(event)) is not None
        )
        stack.append(
            _OpenEvent(
                event=event, end=event["ts"] + event["dur"], own=event["dur"], counted_in=counted_in, whole=whole
            )
        )
    while stack:
        yield stack.pop()


def _ranges(events: Sequence[Event], begin: float) -> list[NamedRange]:
    found = []
    for event in events:
        if not _is_complete_event(event, "user_annotation", "cpu_op"):
            continue
        name = ALL_REDUCE if event["name"].startswith(_COMMUNICATION) else event["name"]
        if name in ALL_RANGES:
            found.append(NamedRange(name=name, start=(event["ts"] - begin) / 1e6, seconds=event["dur"] / 1e6))
    return sorted(found, key=lambda found: found.start)


def _memory(events: Sequence[Event], begin: float, *, on_device: bool) -> list[MemoryPoint]:
    kind = 1 if on_device else 0
    return [
        MemoryPoint(seconds=(event["ts"] - begin) / 1e6, bytes=event["args"]["Total Allocated"])
        for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: float(e["ts"]))
        if event["args"].get("Device Type") == kind
    ]


def _busy_seconds(events: Sequence[Event]) -> float:
    """Seconds in which at least one of these events was active."""
    covered, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: float(event["ts"])):
        end = event["ts"] + event["dur"]
        covered += max(0.0, end - max(until, event["ts"]))
        until = max(until, end)
    return covered / 1e6


def parse(text: str) -> Event:
    """Parse a trace. Not strictly: PyTorch may write control characters in names of kernels."""
    trace: Event = json.loads(text, strict=False)
    return trace


def write(trace: Event) -> str:
    """The inverse of `parse`."""
    return json.dumps(trace, separators=(",", ":"))
