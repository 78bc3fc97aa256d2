"""Which training pictures samples are nearest to, whether that makes copies of them, and where it is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import finished_run

from fastdcgan.data.array import ArraySource
from fastdcgan.data.stream import normalise
from fastdcgan.telemetry.report import nearest
from fastdcgan.telemetry.report.html import write_report
from fastdcgan.telemetry.report.nearest import find_nearest, read_nearest, write_nearest

RNG = np.random.default_rng(0)
TRAINING = RNG.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)


def source(pictures: np.ndarray = TRAINING) -> ArraySource:
    return ArraySource(pictures, description="", origin="", fingerprint="")


def samples(pictures: np.ndarray) -> torch.Tensor:
    return normalise(torch.from_numpy(pictures.copy()))


def test_a_copy_is_found_and_shown_below_its_sample() -> None:
    noisy = (TRAINING[[150, 3, 77]].astype(int) + RNG.integers(-9, 10, (3, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    others = RNG.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    found, shown_BCHW = find_nearest(samples(np.concatenate([others, noisy])), source(), 9, mirrored=False)
    assert (found.step, found.samples, found.copies, found.pictures) == (9, 10, 3, 200)
    assert len(shown_BCHW) == 16, "eight pairs"
    pairs = {tuple(found.reshape(-1)[:4].tolist()) for found in shown_BCHW[8:11]}
    assert pairs == {tuple(found.reshape(-1)[:4].tolist()) for found in samples(TRAINING[[150, 3, 77]])}
    assert max(found.distances[:3]) < 9 < 60 < found.distances[3] and found.median > 60
    assert list(found.distances) == sorted(found.distances)
    expected = np.sqrt(((noisy[1].astype(float) - TRAINING[3]) ** 2).mean())
    assert min(abs(distance - expected) for distance in found.distances) < 0.05


def test_what_is_like_all_of_them_is_no_copy() -> None:
    """The mean of all pictures is nearer to each than they are to each other, but no more to one than to others."""
    mean = TRAINING.mean(0, keepdims=True).astype(np.uint8)
    assert find_nearest(samples(mean), source(), 1, mirrored=False)[0].copies == 0


def test_mirrored_pictures_count_where_training_mirrors_them() -> None:
    mirrored = samples(TRAINING[5:6, :, ::-1])
    assert find_nearest(mirrored, source(), 1, mirrored=False)[0].copies == 0
    found, shown_BCHW = find_nearest(mirrored, source(), 1, mirrored=True)
    assert found.copies == 1 and found.mirrored
    assert torch.allclose(shown_BCHW[0], shown_BCHW[1], atol=1e-6), "it is shown as it was nearest"


def test_a_picture_that_is_there_twice_hides_no_copy() -> None:
    twice = np.concatenate([TRAINING, TRAINING[:50]])
    found, _ = find_nearest(samples(TRAINING[10:12]), source(twice), 1, mirrored=False)
    assert (found.copies, found.pictures) == (2, 200)


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_sets(count: int) -> None:
    found, shown_BCHW = find_nearest(samples(TRAINING[:4]), source(TRAINING[:count]), 1, mirrored=True)
    assert found.pictures == count and len(shown_BCHW) == 8


def test_large_pictures_and_rectangles_are_reduced() -> None:
    large = RNG.integers(0, 256, (20, 128, 256, 1), dtype=np.uint8)
    found, shown_BCHW = find_nearest(samples(large[:3]), source(large), 1, mirrored=False)
    assert found.copies == 3 and shown_BCHW.shape == (6, 1, 128, 256)


def test_the_report_shows_them_and_warns_of_copies(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    write_nearest(run, samples(TRAINING[:20]), source(), 100, mirrored=True)
    assert write_report(run) == []
    page = run.report.read_text(encoding="utf-8")
    assert "The nearest training pictures" in page and "20 of 20 samples of step 100 are copies." in page
    assert "The generator repeats training pictures" in page and "mirrored where that is nearer" in page
    with Image.open(run.nearest) as picture:
        assert picture.size == (8 * 18 + 2, 2 * 18 + 2)
    write_nearest(run, samples(RNG.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)), source(), 100, mirrored=False)
    write_report(run)
    page = run.report.read_text(encoding="utf-8")
    assert "0 of 20 samples of step 100 are copies." in page and "repeats training pictures" not in page


def test_large_sets_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "MAX_PICTURES", 199)
    run = finished_run(tmp_path / "run")
    write_nearest(run, samples(TRAINING[:2]), source(), 100, mirrored=False)
    assert not run.nearest.exists() and read_nearest(run) is None
    assert write_report(run) == [] and "nearest training" not in run.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("median"),
        lambda record: record.update(distances=7),
        lambda record: record.update(distances=["<script>"]),
        lambda record: record.update(copies="<b>"),
        lambda record: record.update(median="<b>"),
        lambda record: record.update(more=1),
    ],
)
def test_a_damaged_record_is_said_and_not_shown(change: object, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    write_nearest(run, samples(TRAINING[:2]), source(), 100, mirrored=False)
    record = json.loads(run.nearest_record.read_text())
    change(record)  # type: ignore[operator]
    run.nearest_record.write_text(json.dumps(record))
    assert write_report(run) == ["nearest.json: no record of nearest pictures"]
    run.nearest_record.write_text("[")
    assert len(write_report(run)) == 1
