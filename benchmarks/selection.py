"""Which cases a run measures, and in what order.

A case is a test marked `case(suite, weight)`; one marked `extra` too is left to `--all`, unless it is named.
"""

from dataclasses import dataclass

import pytest

from benchmarks.suites import SUITES

MARKERS = (
    "case(suite, weight=1): a benchmark, its suite and its part of the time",
    "extra: a benchmark that is left to --all",
)


@dataclass(frozen=True)
class Planned:
    """A case that is to be measured."""

    suite: str
    name: str
    weight: float
    """Its part of the time, compared with the others."""


def planned(item: pytest.Item) -> Planned | None:
    """What a test's markers say; None if it is no case."""
    marker = item.get_closest_marker("case")
    if marker is None:
        return None
    suite = marker.args[0]
    assert suite in SUITES, suite
    parameters = item.callspec.id.replace("-", ", ") if hasattr(item, "callspec") else item.name
    return Planned(suite=suite, name=f"{suite}: {parameters}", weight=marker.kwargs.get("weight", 1.0))


def split(config: pytest.Config, items: list[pytest.Item], everything: bool) -> tuple[list[pytest.Item], ...]:
    """Whatever is no case and then the cases, suite by suite, headline first; and the cases that are left out."""
    cases = {item: case for item in items if (case := planned(item))}
    order = list(SUITES)
    in_order = sorted(cases, key=lambda item: order.index(cases[item].suite))
    everything = everything or are_named(config)
    left_out = [item for item in in_order if item.get_closest_marker("extra") and not everything]
    others = [item for item in items if item not in cases]
    return others + [item for item in in_order if item not in left_out], left_out


def are_named(config: pytest.Config) -> bool:
    """Whether the command line names files, tests, keywords or markers: then all of those are wanted."""
    files = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return bool(config.option.keyword or config.option.markexpr) or any(file.is_file() for file in files)
