"""Which questions are asked, in the order in which a report answers them; `suite` in a result's extra_info."""

from collections.abc import Iterable
from typing import Any

SUITES = {
    "headline": "The step, against the reference as its users run it",
    "step": "The step, both in one process",
    "technique": "Each technique added in turn",
    "ranks": "Two ranks of one thread, against one rank of two threads",
    "data": "From a folder of JPEGs to batches, against torchvision's DataLoader",
    "packed": "From packed pictures to batches on one core, against a DataLoader over the same file",
    "packing": "A folder of JPEGs checked and packed, and opened again",
    "order": "A new epoch's order",
    "end to end": "From a folder of JPEGs to updated weights, against the same step on data in memory",
    "telemetry": "Training that is recorded and shown, against the same steps without",
    "host overhead": "An iteration of the trainer's loop whose step does nothing, with and without its pictures",
    "sampling": "Pictures from the generator",
    "start-up": "From the start of the process to the first step done",
}


def in_order(infos: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results, suite by suite. Raises ValueError for one of no suite."""
    return sorted(infos, key=lambda info: list(SUITES).index(info["suite"]))
