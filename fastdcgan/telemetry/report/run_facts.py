"""What a run's folder says of the run: config.json, end.json, metrics.jsonl and the profile.

All of it may be missing or damaged. What can't be read is added to a list, a line each, and left out.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastdcgan.config import DEFAULT_METRIC, METRICS, MetricName
from fastdcgan.evaluation.records import Evaluation, read_evaluations
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.limits import hardware
from fastdcgan.limits.roofline import Ceilings, device_ceilings
from fastdcgan.runs.classes import CLASS_COUNTS, classes_shown
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.files import read_json
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.metrics import Record, read_metrics_and_count_invalid

CEILING_SECONDS = 0.03
"""How long each kernel is measured for the machine's ceilings."""

MAX_FIGURE = 1e15
"""Larger figures of a run are taken for damage: matplotlib can't draw them."""

MAX_JSON_BYTES = 2**22
MAX_OPERATORS, MAX_OPERATOR_COLUMNS = 10, 8

_GEOMETRY = ("resolution", "channels", "width", "latent_dim")


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The content of config.json and end.json. Values are as found there: of any type."""

    config: Mapping[str, Any]
    conditions: Mapping[str, Any]
    versions: Mapping[str, Any]
    command: str
    arch: Architecture | None
    """Without the classes that were learned."""

    rows: tuple[str, ...]
    """The classes that the rows of sample grids are of; () if none were learned."""

    failed: str
    """Why the run failed; empty if it didn't, or that is unknown."""

    machine: Ceilings | None
    """Of the machine that the run was on; None if unknown."""

    @property
    def best_by(self) -> MetricName:
        """The figure that the run's best checkpoint is told by."""
        found = self.config.get("metric")
        return found if found in METRICS else DEFAULT_METRIC


def read_facts(folder: RunFolder, unread: list[str]) -> RunFacts:
    """Read config.json and end.json. Lines on what can't be read are added to `unread`."""
    record = _read_table(folder.config, unread, required=True)
    end = _read_table(folder.end, unread)
    arch = None
    if record:
        found = _as_table(record.get("architecture"))
        try:
            arch = architecture(found["name"], **{name: found[name] for name in _GEOMETRY})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            unread.append(f"{folder.config.name}: no architecture that we know ({error})")
    conditions = _as_table(record.get("conditions"))
    command = record.get("command")
    return RunFacts(
        rows=_rows_of_grids(record, conditions),
        config=_as_table(record.get("config")),
        conditions=conditions,
        versions=_as_table(record.get("versions")),
        command=shlex.join(map(str, command)) if isinstance(command, list) else "",
        arch=arch,
        failed=str(end.get("failed") or ""),
        machine=_parse_ceilings(end.get("machine")) or _measure_same_machine(conditions),
    )


def _rows_of_grids(record: Mapping[str, Any], conditions: Mapping[str, Any]) -> tuple[str, ...]:
    names, counts = _as_table(record.get("architecture")).get("classes"), conditions.get(CLASS_COUNTS)
    if not isinstance(names, list) or not isinstance(counts, list) or len(names) != len(counts):
        return ()
    known = all(type(count) is int for count in counts)
    return tuple(printable(str(names[number])) for number in classes_shown(counts)) if known else ()


def read_records(folder: RunFolder, unread: list[str]) -> list[Record]:
    """The records of metrics.jsonl by step, the last of each. Lines on what can't be read are added to `unread`."""
    name = folder.metrics.name
    if not folder.metrics.is_file():
        unread.append(f"{name}: no such file")
        return []
    try:
        found, invalid = read_metrics_and_count_invalid(folder.metrics)
    except (OSError, ValueError) as error:
        unread.append(f"{name}: {getattr(error, 'strerror', None) or error}")
        return []
    drawable = [record for record in found if all(abs(value) < MAX_FIGURE for value in vars(record).values())]
    invalid += len(found) - len(drawable)
    if invalid:
        unread.append(f"{name}: {invalid:,} {'line is' if invalid == 1 else 'lines are'} no records")
    if not drawable and not invalid:
        unread.append(f"{name}: it is empty")
    return list({record.step: record for record in sorted(drawable, key=lambda record: record.step)}.values())


def read_quality(folder: RunFolder, unread: list[str]) -> list[Evaluation]:
    """The evaluations of the conditions that most are of, by step, the last of each; none where there is no file.

    Lines on what can't be read are added to `unread`.
    """
    name = folder.evaluations.name
    try:
        found, invalid = read_evaluations(folder.evaluations)
    except (OSError, ValueError) as error:
        unread.append(f"{name}: {getattr(error, 'strerror', None) or error}")
        return []
    if invalid:
        unread.append(f"{name}: {invalid:,} {'line is' if invalid == 1 else 'lines are'} no evaluations")
    by_conditions: dict[tuple[object, ...], dict[int, Evaluation]] = {}
    for one in sorted(found, key=lambda one: one.step):
        by_conditions.setdefault(one.conditions, {})[one.step] = one
    return list(max(by_conditions.values(), key=len).values()) if by_conditions else []


def read_profile(folder: RunFolder) -> tuple[str, list[dict[str, Any]]] | None:
    """The sentence and the costliest operators of profile/summary.json; None where there is neither."""
    found = _read_table(folder.profile / "summary.json", [])
    listed, sentence = found.get("operators"), _as_table(found.get("verdict")).get("sentence")
    rows = [row for row in listed[:MAX_OPERATORS] if isinstance(row, dict)] if isinstance(listed, list) else []
    if not rows and not isinstance(sentence, str):
        return None
    return sentence if isinstance(sentence, str) else "", rows


def _read_table(path: Path, unread: list[str], *, required: bool = False) -> Mapping[str, Any]:
    """The JSON object in a file; an empty one, and a line in `unread`, where there is none."""
    if not path.is_file():
        if required or path.exists():
            unread.append(f"{path.name}: no such file")
        return {}
    try:
        found = read_json(path, MAX_JSON_BYTES)
    except (OSError, ValueError) as error:
        unread.append(f"{path.name}: not to be read ({error})")
        return {}
    if not isinstance(found, dict):
        unread.append(f"{path.name}: not a table")
        return {}
    return found


def _as_table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _parse_ceilings(value: object) -> Ceilings | None:
    table = _as_table(value)
    flops = {str(name): rate for name, rate in _as_table(table.get("flops")).items() if _is_rate(rate)}
    if not flops or not _is_rate(table.get("bytes")):
        return None
    return Ceilings(name=str(table.get("name")), flops=flops, bytes=table["bytes"])


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < MAX_FIGURE * MAX_FIGURE


def _measure_same_machine(conditions: Mapping[str, Any]) -> Ceilings | None:
    """This machine's ceilings, if the run was one process on the CPU of a machine like this one; else None."""
    if conditions.get("processes") != 1 or conditions.get("device") != "cpu":
        return None
    here = torch.device("cpu")
    # This process may use another number of threads than the run did.
    same = {**hardware.describe_hardware(here), "threads": conditions.get("threads")}
    return device_ceilings(here, CEILING_SECONDS) if conditions.get("hardware") == same else None
