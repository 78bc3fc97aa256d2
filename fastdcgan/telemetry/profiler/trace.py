"""What PyTorch's profiler recorded, read from its own Chrome trace: operators, ranges, kernels of a device, memory.

Operators lie within each other. An operator whose arithmetic is known (a convolution, a product) counts whole, with all
that it is made of, so that backends don't matter; any other counts for what it does itself, not for what it calls.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastdcgan.gan.ranges import ALL_RANGES, ALL_REDUCE, DATA_WAIT, OUTSIDE_STEP
from fastdcgan.telemetry.profiler.operators import Call, bytes_moved, flops

Event = dict[str, Any]

STEP = "ProfilerStep#"
"""What PyTorch calls a step of the window."""

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_BEYOND_THE_PLUGIN = ("cuda_runtime", "cuda_driver")
_COMMUNICATION = ("gloo:", "nccl:")
_WAIT_OF_THE_PLUGIN = f"enumerate(DataLoader)#{DATA_WAIT}.__next__"


@dataclass(kw_only=True)
class Row:
    """All calls of one operator within the window."""

    name: str
    calls: int = 0
    seconds: float = 0.0
    """On the device where there is one, else on the CPU."""

    flops: float = 0.0
    bytes: float = 0.0
    """Zero where no formula is known."""

    precision: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class MemoryPoint:
    """How much was held after an allocation or a release."""

    seconds: float
    """Since the window began."""

    bytes: int


@dataclass(frozen=True, kw_only=True)
class Range:
    """One stretch of the time line that carries a name."""

    name: str
    start: float
    """Seconds since the window began."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Window:
    """The recorded steps."""

    steps: int
    seconds: float
    """In the steps, without samples and checkpoints that may have come between them."""

    length: float
    """Seconds from the first step's beginning to the last one's end."""

    rows: Sequence[Row]
    """Costliest first, one for each precision in which an operator multiplies."""

    ranges: Sequence[Range]
    """Ours, and what PyTorch calls gradients that cross between processes."""

    memory: Sequence[MemoryPoint]
    device: str
    """ "cpu", or "gpu" where kernels of one were recorded."""

    device_busy: float | None
    """Seconds in which the device had something to do; None for a CPU."""


def read(trace: Event, whole_steps: int | None = None) -> Window:
    """Make sense of a Chrome trace.

    Args:
        trace: as PyTorch wrote it.
        whole_steps: how many steps came to their end, as a run may end within one. Default: all.

    Raises:
        ValueError: there is no whole step in it.
    """
    events: list[Event] = trace["traceEvents"]
    found = [e for e in events if _is_a(e, "user_annotation") and e["name"].startswith(STEP)]
    steps = sorted(found, key=lambda e: float(e["ts"]))[:whole_steps]
    if not steps:
        raise ValueError("no step was recorded")
    begin, end = steps[0]["ts"], steps[-1]["ts"] + steps[-1]["dur"]
    if len(steps) == len(found):  # a device finishes after the host has named its last kernel
        end = max([end, *(e["ts"] + e["dur"] for e in events if e.get("cat") in _ON_DEVICE)])
    events = [e for e in events if begin <= float(e.get("ts", -1)) < end]
    upkeep = [
        (e["ts"], e["ts"] + e["dur"]) for e in events if _is_a(e, "user_annotation") and e["name"] in OUTSIDE_STEP
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
        device_busy=_covered(kernels) if kernels else None,
    )


def for_tensorboard(trace: Event) -> Event:
    """The trace as torch-tb-profiler 0.4.3 understands it. It is no longer maintained, and its categories are older.

    Calls of the driver become `Runtime`, without which it takes all kernels for nobody's. Our ranges become operators,
    for it leaves out what a user named. Waiting for data is there a second time, by the name that the plugin looks for:
    else its overview counts the wait as computing.
    """
    return {**trace, "traceEvents": [copy for event in trace["traceEvents"] for copy in _renamed(event)]}


def phases(window: Window) -> dict[str, float]:
    """Seconds by name, in the order of a step, without upkeep. Collectives by PyTorch's names count as `all-reduce`."""
    spent: dict[str, float] = defaultdict(float)
    for found in window.ranges:
        spent[found.name] += found.seconds
    return {name: spent[name] for name in ALL_RANGES if name in spent and name not in OUTSIDE_STEP}


def _renamed(event: Event) -> Iterable[Event]:
    if event.get("cat") in _BEYOND_THE_PLUGIN:
        yield {**event, "cat": "Runtime"}
    elif event.get("cat") == "user_annotation" and event["name"] in ALL_RANGES:
        if event["name"] == DATA_WAIT:
            # before the range of the same length, which so lies within: the range keeps its own time
            yield {**event, "cat": "cpu_op", "name": _WAIT_OF_THE_PLUGIN}
        yield {**event, "cat": "cpu_op"}
    else:
        yield event


def _is_a(event: Event, *categories: str) -> bool:
    return event.get("cat") in categories and event.get("ph") == "X"


@dataclass(kw_only=True)
class _Open:
    """An operator or range whose end has not come yet."""

    event: Event
    end: float
    own: float
    counted_in: Event | None
    """The operator that this one's time belongs to; None for ranges."""

    whole: bool
    """What lies within counts towards it."""


def _rows(events: Sequence[Event], kernels: Sequence[Event]) -> list[Row]:
    rows: dict[tuple[str, str], Row] = {}
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
            row = rows.setdefault((kernel["name"], ""), Row(name=kernel["name"]))
        row.seconds += kernel["dur"] / 1e6
        row.calls += launched_by is None
    return sorted((row for row in rows.values() if row.seconds), key=lambda row: -row.seconds)


def _key(event: Event) -> tuple[str, str]:
    call = Call.of(event)
    return call.name, call.precision if flops(call) is not None else ""


def _count(rows: dict[tuple[str, str], Row], event: Event, seconds: float) -> None:
    key, call = _key(event), Call.of(event)
    row = rows.setdefault(key, Row(name=call.name, precision=key[1] or "fp32"))
    row.calls += 1
    row.seconds += seconds
    row.flops += flops(call) or 0.0
    row.bytes += bytes_moved(call) or 0.0


def _timelines(events: Sequence[Event]) -> Iterable[list[Event]]:
    """What each thread did, outer before inner."""
    by_thread: dict[tuple[Any, Any], list[Event]] = defaultdict(list)
    for event in events:
        if _is_a(event, "cpu_op", "user_annotation"):
            by_thread[event["pid"], event["tid"]].append(event)
    for timeline in by_thread.values():
        yield sorted(timeline, key=lambda event: (event["ts"], -event["dur"]))


def _nested(timeline: Sequence[Event]) -> Iterable[_Open]:
    """Each operator and range of a thread once its own time is known."""
    stack: list[_Open] = []
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
        whole = (parent is not None and parent.whole) or (counted_in is event and flops(Call.of(event)) is not None)
        stack.append(
            _Open(event=event, end=event["ts"] + event["dur"], own=event["dur"], counted_in=counted_in, whole=whole)
        )
    while stack:
        yield stack.pop()


def _ranges(events: Sequence[Event], begin: float) -> list[Range]:
    found = []
    for event in events:
        if not _is_a(event, "user_annotation", "cpu_op"):
            continue
        name = ALL_REDUCE if event["name"].startswith(_COMMUNICATION) else event["name"]
        if name in ALL_RANGES:
            found.append(Range(name=name, start=(event["ts"] - begin) / 1e6, seconds=event["dur"] / 1e6))
    return sorted(found, key=lambda found: found.start)


def _memory(events: Sequence[Event], begin: float, *, on_device: bool) -> list[MemoryPoint]:
    kind = 1 if on_device else 0
    return [
        MemoryPoint(seconds=(event["ts"] - begin) / 1e6, bytes=event["args"]["Total Allocated"])
        for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: float(e["ts"]))
        if event["args"].get("Device Type") == kind
    ]


def _covered(events: Sequence[Event]) -> float:
    """Seconds in which at least one of these was going on."""
    covered, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: float(event["ts"])):
        end = event["ts"] + event["dur"]
        covered += max(0.0, end - max(until, event["ts"]))
        until = max(until, end)
    return covered / 1e6


def parse(text: str) -> Event:
    """A trace as JSON. PyTorch has been seen to write control characters from names of kernels."""
    trace: Event = json.loads(text, strict=False)
    return trace


def write(trace: Event) -> str:
    """The inverse of `parse`."""
    return json.dumps(trace, separators=(",", ":"))
