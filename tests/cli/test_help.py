"""What `--help` shows to somebody who has never seen the project, on a terminal of 80 columns."""

import re
from itertools import pairwise

import pytest

from fastdcgan import cli

NAMES = [verb.__name__ for group in cli.VERBS.values() for verb in group]


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", True)  # as on a terminal
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("verb", NAMES)
def test_paragraphs_fill_their_lines(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(capsys, monkeypatch, verb)
    assert max(map(len, lines)) <= 80
    rows = [line[2:-2].rstrip() for line in lines if line.startswith("│")]
    (column,) = {len(row) - len(row.lstrip()) for row in rows if row.startswith(" ")} or {18}
    for above, below in pairwise(rows):
        if below.startswith(" ") and above[column - 2 : column].isspace() and len(above) > column:
            assert len(above) + 1 + len(below.split()[0]) > 76, f"{above!r} has room for more of {below!r}"


@pytest.mark.parametrize("verb", NAMES)
def test_what_is_chosen_for_the_user_is_said_in_words(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join("\n".join(shown(capsys, monkeypatch, verb)).replace("│", " ").split())
    assert "None" not in text and "(default: )" not in text and "Default:" not in text
    options = re.split(r" (?=--[a-z])", text.partition(" options ")[2])
    assert all("(default: " in option for option in options if re.match(r"--\S+ [A-Z]+ ", option)), options


def test_defaults_read_alike_whether_fixed_or_chosen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join("\n".join(shown(capsys, monkeypatch, "train")).replace("│", " ").split())
    assert "(default: 0.0002)" in text
    assert "--width INT Feature maps at the finest hidden level" in text
    assert "(default: 64; 32 for dcgan28)" in text
    assert "dcgan64; dcgan32 for cifar10" in text


def test_verbs_come_in_the_order_in_which_they_are_met(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(capsys, monkeypatch)
    text = "\n".join(lines)
    listed = re.findall(r"• (\w+)", text)
    assert listed == [
        "train",
        "generate",
        "data",
        "pack",
        "report",
        "evaluate",
        "interpolate",
        "profile",
        "import",
        "export",
        "tune",
        "roofline",
        "scale",
        "doctor",
    ]
    assert re.search(r"your pictures +data, pack\n", text) and re.search(r"speed +tune, roofline, scale\n", text)
    assert max(map(len, lines[1:])) <= 80
