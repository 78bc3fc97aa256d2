import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import needs_chromium, page, served
from conftest import Command
from hostile_names import HOSTILE, HOSTILE_NAME, TAKEN
from PIL import Image
from runs import finished_run, picture_sizes, record, write_metrics, write_samples

from fastdcgan.gan.architecture import Size
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.report import end_of_run, html, run_charts
from fastdcgan.telemetry.report.charts import MAX_POINTS, Curve, chart, downsampled
from fastdcgan.telemetry.report.end_of_run import reporting
from fastdcgan.telemetry.report.grids import MAX_GRIDS, MAX_SIDE, diversity
from fastdcgan.telemetry.report.html import write_report
from fastdcgan.telemetry.terminal.display import Display


class Page(HTMLParser):
    """What a browser would make of a report: its elements, its text, and what its text is inside of."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(folder.report.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag in ("style", "script"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += " ".join(data.split()) + "\n"

    def frames(self) -> list[int]:
        return [int(a["data-step"]) for _, a in self.elements if "frame" in a.get("class", "").split()]

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.elements)


@pytest.fixture
def drawn_run(tmp_path: Path) -> RunFolder:
    return finished_run(tmp_path / "run")


@pytest.fixture
def run(drawn_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """The same for tests that are not about curves, which take a while to draw."""
    monkeypatch.setattr(run_charts, "chart", lambda curves, **options: "<svg></svg>")
    return drawn_run


def test_a_report_holds_what_a_run_did(drawn_run: RunFolder) -> None:
    assert write_report(drawn_run) == []
    shown = Page(drawn_run)
    assert "finished: 100 steps" in shown.text
    for title in ("Losses", "What D believes", "Diversity of the samples", "Speed", "Waiting for data"):
        assert f"\n{title}\n" in shown.text
    assert shown.count("svg") == 6
    assert shown.frames() == [0, 50, 100]
    assert "Real, from the training data" in shown.text
    assert "fastdcgan train --images 1600" in shown.text and "batch size" in shown.text and "torch" in shown.text
    assert "No warning signs" in shown.text
    assert "160 of at most" in shown.text, "the ceiling is known, and so is the speed"
    pictures = [a["src"] for tag, a in shown.elements if tag == "img"]
    assert len(pictures) == 4 and all(src.startswith("data:image/webp;base64,") for src in pictures)
    with Image.open(io.BytesIO(base64.b64decode(pictures[2].partition(",")[2]))) as last:
        assert last.size == (8 * 18 + 2, 8 * 18 + 2)
    assert picture_sizes(drawn_run.animation) == (3, (146, 146))


def test_a_page_asks_for_nothing_from_outside(drawn_run: RunFolder) -> None:
    write_report(drawn_run)
    for tag, attributes in Page(drawn_run).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "data", "poster", "action"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), f"<{tag} {name}={value[:60]}>"


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    run = finished_run(
        tmp_path / HOSTILE_NAME,
        data=f"3 pictures in {HOSTILE}",
        device=HOSTILE,
        skipped=1,
        **{HOSTILE: HOSTILE},
    )
    run.skipped.write_text(f"'{HOSTILE}.jpg': empty file\n")
    run.end.write_text(json.dumps({"failed": HOSTILE, "machine": {"name": HOSTILE, "flops": {"fp32": 1}, "bytes": 1}}))
    (run.samples / f"step-0000{HOSTILE_NAME}.png").touch()
    run.profile.mkdir()
    (run.profile / "summary.json").write_text(
        json.dumps({"operators": [{HOSTILE: HOSTILE}], "verdict": {"sentence": HOSTILE}})
    )
    write_report(run)
    shown = Page(run)
    assert shown.count("script") == 1 and shown.count("img") == 4
    assert shown.text.count(printable(HOSTILE)) >= 6, "it is shown as it is, and nothing in it was carried out"
    assert "{{ 7 * 7 }}" in shown.text and printable(HOSTILE_NAME) in shown.text


def test_half_a_surrogate_pair_is_spelt_out(tmp_path: Path) -> None:
    """As JSON can name it, and no file can hold it."""
    write_report(run := finished_run(tmp_path / "run", device="\ud800"))
    assert "\\ud800" in Page(run).text


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"loss_d": 0.01}, "The discriminator has won"),
        ({"data_wait_fraction": 0.4}, "Training waited for pictures"),
    ],
)
def test_warnings_from_the_figures(run: RunFolder, change: dict[str, float], title: str) -> None:
    write_metrics(run, [record(step, **change) for step in range(10, 101, 10)])
    write_report(run)
    assert title in Page(run).text


@pytest.mark.parametrize(("objective", "warned"), [("bce", True), ("rpgan", False)])
def test_what_ds_loss_is_held_to_goes_with_the_objective(run: RunFolder, objective: str, warned: bool) -> None:
    text = run.config.read_text()
    assert text.count('"objective": "bce"') == 1
    run.config.write_text(text.replace('"objective": "bce"', f'"objective": "{objective}"'))
    write_metrics(run, [record(step, loss_d=0.03) for step in range(10, 101, 10)])
    write_report(run)
    assert ("The discriminator has won" in Page(run).text) == warned


def test_the_ceiling_is_lower_where_a_step_is_more_work(run: RunFolder) -> None:
    shares = []
    for objective in ("bce", "rpgan"):
        run.config.write_text(re.sub('"objective": "[a-z]*"', f'"objective": "{objective}"', run.config.read_text()))
        write_report(run)
        shares.append(int(re.search(r"160 of at most ([\d,]+)", Page(run).text)[1].replace(",", "")))  # type: ignore[index]
    assert 0.85 < shares[1] / shares[0] < 0.97


def test_a_discriminator_that_recovered_gives_no_warning(run: RunFolder) -> None:
    write_metrics(run, [record(step, loss_d=0.01 if step < 60 else 0.8) for step in range(10, 101, 10)])
    write_report(run)
    assert "No warning signs" in Page(run).text


@pytest.mark.parametrize(
    ("spreads", "title"),
    [
        ((0.8, 0.3), "The samples became alike"),
        ((0.2, 0.3), "The samples are still alike"),
        ((0.35, 0.25), "The samples are alike"),
        ((0.1, 0.8), "No warning signs"),
    ],
)
def test_warnings_from_the_samples(run: RunFolder, spreads: tuple[float, float], title: str) -> None:
    for step, spread in zip((50, 100), spreads, strict=True):
        write_samples(run, step, spread)
    write_report(run)
    assert title in Page(run).text


def test_skipped_files_are_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", skipped=2000)
    run.skipped.write_text("".join(f"'{number}.jpg': truncated\n" for number in range(2000)))
    write_report(run)
    text = Page(run).text
    assert "2,000 files were skipped" in text and "'0.jpg': truncated" in text and "'1999.jpg'" not in text


def test_diversity_is_that_of_the_pictures() -> None:
    """Two pictures, black and white, stand half of the range from their mean; the empty places of a grid are none."""
    grid = np.zeros((2 * 18 + 2, 2 * 18 + 2, 3), np.uint8)
    grid[2:18, 2:18] = 255
    assert diversity(grid, Size(16, 16)) is None
    grid[2:18, 20:36] = 255
    assert diversity(grid, Size(16, 16)) == 0
    grid[2:18, 2:18] = 1
    assert diversity(grid, Size(16, 16)) == pytest.approx(254 / 2 / 255)
    assert diversity(grid, Size(17, 16)) is None
    assert diversity(grid[:18], Size(16, 16)) is None


def test_diversity_of_pictures_that_are_not_square() -> None:
    grid = np.zeros((2 * 10 + 2, 2 * 26 + 2, 3), np.uint8)
    grid[2:10, 28:52] = 255
    assert diversity(grid, Size(8, 24)) == pytest.approx(1 / 2)
    assert diversity(grid, Size(24, 8)) is None


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such run folder"):
        write_report(RunFolder(tmp_path / "none"))
    with pytest.raises(ValueError, match="is not a run's folder"):
        write_report(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


def without(name: str) -> Callable[[RunFolder], None]:
    def remove(run: RunFolder) -> None:
        path = run.path / name
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()

    return remove


def holding(name: str, body: bytes) -> Callable[[RunFolder], None]:
    def write(run: RunFolder) -> None:
        (run.path / name).write_bytes(body)

    return write


def as_pipe(name: str) -> Callable[[RunFolder], None]:
    def make(run: RunFolder) -> None:
        (run.path / name).unlink()
        os.mkfifo(run.path / name)

    return make


@pytest.mark.parametrize(
    ("harm", "said", "still_shown"),
    [
        (without("metrics.jsonl"), "metrics.jsonl: no such file", "Diversity of the samples"),
        (holding("metrics.jsonl", b""), "metrics.jsonl: it is empty", "Diversity of the samples"),
        (holding("metrics.jsonl", b"\x00\xff\n" * 3), "metrics.jsonl: 3 lines are no records", "Real, from"),
        (without("config.json"), "config.json: no such file", "Losses"),
        (holding("config.json", b"{"), "config.json: not to be read", "Losses"),
        (holding("config.json", b"[" * 100_000), "config.json: not to be read", "Losses"),
        (holding("config.json", b"[]"), "config.json: not a table", "Losses"),
        (
            holding("config.json", b'{"config": 3, "architecture": {"name": 7}, "conditions": {"steps": "x"}}'),
            "config.json: no architecture that we know",
            "Losses",
        ),
        (holding("end.json", b'{"machine": {"flops": {"fp32": "x"}, "bytes": -1}}'), None, "Losses"),
        (holding("end.json", b'{"machine": NaN}'), "end.json: not to be read", "Losses"),
        (holding("end.json", b"\x80"), "end.json: not to be read", "Losses"),
        (without("samples"), "samples: there are none", "Losses"),
        (holding("samples/step-00000050.png", b""), "step-00000050.png: an empty file", "Samples after step 100"),
        (holding("samples/step-00000100.png", b"\x89PNG\r\n\x1a\n"), "step-00000100.png: not a whole PNG", "Losses"),
        (holding("real.png", b"text"), "real.png: not a whole PNG", "Losses"),
        (without("real.png"), "real.png: no such file", "Losses"),
        pytest.param(
            as_pipe("metrics.jsonl"),
            "metrics.jsonl: no such file",
            "Diversity of the samples",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes"),
        ),
    ],
)
def test_a_damaged_folder_still_gives_a_report(
    run: RunFolder, harm: Callable[[RunFolder], None], said: str | None, still_shown: str
) -> None:
    harm(run)
    lines = write_report(run)
    shown = Page(run)
    assert len(lines) == (said is not None)
    if said:
        assert said in lines[0]
        assert lines[0] in shown.text
    alternatives = "".join(a.get("alt", "") + "\n" for _, a in shown.elements)
    assert still_shown in shown.text + alternatives


def test_a_truncated_grid_is_left_out(run: RunFolder) -> None:
    path = run.samples / "step-00000050.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert write_report(run) == ["samples: step-00000050.png: not a whole PNG"]
    assert Page(run).frames() == [0, 100]
    assert picture_sizes(run.animation)[0] == 2


def test_a_decompression_bomb_is_not_decoded(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert len(write_report(run)) == 4
    assert "Losses" in Page(run).text


def test_hostile_lines_among_the_metrics(drawn_run: RunFolder) -> None:
    good = [json.dumps(record(step)) for step in (10, 20)]
    bad = [
        good[0][:40],
        "null",
        '"text"',
        "[" * 100_000,
        good[0].replace("1.0", "NaN"),
        good[0].replace("1.0", "1e999"),
        good[0].replace("1.0", '"<script>"'),
        good[0].replace("1.0", "true"),
        good[0].replace("1.0", "1" + "0" * 400),
        good[0].replace("1.0", "1e300"),
        good[0].replace('"step": 10', '"step": 10.5'),
        good[0].replace("}", ', "more": 1}'),
        "\u2028\x1b[31m",
    ]
    drawn_run.metrics.write_text("\n".join([*bad, good[1], good[0], good[0], good[1][:-5]]), encoding="utf-8")
    assert write_report(drawn_run) == [f"metrics.jsonl: {len(bad) + 1} lines are no records"]
    assert "not finished: step 20 of 100" in Page(drawn_run).text


def test_an_operator_table_in_any_state(run: RunFolder) -> None:
    run.profile.mkdir()
    summary = run.profile / "summary.json"
    for body in ("", "[]", '{"operators": 3, "verdict": 3}', '{"operators": [3, []], "verdict": {"sentence": null}}'):
        summary.write_text(body)
        write_report(run)
        assert "Where the time went" not in Page(run).text
    rows = [{"name": "aten::convolution", "share_of_time": 0.58}, {"name": "aten::add", "bound_by": "memory"}]
    summary.write_text(json.dumps({"operators": rows, "verdict": {"sentence": "Arithmetic binds the step."}}))
    write_report(run)
    text = Page(run).text
    for word in ("Where the time went", "Arithmetic binds the step.", "aten::convolution", "0.58", "share of time"):
        assert word in text


# --- Bounds -----------------------------------------------------------------------------------------------------------


def test_long_runs_make_no_longer_pages(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 100):
        write_samples(run, step, 0.7)
    write_report(run)
    frames = Page(run).frames()
    assert len(frames) <= MAX_GRIDS and (frames[0], frames[-1]) == (0, 100)
    monkeypatch.setattr(html, "MAX_FRAME_BYTES", 20_000)
    write_report(run)
    bodies = [a["src"] for tag, a in Page(run).elements if tag == "img"][:-1]
    assert 2 <= len(bodies) < 20 and sum(map(len, bodies)) < 1.4 * 20_000
    assert (Page(run).frames()[0], Page(run).frames()[-1]) == (0, 100)


def test_large_grids_are_shown_smaller(run: RunFolder) -> None:
    for path in run.samples.iterdir():
        with Image.open(path) as grid:
            grid.resize((1000, 1000)).save(path)
    write_report(run)
    assert picture_sizes(run.animation)[1] == (MAX_SIDE, MAX_SIDE)


MEMORY = """
import sys
from pathlib import Path
import torch
from fastdcgan.limits.memory import PeakMemory
from fastdcgan.runs.folder import RunFolder
from fastdcgan.telemetry.report.html import write_report

few, many = (RunFolder(Path(path)) for path in sys.argv[1:])
write_report(few)  # what it imports stays
for run in (few, many):
    peak = PeakMemory(torch.device("cpu"))
    assert write_report(run) == []
    print(peak.mib())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is known on Linux only")
def test_one_grid_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """40 grids of 1.2 MB take little more than 3: all of them at once would take 42 MiB more."""
    paths = []
    for name, steps in (("few", (0, 50, 100)), ("many", range(40))):
        run = finished_run(tmp_path / name)
        for path in run.samples.iterdir():
            path.unlink()
        for step in steps:
            colours_HWC = np.random.default_rng(step).integers(0, 256, (5, 5, 3), np.uint8)
            Image.fromarray(colours_HWC).resize((640, 640), Image.Resampling.NEAREST).save(
                run.samples / f"step-{step:08d}.png"
            )
        paths.append(str(run.path))
    measured = subprocess.run([sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, check=True)
    few, many = map(float, measured.stdout.split())
    assert picture_sizes(RunFolder(tmp_path / "many").animation) == (40, (640, 640))
    assert many - few < 20, f"{few:.0f} MiB with 3 grids, {many:.0f} with 40"


AFTER_TRAINING = """
import sys
from pathlib import Path
import torch
import fastdcgan
from fastdcgan.limits.memory import PeakMemory
from fastdcgan.runs.folder import RunFolder
from fastdcgan.telemetry.report import end_of_run, html

def measured(folder):
    peak = PeakMemory(torch.device("cpu"))
    assert html.write_report(RunFolder(Path(sys.argv[1]))) == []
    print(peak.mib())

end_of_run.write_report = measured
end_of_run.device_ceilings = lambda *_: None
options = {"arch": "dcgan16", "width": 4, "batch_size": 4, "images": 8, "quiet": True, "device": "cpu"}
fastdcgan.train(data=sys.argv[2], out=sys.argv[3], **options)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is known on Linux only")
def test_a_report_takes_little_beside_what_training_takes(tmp_path: Path) -> None:
    """21 grids of 64 pictures of noise, 64x64 each, and 2,000 lines of figures."""
    run = finished_run(tmp_path / "long")
    write_metrics(run, [record(step) for step in range(10, 20_001, 10)])
    noise = np.random.default_rng(0)
    for path in run.samples.iterdir():
        path.unlink()
    for step in range(0, 20_001, 1000):
        Image.fromarray(noise.integers(0, 256, (530, 530, 3), np.uint8)).save(run.samples / f"step-{step:08d}.png")
    np.save(tmp_path / "data.npy", noise.integers(0, 256, (8, 16, 16, 3), np.uint8))
    command = [sys.executable, "-c", AFTER_TRAINING, run.path, tmp_path / "data.npy", tmp_path / "run"]
    measured = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(measured.stdout) < 100


def test_long_curves_are_downsampled_and_keep_their_peaks() -> None:
    steps = range(1, 20_001)
    values = [9.0 if step == 7777 else 1.0 for step in steps]
    assert len(chart([Curve(steps=steps, values=values)], label="a peak")) < 60_000
    _, means, least, most = downsampled(steps, values)
    assert len(means) == MAX_POINTS and (least.min(), most.max()) == (1, 9)
    assert means.mean() == pytest.approx(np.mean(values), rel=1e-3)
    assert downsampled([3], [4.0])[1].tolist() == [4]


# --- Never at the run's cost ------------------------------------------------------------------------------------------


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_of_run, "device_ceilings", lambda *arguments: None)


def test_a_failing_report_does_not_end_the_run(
    run: RunFolder, quick_ceilings: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("all of it")

    monkeypatch.setattr(end_of_run, "write_report", fail)
    with reporting(run, torch.device("cpu"), 1, Display(), first=True):
        pass
    assert "report    can't be written: all of it" in capsys.readouterr().out
    with pytest.raises(ValueError, match="the real one"), reporting(run, torch.device("cpu"), 1, Display(), first=True):
        raise ValueError("the real one")


def test_a_failed_run_says_why_until_it_goes_on(run: RunFolder, quick_ceilings: None) -> None:
    write_metrics(run, [record(10)])
    with pytest.raises(ValueError), reporting(run, torch.device("cpu"), 1, Display(), first=True):
        raise ValueError("loss_g became nan at step 17")
    write_report(run)
    assert "failed after step 10" in Page(run).text and "loss_g became nan at step 17" in Page(run).text
    with reporting(run, torch.device("cpu"), 1, Display(), first=True):
        assert not run.end.exists(), "a run that is killed now has not failed"
    assert "not finished: step 10 of 100" in Page(run).text and "became nan" not in Page(run).text


def test_only_rank_0_writes_the_report(run: RunFolder) -> None:
    with reporting(run, torch.device("cpu"), 2, Display(), first=False):
        pass
    assert not run.report.exists()


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_ends_with_its_report(fastdcgan: Command, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny = ("--arch", "dcgan16", "--width", 8, "--batch-size", 24, "--log-every", 4, "--images", 480)
    recipe = ("--recipe", "dcgan")  # so few steps at a high rate make pictures so alike that WebP joins them
    result = fastdcgan("train", "--data", photographs, "--out", out, *tiny, *recipe)
    assert result.returncode == 0, result.stderr
    assert f"See what happened:  {out / 'report.html'}" in result.stdout
    text = Page(RunFolder(out)).text
    assert "finished: 20 steps" in text and "How near the machine's limit" in text
    (out / "report.html").unlink()
    (out / "metrics.jsonl").unlink()
    result = fastdcgan("report", out)
    assert result.returncode == 0, result.stderr
    assert "not shown  metrics.jsonl: no such file" in result.stdout
    assert Page(RunFolder(out)).frames()[-1] == 20
    result = fastdcgan("interpolate", out, "--frames", 6, "--out", tmp_path / "walk.webp")
    assert result.returncode == 0, result.stderr
    assert picture_sizes(tmp_path / "walk.webp") == (6, (74, 74))
    result = fastdcgan("report", tmp_path)
    assert result.returncode == 2 and "is not a run's folder" in result.stderr


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_can_read_it(tmp_path: Path, width: int, scheme: str) -> None:
    run = finished_run(tmp_path / ("a-very-long-name-of-a-run-" * 5), skipped=1, data=f"pictures in {'x' * 300}")
    run.skipped.write_text(f"'{'y' * 200}.jpg': truncated\n")
    run.profile.mkdir()
    rows = [{f"column_{n}": "aten::" + "convolution" * 3 for n in range(8)}]
    (run.profile / "summary.json").write_text(json.dumps({"operators": rows, "verdict": {"sentence": "z" * 300}}))
    write_report(run)
    asked, complained = [], []
    with page(width, 800) as tab:
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complained.append(message.text))
        tab.on("pageerror", lambda error: complained.append(str(error)))
        tab.emulate_media(color_scheme=scheme)
        tab.goto(run.report.as_uri())

        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        shown = ".frame.shown img"
        assert tab.get_attribute(shown, "alt") == "Samples after step 100"
        assert tab.evaluate(f"document.querySelector('{shown}').naturalWidth") == 146
        before = tab.locator(".frames").screenshot()
        tab.locator("#slider").fill("1")
        assert tab.get_attribute(shown, "alt") == "Samples after step 50"
        assert tab.inner_text("#step") == "step 50"
        assert tab.locator(".frames").screenshot() != before
        tab.locator("#slider").press("ArrowLeft")
        assert tab.get_attribute(shown, "alt") == "Samples after step 0"
        tab.locator("#play").click()
        tab.wait_for_selector(f"{shown}[alt='Samples after step 100']")
        tab.locator("#play").click()
        assert tab.get_attribute("#play", "aria-label") == "Play"

        ink, paper = (
            tab.evaluate(f"getComputedStyle(document.querySelector('{where}')).{what}")
            for where, what in (("svg text", "fill"), ("body", "backgroundColor"))
        )
        assert (brightness(ink) > brightness(paper)) == (scheme == "dark")

        tab.emulate_media(media="print", color_scheme=scheme)
        tab.set_viewport_size({"width": 690, "height": 1000})  # A4 between its margins
        assert tab.evaluate("document.documentElement.scrollWidth") <= 690
        assert not tab.is_visible("#slider")
        assert tab.locator(".frame:visible").count() == 3
        assert brightness(tab.evaluate("getComputedStyle(document.body).backgroundColor")) == 255
        assert tab.pdf(format="A4").startswith(b"%PDF")
    assert complained == []
    assert [url for url in asked if not url.startswith("data:")] == [run.report.as_uri()]


@pytest.mark.slow
@needs_chromium
def test_under_a_strict_policy_and_with_hostile_names(tmp_path: Path) -> None:
    """With the header that docs/runs.md states, which is the page's own; and then with what got past our care."""
    run = finished_run(tmp_path / HOSTILE_NAME, data=HOSTILE, skipped=1)
    run.skipped.write_text(f"'{HOSTILE}.jpg': empty file\n")
    write_report(run)
    body = run.report.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)', body)[1]  # type: ignore[index]
    assert "unsafe" not in policy
    complained: list[str] = []
    with served(run.path, f"default-src 'self'; {policy.partition('; ')[2]}") as address, page(900, 800) as tab:
        tab.on("console", lambda message: complained.append(message.text))
        tab.on("pageerror", lambda error: complained.append(str(error)))
        tab.goto(f"{address}/report.html")
        assert tab.title() == f"{printable(HOSTILE_NAME)}: a DCGAN's training"
        assert tab.inner_text("h1") == printable(HOSTILE_NAME)
        assert tab.inner_text("#step") == "step 100", "its own script runs"
        assert tab.evaluate("getComputedStyle(document.querySelector('.card')).borderTopStyle") == "solid"
        assert tab.evaluate("document.querySelector('.bar rect').getBoundingClientRect().width") > 0
        assert complained == []
        run.report.write_text(body.replace("</h1>", f"{TAKEN}</h1>"))
        tab.goto(f"{address}/report.html")
        assert tab.locator("h1 script").count() == 1 and tab.title().endswith("training"), (
            "it is there, and did not run"
        )
        assert any("Content Security Policy" in line for line in complained)


def brightness(colour: str) -> float:
    """Of rgb(...), 0 to 255."""
    return float(np.mean([int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]))
