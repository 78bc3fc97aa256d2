"""What a benchmark says of a case, beside pytest-benchmark's own figures: the `extra_info` that reports are made of."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.conditions import conditions
from benchmarks.measure import Measured
from benchmarks.suites import SUITES


def throughput(
    measured: Measured,
    *,
    suite: str,
    case: str,
    images: int,
    ceiling: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The extra_info of contenders "reference" and "ours" that were measured in turns.

    Args:
        measured: seconds a step.
        suite: one of SUITES.
        case: what was measured, in a few words; names the row and the bar in reports.
        images: pictures in a step.
        ceiling: the images per second that the machine allows; None where nobody knows.
        more: what else there is to say. Values of None are left out.
    """
    assert suite in SUITES, suite
    times = measured.against("reference")
    images_per_sec = images / times.our_seconds
    return {
        "suite": suite,
        "case": case,
        "images_per_sec": round(images_per_sec, 1),
        "images_per_sec_quartiles": [round(images / seconds, 1) for seconds in reversed(quartiles(times.ours))],
        "reference_images_per_sec": round(images / times.reference_seconds, 1),
        "reference_images_per_sec_quartiles": [
            round(images / seconds, 1) for seconds in reversed(quartiles(times.reference))
        ],
        "speedup": round(times.speedup, 3),
        "speedup_quartiles": [round(quartile, 3) for quartile in times.speedup_quartiles],
        "pairs": len(times.ours),
        "steps_per_turn": measured.steps_per_turn,
        "warm_up_seconds": round(measured.warm_up_seconds["ours"], 3),
        "reference_warm_up_seconds": round(measured.warm_up_seconds["reference"], 3),
        **said(
            {
                "ceiling_images_per_sec": ceiling and round(ceiling, 1),
                "ceiling_fraction": ceiling and round(images_per_sec / ceiling, 3),
                **more,
            }
        ),
        "conditions": conditions(),
    }


def duration(measured: Measured, *, less: str, suite: str, case: str, **more: Any) -> dict[str, Any]:
    """The extra_info where what counts is not throughput but seconds: "ours" less what another contender takes.

    Args:
        measured: seconds a step.
        less: the contender that is subtracted, turn by turn.
        suite: one of SUITES.
        case: what was measured, in a few words.
        more: what else there is to say.
    """
    assert suite in SUITES, suite
    times = measured.against(less)
    rest = [ours - other for other, ours in zip(times.reference, times.ours, strict=True)]
    return {
        "suite": suite,
        "case": case,
        "seconds": round(statistics.median(rest), 3),
        "seconds_quartiles": [round(quartile, 3) for quartile in quartiles(rest)],
        "seconds_in_all": round(times.our_seconds, 3),
        "seconds_subtracted": round(times.reference_seconds, 3),
        "pairs": len(rest),
        "warm_up_seconds": round(measured.warm_up_seconds["ours"], 3),
        **said(more),
        "conditions": conditions(),
    }


def overhead(measured: Measured, *, in_all: str, suite: str, case: str, iterations: int, **more: Any) -> dict[str, Any]:
    """The extra_info where a step is many short iterations: microseconds of one, by "ours" and by all that there is.

    Args:
        measured: seconds a step.
        in_all: the contender that does what "ours" does and more.
        suite: one of SUITES.
        case: what was measured, in a few words.
        iterations: of a step.
        more: what else there is to say.
    """
    assert suite in SUITES, suite
    ours, whole = ([1e6 * turn / iterations for turn in measured.seconds[name]] for name in ("ours", in_all))
    return {
        "suite": suite,
        "case": case,
        "microseconds": round(statistics.median(ours), 1),
        "microseconds_quartiles": [round(quartile, 1) for quartile in quartiles(ours)],
        "microseconds_in_all": round(statistics.median(whole), 1),
        "microseconds_in_all_quartiles": [round(quartile, 1) for quartile in quartiles(whole)],
        "pairs": len(ours),
        **said(more),
        "conditions": conditions(),
    }


def cost(
    *, suite: str, case: str, seconds: Sequence[float], peak_memory_mib: float | None, **more: Any
) -> dict[str, Any]:
    """The extra_info of what is done once in a while, and compared with nothing.

    Args:
        suite: one of SUITES.
        case: what was measured, in a few words.
        seconds: what it took, each time.
        peak_memory_mib: that it needed beyond what was in use before; None where nobody knows.
        more: what else there is to say. Values of None are left out.
    """
    assert suite in SUITES, suite
    return {
        "suite": suite,
        "case": case,
        "seconds": round(statistics.median(seconds), 4),
        "seconds_quartiles": [round(quartile, 4) for quartile in quartiles(seconds)],
        "times": len(seconds),
        **said({"peak_memory_mib": peak_memory_mib and round(peak_memory_mib, 1), **more}),
        "conditions": conditions(),
    }


def several(infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The extra_info of a case that has more than one result, see `results_in`."""
    return {"results": list(infos)}


def results_in(extra_info: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of a case: none if it failed."""
    results: list[dict[str, Any]] = extra_info.get("results", [extra_info] if extra_info else [])
    return results


def said(values: dict[str, Any]) -> dict[str, Any]:
    """Without those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Between these lies the middle half."""
    if len(values) == 1:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper
