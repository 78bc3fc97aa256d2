"""What a worker has found so far, a line of JSON each: whatever ends it, what was found by then is kept."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""`kind` says what it is: "planned" (with `items`), "begun" and "failed" (with `item`), or a result."""


class Journal:
    """A worker's side of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, kind: str, **fields: Any) -> None:
        """Append a record; it is there for the other side at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")

    def plan(self, items: Iterable[str]) -> None:
        """Say what there is to do."""
        self.write("planned", items=list(items))

    def begin(self, item: str) -> None:
        """Say what is done next: if the process ends now, it is the culprit."""
        self.write("begun", item=item, at=time.time())

    def fail(self, item: str, why: str) -> None:
        """Say what could not be done."""
        self.write("failed", item=item, why=why)


def read_journal(path: Path) -> list[Record]:
    """The records of a journal; none if it was never begun. A last line that is cut short is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def under_way(records: Iterable[Record]) -> Record | None:
    """The last item that was begun, unless it has a result or failed since; None if there is none."""
    last: Record | None = None
    for record in records:
        if record["kind"] == "begun":
            last = record
        elif last is not None and record.get("item") == last["item"]:
            last = None
    return last


def finished(records: Iterable[Record]) -> set[str]:
    """The items that have a result or have failed."""
    return {record["item"] for record in records if "item" in record and record["kind"] != "begun"}


def left_out(records: Iterable[Record]) -> list[str]:
    """The items that were planned and have neither a result nor failed."""
    records = list(records)
    done = finished(records)
    planned = (item for record in records if record["kind"] == "planned" for item in record["items"])
    return [item for item in dict.fromkeys(planned) if item not in done]


def one_line(error: BaseException) -> str:
    """An error in a line: its kind, and the first line of what it says."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
