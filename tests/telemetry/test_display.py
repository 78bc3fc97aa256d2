import re
from dataclasses import replace
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal import display as module
from fastdcgan.telemetry.terminal.display import PLAIN_INTERVAL, Display
from fastdcgan.telemetry.terminal.sparkline import BLOCKS

RECORD = Record(
    step=50,
    images=1600,
    epoch=0.2,
    seconds=4.0,
    loss_d=1.234,
    loss_g=0.876,
    d_real=0.61,
    d_fake=0.39,
    images_per_sec=1600.0,
    data_wait_fraction=0.0,
)

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest catches the output, so there is none; unless the environment claims one."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class Clock:
    """Time passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    return clock


def test_without_a_terminal_there_are_plain_lines(clock: Clock, capsys: Output) -> None:
    with Display() as display:
        display.say("data      8,000 pictures")
        display.train(None, 0, 100)
        clock.now += PLAIN_INTERVAL
        display.train(RECORD, 50, 100)
        display.train(RECORD, 100, 100)
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out
    assert "\r" not in captured.out
    data, halfway, end = captured.out.splitlines()
    assert data == "data      8,000 pictures"
    assert halfway == "step 50/100  1,600 img/s  D 1.23  G 0.88  D(x) 0.61  D(G(z)) 0.39  0:01 left"
    assert end.startswith("step 100/100  ")
    assert end.endswith("0:00 left")
    assert captured.err == ""


def test_plain_lines_come_at_most_every_few_seconds_but_for_the_last(clock: Clock, capsys: Output) -> None:
    with Display() as display:
        for step in range(1, 106):
            clock.now += PLAIN_INTERVAL / 10
            display.train(RECORD, step, 105)
    steps = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert steps == [f"{step}/105" for step in (*range(10, 101, 10), 105)]


def test_preparations_are_reported_and_their_end_always(clock: Clock, capsys: Output) -> None:
    with Display() as display:
        for done in range(0, 8001, 1000):
            display.advance("drawing faces", done, 8000)
            clock.now += PLAIN_INTERVAL / 4
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["drawing faces: 4,000 of 8,000, 0:05 left", "drawing faces: 8,000 of 8,000"]


def test_time_left_counts_from_where_a_preparation_began(clock: Clock, capsys: Output) -> None:
    """Another preparation came first, and the first thousand were done before."""
    with Display() as display:
        display.advance("checking images", 10, 10)
        clock.now += 600
        display.advance("packing images", 1000, 8000)
        clock.now += 10
        display.advance("packing images", 2000, 8000)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["packing images: 1,000 of 8,000", "packing images: 2,000 of 8,000, 1:00 left"]


def test_nothing_is_shown_when_invisible(clock: Clock, capsys: Output) -> None:
    with Display(visible=False) as display:
        display.say("data")
        display.advance("drawing faces", 8000, 8000)
        clock.now += 2 * PLAIN_INTERVAL
        display.train(RECORD, 100, 100)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_nothing_is_shown_when_invisible_on_a_terminal_either(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Display(visible=False) as display:
        display.say("data")
        display.train(RECORD, 100, 100)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_on_a_terminal_there_is_a_bar_with_the_figures(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with Display() as display:
        display.train(RECORD, 50, 100)
    out = capsys.readouterr().out
    assert "\x1b" in out
    assert "training" in out
    assert "50/100" in out
    assert "D(G(z)) 0.39" in out
    assert "step 50/100" not in out, "no plain lines beside the bar"


@pytest.mark.parametrize(
    "text",
    ["photo [1].jpg", "[red]a[/red]", "[/]", "album:100:cat.jpg", "a" * 300, "two  spaces ", "Käfer – 猫.jpg"],
)
def test_text_is_shown_as_it_is(text: str, capsys: Output) -> None:
    """Names of files may hold anything."""
    with Display() as display:
        display.say(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_quiet_says_only_what_is_always_said(clock: Clock, capsys: Output, tmp_path: Path) -> None:
    with Display(quiet=True, log=RunLog(tmp_path / "run.log")) as display:
        display.say("data")
        display.advance("drawing faces", 8000, 8000)
        clock.now += 2 * PLAIN_INTERVAL
        display.train(RECORD, 100, 100)
        display.stop_drawing()
        display.say("Done.", always=True)
    assert capsys.readouterr().out == "Done.\n"
    kept = (tmp_path / "run.log").read_text()
    for text in ("data", "drawing faces: 8,000 of 8,000", "step 100/100", "Done."):
        assert text in kept


# --- On a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """One that shows nobody anything, and whose size changes."""

    def __init__(self, width: int, height: int, **more: Any) -> None:
        self._written = TextIOWrapper(BytesIO(), encoding=more.pop("encoding", "utf-8"))
        options = {"color_system": "truecolor", "_environ": {"TERM": "xterm-256color"}} | more
        self.console = Console(file=self._written, force_terminal=True, soft_wrap=True, highlight=False, **options)
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        self.console.width, self.console.height = width, height

    def written(self) -> str:
        """Since the last call."""
        self._written.flush()
        buffer = self._written.buffer
        assert isinstance(buffer, BytesIO)
        text = buffer.getvalue().decode(self._written.encoding)
        buffer.seek(0)
        buffer.truncate()
        return text

    def drawn(self, display: Display) -> list[str]:
        """The view as it is now, without escape codes."""
        self.written()
        display._view.refresh()
        return CODES.sub("", self.written()).replace("\r", "").split("\n")


CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

PICTURES_BCHW = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)


def shown(terminal: Terminal, pictures: bool = True) -> Display:
    """A display in the middle of a run."""
    display = Display(console=terminal.console)
    display._view.live.auto_refresh = False  # drawn when the test says so
    display.__enter__()
    display.say("data      8,000 pictures")
    for step in range(1, 51):
        display.train(replace(RECORD, step=step, loss_d=1 + step / 100), step, 100)
    if pictures:
        display.show_samples(PICTURES_BCHW, 50)
    return display


@pytest.mark.parametrize("height", [1, 2, 3, 5, 10, 16, 24, 40, 80])
@pytest.mark.parametrize("width", [10, 40, 63, 64, 80, 120, 300])
def test_the_view_fits_any_terminal(width: int, height: int) -> None:
    terminal = Terminal(width, height)
    display = shown(terminal)
    lines = terminal.drawn(display)
    display.stop_drawing()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any("training" in line for line in lines) or width < 40


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 10)])
def test_the_view_has_curves_time_left_and_memory(size: tuple[int, int]) -> None:
    terminal = Terminal(*size)
    display = shown(terminal)
    text = "\n".join(terminal.drawn(display))
    display.stop_drawing()
    for label, value in (("loss D", "1.500"), ("loss G", "0.876"), ("img/s", "1,600")):
        assert re.search(rf"{label} +{re.escape(value)} [{BLOCKS}]+", text)
    assert re.search(rf"loss D .*{BLOCKS[0]}.*{BLOCKS[3]}.*{BLOCKS[-1]}", text), "it rose all the time"
    assert "D(x) 0.61" in text and "D(G(z)) 0.39" in text
    assert re.search(r"memory \d+\.\d GiB", text)
    assert re.search(r"\d\d:\d\d|--:--", text.splitlines()[0])


def test_the_latest_grid_is_drawn_where_there_is_room() -> None:
    terminal = Terminal(120, 40)
    display = shown(terminal)
    lines = terminal.drawn(display)
    assert "samples after step 50" in "\n".join(lines)
    assert sum("▀" * 100 in line for line in lines) >= 16
    before = raw(terminal, display)
    display.show_samples(-PICTURES_BCHW, 60)
    after = raw(terminal, display)
    display.stop_drawing()
    assert "samples after step 60" in after
    assert before.count("▀") == after.count("▀") and codes_of_pictures(before) != codes_of_pictures(after)


def raw(terminal: Terminal, display: Display) -> str:
    terminal.written()
    display._view.refresh()
    return terminal.written()


def codes_of_pictures(text: str) -> list[str]:
    return re.findall(r"\x1b\[38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m", text)


@pytest.mark.parametrize(
    "options",
    [
        {"no_color": True},
        {"color_system": None},
        {"color_system": "standard"},
        {"encoding": "ascii"},
        {"height": 10},
        {"width": 12},
    ],
    ids=str,
)
def test_no_pictures_where_they_could_not_be_seen(options: dict[str, Any]) -> None:
    size = {name: options.pop(name, default) for name, default in (("width", 120), ("height", 40))}
    terminal = Terminal(**size, **options)
    display = shown(terminal)
    text = "\n".join(terminal.drawn(display))
    display.stop_drawing()
    assert "▀" not in text and "samples" not in text
    if size["width"] > 12:
        assert "1.500" in text, "the figures are there all the same"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(120, 40, _environ={"TERM": "xterm-256color", "NO_COLOR": "1"})
    display = shown(terminal)
    text = raw(terminal, display)
    display.stop_drawing()
    assert BLOCKS[-1] in text
    assert not re.search(r"\x1b\[[0-9;]*(3[0-8]|4[0-8])[;m]", text)


def test_a_dumb_terminal_gets_plain_lines(clock: Clock) -> None:
    terminal = Terminal(80, 24, _environ={"TERM": "dumb"})
    with Display(console=terminal.console) as display:
        display.train(RECORD, 100, 100)
    assert terminal.written().startswith("step 100/100  1,600 img/s")


def test_after_a_change_of_size_nothing_is_left_of_what_was_drawn_before() -> None:
    """The terminal has wrapped it anew, so that it can't be found again; what was said is said again."""
    terminal = Terminal(120, 40)
    display = shown(terminal)
    terminal.resize(50, 20)
    text = raw(terminal, display)
    assert "\x1b[2J" in text
    assert "8,000 pictures" in text[text.index("\x1b[2J") :]
    again = raw(terminal, display)
    display.stop_drawing()
    assert "\x1b[2J" not in again and "8,000 pictures" not in again


def test_lines_are_kept_in_the_log_beside_the_bars(clock: Clock, tmp_path: Path) -> None:
    terminal = Terminal(80, 24)
    with Display(console=terminal.console, log=RunLog(tmp_path / "run.log")) as display:
        display.advance("drawing faces", 8000, 8000)
        clock.now += PLAIN_INTERVAL
        display.train(RECORD, 50, 100)
    kept = (tmp_path / "run.log").read_text()
    assert "drawing faces: 8,000 of 8,000" in kept and "step 50/100  1,600 img/s" in kept
    assert "step 50/100" not in terminal.written()
