import re
from pathlib import Path

import pytest

from fastdcgan.storage.signals import Stopped
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.display import Display

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)")


def said(path: Path) -> list[str]:
    matches = [LINE.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(matches), "every line has its time"
    return [match[1] for match in matches if match]


def test_messages_are_logged_line_by_line_in_order(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.log")
    log.write("data      8,000 pictures")
    log.write("two\nlines")
    log.write("Käfer – 猫 \udcff.jpg")
    assert said(tmp_path / "run.log") == ["data      8,000 pictures", "two", "lines", "Käfer – 猫 \\xff.jpg"]


def test_a_second_session_appends_to_the_log(tmp_path: Path) -> None:
    for text in ("first", "second"):
        log = RunLog(tmp_path / "run.log")
        log.write(text)
        log.close()
    assert said(tmp_path / "run.log") == ["first", "second"]


def test_the_log_is_created_only_once_it_may_be_and_loses_no_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    log = RunLog(folder / "run.log", may_create=folder.exists)
    log.write("before")
    assert not folder.exists()
    folder.mkdir()
    log.write("after")
    assert said(folder / "run.log") == ["before", "after"]


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (ValueError("--lr 9: too much"), "error: --lr 9: too much"),
        (Stopped("stopped after step 5", 15), "stopped after step 5"),
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError("a bug"), "RuntimeError: a bug"),
    ],
)
def test_what_ended_the_run_is_the_last_line(error: BaseException, last: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), Display(visible=False, log=RunLog(tmp_path / "run.log")):
        raise error
    lines = said(tmp_path / "run.log")
    assert lines[-1].strip() == last
    assert any("Traceback" in line for line in lines) == isinstance(error, RuntimeError)


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(log=RunLog(tmp_path / "missing" / "run.log")) as display:
        display.say("data")
        display.say("networks")
    said = capsys.readouterr().out.splitlines()
    assert said == ["run.log ends here: No such file or directory", "data", "networks"]
