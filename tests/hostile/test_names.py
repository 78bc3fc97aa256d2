"""Names from files are words to whoever shows them: no markup, no escapes, no code. The report and the web page have
tests of their own, in a browser."""

import ast
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hostile_names import HOSTILE, HOSTILE_NAME, PIECES
from markdown_it import MarkdownIt
from measured import ONE
from PIL import Image

from fastdcgan import cli
from fastdcgan.evaluation.records import append_evaluations
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal import evaluation_commands
from fastdcgan.telemetry.terminal.display import Display

SMALL = (*("--arch", "dcgan16", "--width", "4", "--batch-size", "4", "--images", "4"), "--track", "none")


def only_words(text: str) -> bool:
    return all(char.isprintable() for char in text.replace("\n", "")) and "{{ 7 * 7 }}" in text


def as_one_line(text: str) -> str:
    """Without the breaks that a narrow terminal needs."""
    return "".join(line.strip() for line in text.splitlines()).replace(" ", "")


def test_classes_and_pictures_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (HOSTILE_NAME, "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / "data" / name / f"{number}{HOSTILE_NAME}.png")
    (tmp_path / "data" / HOSTILE_NAME / f"empty{HOSTILE_NAME}.png").touch()
    cli.main(["data", str(tmp_path / "data"), "--resolution", "16", "--out", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert only_words(said) and as_one_line(printable(HOSTILE_NAME)) in as_one_line(said)


def test_a_run_of_any_name_from_data_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, evaluated by a stand-in, and exported with a model card."""
    run, out = (tmp_path / kind / HOSTILE_NAME for kind in ("runs", "exported"))
    data = tmp_path / f"{HOSTILE_NAME}.npy"
    np.save(data, np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastdcgan.telemetry.report.end_of_run.write_report", lambda _: None)
        patch.setattr("fastdcgan.telemetry.report.end_of_run.device_ceilings", lambda *_: None)
        cli.main(["train", "--data", str(data), "--out", str(run), *SMALL])
    said, log = capsys.readouterr().out, (run / "run.log").read_text()
    assert only_words(said) and only_words(log) and printable(HOSTILE_NAME) in log

    append_evaluations(
        RunFolder(run).evaluations,
        [replace(ONE, step=1, kernel_label=f"kernel {HOSTILE}", frechet_label=HOSTILE, weights="average")],
    )
    cli.main(["export", str(run), "--to", "hub", "--out", str(out)])
    card = (out / "README.md").read_text()
    assert only_words(card)
    code = card.split("```python\n")[1].split("```")[0]
    calls = [node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert len(calls) == 4, "the calls of the example, and none that a name brought in"
    page = Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2]))
    assert {tag for tag, _ in page.found} <= {
        "h1",
        "h2",
        "p",
        "a",
        "em",
        "strong",
        "code",
        "pre",
        "img",
        "ul",
        "li",
    } | {*("table", "thead", "tbody", "tr", "th", "td")}
    links = {value for _, attributes in page.found for name, value in attributes if name in ("src", "href")}
    assert links == {"https://arxiv.org/abs/1511.06434", "samples.png", "losses.png"}
    assert page.found.count(("h1", [])) == 1


class Tags(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


def test_names_of_runs_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Toy:
        name = "toy"

    monkeypatch.setattr(evaluation_commands, "evaluate_run", lambda run, *_, **__: ([ONE], Toy()))
    monkeypatch.setattr(evaluation_commands, "remarks", lambda *_: [HOSTILE_NAME])
    cli.main(["evaluate", str(tmp_path / "[/red]x[bold]"), str(tmp_path / "y")])
    assert "[/red]x[bold]" in as_one_line(capsys.readouterr().out)


@pytest.mark.parametrize("piece", PIECES)
def test_what_is_said_and_logged(piece: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path / "run.log")
    with Display(log=log) as display:
        display.say(f"data      {piece}")
    for shown in (capsys.readouterr().out, (tmp_path / "run.log").read_text()):
        assert all(char.isprintable() for char in shown.replace("\n", ""))
        assert all(printable(line) in shown for line in piece.split("\n"))


def test_a_name_that_no_file_can_have_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", "x" * 100_000])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(": File name too long\n") and len(said) < 5_000
