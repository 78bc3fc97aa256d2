"""Records: a claim is held to its p-value and its seeds; each that is written down can be tried where its data are."""

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_extractor import ToyNetwork, noise_pictures, toy_extractor

from benchmarks.conditions import ROOT
from benchmarks.experiments import trials
from benchmarks.experiments.trials import Point, append_line, read_lines
from benchmarks.records import attempt as module
from benchmarks.records import ranking
from benchmarks.records.attempt import attempt
from benchmarks.records.command import run
from benchmarks.records.ranking import FILES, PAGE, RECORDS, with_ranking
from benchmarks.records.track import Record, Track
from benchmarks.records.verdict import Pair, Verdict
from fastdcgan.config import RecipeConfig

TRACK = Track(
    name="tiny faces",
    data="faces",
    count=80,
    arch="dcgan16",
    width=4,
    extractor="efficientnet-lite0",
    metric="kernel",
    judged=60,
    reference=Record(name="reference", batch_size=8, steps=3),
)

RECORD = Record(name="ours", recipe=RecipeConfig(lr=4e-4), batch_size=8, steps=2)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trials, "open_extractor", lambda *_: toy_extractor(ToyNetwork(48)))
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def pairs(reference: list[float], record: list[float]) -> list[Pair]:
    same = Point(
        images=40,
        cpu_seconds=1.0,
        seconds=1.0,
        first_step_seconds=0.1,
        frechet=None,
        kernel=0.0,
        precision=0.0,
        recall=0.0,
        loss_d=1.0,
    )
    return [(replace(same, kernel=a), replace(same, kernel=b)) for a, b in zip(reference, record, strict=True)]


BETTER, WORSE = [0.40, 0.42, 0.39, 0.41, 0.40], [0.50, 0.52, 0.49, 0.51, 0.50]


@pytest.mark.parametrize(
    ("reference", "record", "holds"),
    [
        (WORSE, BETTER, True),
        (BETTER, WORSE, False),
        (WORSE, WORSE, False),
        (WORSE, [0.3, 0.6, 0.5, 0.4, 0.6], False),  # better in the mean, by luck
        (WORSE[:4], BETTER[:4], False),  # too few seeds
    ],
)
def test_a_claim_holds_where_it_is_shown(reference: list[float], record: list[float], holds: bool) -> None:
    found = Verdict.of(TRACK, pairs(reference, record))
    assert found.holds == ("the claim holds" in str(found)) == holds


def test_a_fixed_threshold_is_what_counts_where_there_is_one() -> None:
    fixed = replace(TRACK, threshold=0.45)
    assert Verdict.of(fixed, pairs(BETTER, BETTER)).holds
    assert not Verdict.of(fixed, pairs(WORSE, WORSE)).holds


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    return noise_pictures(tmp_path)


def test_an_attempt_from_end_to_end(pictures: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    found = attempt(TRACK, RECORD, log, 2, data=pictures)
    lines = read_lines(log)
    assert [(line["kind"], line["trial"]["seed"]) for line in lines] == [
        *(("reference", 0), ("record", 0)),
        *(("reference", 1), ("record", 1)),
    ]
    assert [line["point"]["images"] for line in lines] == [24, 16, 24, 16]
    assert lines[1]["trial"]["recipe"] == {"lr": 4e-4} and lines[0]["plan"] == "reference"
    assert {line["conditions"]["commit"] is None for line in lines} == {False}
    assert lines[0]["point"]["kernel"] != lines[2]["point"]["kernel"], "another seed is another training"
    assert [[point.kernel for point in pair] for pair in found] == [
        [line["point"]["kernel"] for line in lines[start : start + 2]] for start in (0, 2)
    ]


def test_a_killed_attempt_goes_on_with_the_pair_that_it_was_in(pictures: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    attempt(TRACK, RECORD, log, 2, data=pictures)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:50])  # killed as it wrote what seed 1 of the record has come to
    attempt(TRACK, RECORD, log, 2, data=pictures)
    assert [(line["kind"], line["trial"]["seed"]) for line in read_lines(log)] == [
        *(("reference", 0), ("record", 0), ("reference", 1)),
        *(("reference", 1), ("record", 1)),
    ]
    before = log.read_bytes()
    attempt(TRACK, RECORD, log, 2, data=pictures)
    assert log.read_bytes() == before
    attempt(TRACK, replace(RECORD, steps=3), log, 1, data=pictures)
    assert len(read_lines(log)) == 7, "another record is tried, not read"


def fashion(folder: Path, count: int) -> Path:
    pixels = np.random.default_rng(0).integers(256, size=(count, 28, 28), dtype=np.uint8)
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes())
    return folder


def colours(folder: Path, count: int) -> Path:
    folder.mkdir()
    path = folder / "pictures.npy"
    np.save(path, np.random.default_rng(0).integers(256, size=(count, 32, 32, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize("stem", RECORDS)
def test_what_is_written_down_can_be_tried(stem: str, tmp_path: Path) -> None:
    """With its own recipe, architecture and metric; in small batches, on narrow networks, for three steps."""
    track, record = RECORDS[stem]
    data = (fashion if track.arch == "dcgan28" else colours)(tmp_path / "data", 80)
    tiny = replace(
        track,
        count=80,
        width=4,
        judged=60,
        on_gpu=False,
        reference=replace(track.reference, batch_size=4, steps=3),
    )
    (pair,) = attempt(tiny, replace(record, batch_size=4, steps=3), tmp_path / "log.jsonl", 1, data=str(data))
    assert all(point.images == 3 * 4 * record.recipe.d_steps for point in pair)
    assert all(np.isfinite(getattr(point, track.metric)) for point in pair)


def test_every_file_of_a_record_is_in_the_ranking() -> None:
    files = {path.stem for path in PAGE.parent.glob("*.py") if "RECORD = " in path.read_text()}
    assert files == set(RECORDS) and len(FILES) == len(RECORDS)


@pytest.mark.parametrize(
    ("track", "words"),
    [
        (replace(TRACK, on_gpu=True), "tiny faces needs a GPU, and there is none here"),
        (replace(TRACK, count=81), "80 pictures, where tiny faces has 81"),
        (replace(TRACK, data="nowhere"), "nowhere"),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    track: Track,
    words: str,
    pictures: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = [] if track.data == "nowhere" else ["--data", pictures]
    monkeypatch.setattr(module, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["record", str(tmp_path / "log.jsonl"), *named])
    with pytest.raises(SystemExit, match="2"):
        run("some.py", track, RECORD)
    (said,) = capsys.readouterr().err.splitlines()
    assert words in said and not (tmp_path / "log.jsonl").exists()


def test_one_seed_is_refused(
    pictures: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["record", "--seeds", "1", "--data", pictures])
    with pytest.raises(SystemExit, match="2"):
        run("some.py", TRACK, RECORD)
    assert capsys.readouterr().err == "error: --seeds 1: must be at least 2\n"


def line(
    track: Track, record: Record, kind: str, seed: int, kernel: float, seconds: float, **where: Any
) -> dict[str, Any]:
    point = replace(pairs([kernel], [kernel])[0][0], seconds=seconds)
    of = track.reference if kind == "reference" else record
    conditions = {"cpu": "EPYC", "gpu": None, "cores": 2, "commit": "abc", "versions": {"torch": "2.14.1"}, **where}
    return {
        "kind": kind,
        "trial": trials.as_table(module.trial_of(track, of, seed)),
        "point": vars(point),
        "extractor": "e",
        "real": "r",
        "conditions": conditions,
    }


def test_records_are_ranked_by_their_seconds_and_what_is_not_shown_has_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {name: (TRACK, replace(RECORD, name=name)) for name in ("slow", "quick", "lucky", "idle")}
    monkeypatch.setattr(ranking, "RECORDS", records)
    for name, kernels, seconds in (("slow", BETTER, 9.0), ("quick", BETTER, 5.0), ("lucky", WORSE, 1.0)):
        for seed, (theirs, ours) in enumerate(zip(WORSE, kernels, strict=True)):
            log = tmp_path / f"{name}.jsonl"
            append_line(log, line(*records[name], "reference", seed, theirs, 20.0))
            append_line(log, line(*records[name], "record", seed, ours, seconds))
    for seed, (theirs, ours) in enumerate(zip(WORSE, BETTER, strict=True)):  # a quicker machine has places of its own
        append_line(log := tmp_path / "slow.jsonl", line(*records["slow"], "reference", seed, theirs, 2.0, cpu="Zen"))
        append_line(log, line(*records["slow"], "record", seed, ours, 1.0, cpu="Zen"))
    for kind, seed in (("reference", 0), ("record", 1), ("reference", 1), ("record", 2)):  # no pair of one seed
        append_line(tmp_path / "quick.jsonl", line(*records["quick"], kind, seed, 0.1, 0.5, cpu="Alder"))
    for kind in ("reference", "record"):  # and a single pair says nothing, nor is it added to another machine's
        append_line(tmp_path / "quick.jsonl", line(*records["quick"], kind, 0, 0.1, 0.5, cpu="Alder"))
    rows = [[cell.strip() for cell in row.split("|")[1:8]] for row in ranking.ranking(tmp_path).splitlines()[2:]]
    assert [row[1:5] for row in rows] == [
        ["1", "`quick.py`", "5.0", "20.0"],
        ["2", "`slow.py`", "9.0", "20.0"],
        ["1", "`slow.py`", "1.0", "2.0"],
        ["not shown", "`lucky.py`", "1.0", "20.0"],
        ["not tried", "`idle.py`", "", ""],
    ]
    assert rows[0][5] == "0.4040, n = 5; 0.5040"


def test_the_page_says_what_the_logs_say() -> None:
    page = PAGE.read_text()
    assert page == with_ranking(page, ranking.ranking()), "python -m benchmarks.records writes it anew"


@pytest.mark.slow(10)
def test_a_file_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.records.cifar10_fid25", str(tmp_path / "log.jsonl")]
    without_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=without_gpu)
    assert done.returncode == 2
    assert done.stderr == "error: CIFAR-10 to FID 25 needs a GPU, and there is none here\n"
