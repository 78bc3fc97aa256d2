"""The proof's parts, one after the other, each with a share of the time: whatever happens to one, the next begins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.budget import Budget, Case
from benchmarks.gpu.journal import Record, one_line
from benchmarks.gpu.matrix import Axes, axes_of

Status = Literal["done", "failed", "left out"]


@dataclass(kw_only=True)
class Found:
    """What a part has found, and what is wrong; kept whatever ends it."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Any of these makes the command end with 1."""

    notes: list[str] = field(default_factory=list)
    """What is missing here, or was left out for lack of time."""


@dataclass(kw_only=True)
class Session:
    """What all parts share."""

    device: torch.device
    folder: Path
    """Of the results."""

    work: Path
    """A folder for what is not kept."""

    parts: dict[str, Found] = field(default_factory=dict)
    """By name: the parts so far."""

    @property
    def axes(self) -> Axes:
        """Of what is measured."""
        return axes_of(self.device)

    def records(self, part: str, kind: str) -> list[Record]:
        """Of a part so far; none if it has found none."""
        found = self.parts.get(part)
        return [record for record in found.records if record["kind"] == kind] if found else []


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the proof."""

    name: str
    title: str
    weight: float
    """Its share of the time, compared with the others'."""

    run: Callable[[Session, Case, Found], None]
    """Fills what is found."""


def run_parts(
    parts: Sequence[Part], session: Session, budget: Budget, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run all parts in order. Each one's name, title, status, seconds, problems, notes and records, ready for JSON.

    Ctrl-C ends the part that is under way, and all that come after it.
    """
    reports: list[dict[str, Any]] = []
    interrupted = False
    for number, part in enumerate(parts):
        found = session.parts[part.name] = Found()
        begun = budget.passed
        status: Status = "left out"
        if interrupted or budget.is_short(part.weight):
            found.problems.append("interrupted" if interrupted else f"left out: {budget.left:.0f} s were left for it")
        else:
            case = budget.next_case(part.weight, sum(each.weight for each in parts[number + 1 :]), say)
            say(f"{part.title} (until {case.end - budget.begun:.0f} s)")
            try:
                part.run(session, case, found)
            except KeyboardInterrupt:
                interrupted = True
                found.problems.append("interrupted")
            except Exception as error:  # noqa: BLE001 (the next part goes on)
                found.problems.append(one_line(error))
            status = "failed" if found.problems else "done"
        for problem in found.problems:
            say(f"  FAILED: {problem}")
        reports.append(
            {
                "name": part.name,
                "title": part.title,
                "status": status,
                "seconds": round(budget.passed - begun, 1),
                "problems": found.problems,
                "notes": found.notes,
                "records": found.records,
            }
        )
    return reports
