from types import SimpleNamespace

import pytest

from fastdcgan.telemetry import display as module
from fastdcgan.telemetry.display import PLAIN_INTERVAL, Display
from fastdcgan.telemetry.metrics import Record

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
