import json
from dataclasses import asdict, replace
from pathlib import Path

from measured import ONE

from fastdcgan.evaluation.records import append_evaluations, forget_later_steps, read_evaluations


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.jsonl"
    assert read_evaluations(file) == ([], 0)
    few = replace(ONE, step=20, frechet=None)
    append_evaluations(file, [ONE])
    append_evaluations(file, [few])
    assert read_evaluations(file) == ([ONE, few], 0)


def test_invalid_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.jsonl"
    append_evaluations(file, [ONE])
    good = asdict(ONE)
    damaged = [
        good | {"kernel": "high"},
        good | {"kernel": 1e300},
        good | {"step": True},
        good | {"step": -1},
        good | {"training": 1},
        good | {"weights": None},
        good | {"unknown": 1},
        {name: value for name, value in good.items() if name != "recall"},
    ]
    with file.open("a") as out:
        out.writelines(json.dumps(line) + "\n" for line in damaged)
        out.write('{"step": NaN}\n\n[1]\n{"step": 1')
    assert read_evaluations(file) == ([ONE], len(damaged) + 3)


def test_steps_that_will_be_repeated_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.jsonl"
    forget_later_steps(file, 10)
    assert not file.exists()
    lines = [replace(ONE, step=step) for step in (10, 20, 30)]
    append_evaluations(file, lines)
    forget_later_steps(file, 20)
    assert read_evaluations(file) == (lines[:2], 0)
