"""`fastdcgan doctor` as a user meets it: its text, its exit code, its JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT

from fastdcgan import cli
from fastdcgan.doctor import diagnose as diagnosing
from fastdcgan.doctor.diagnose import without_home
from fastdcgan.doctor.finding import Finding
from fastdcgan.doctor.probing import PROBES, Probe


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What will be found."""
    found: list[Finding] = []
    monkeypatch.setattr(
        diagnosing,
        "PROBES",
        [Probe(topic="x", look=PROBES[0].look), Probe(topic="y", look=PROBES[0].look, measures=True)],
    )
    monkeypatch.setattr(diagnosing, "look_at", lambda probes: (found[place] for place in range(len(probes))))
    return found


def doctor(*arguments: str) -> int:
    try:
        cli.main(["doctor", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_its_exit_code_and_its_file(
    findings: list[Finding], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    findings += [
        Finding(topic="torch", found="2.14", advice="a newer one", details={"n": 1}),
        Finding(topic="parity", found="all"),
    ]
    assert doctor("--json", str(file)) == 0
    out = capsys.readouterr().out
    assert (
        "torch        2.14\n             -> a newer one\nparity       all\n" in out and "Training can run here." in out
    )
    record = json.loads(file.read_text())
    assert record["can_train"] is True and [found["topic"] for found in record["findings"]] == ["torch", "parity"]
    assert record["findings"][0]["details"] == {"n": 1}

    findings[1] = Finding(topic="parity", found="none", broken=True)
    assert doctor("--json", str(file)) == 1
    out = capsys.readouterr().out
    assert "parity       BROKEN: none\n" in out and "Training can't run here, for: parity." in out
    assert json.loads(file.read_text())["can_train"] is False


def test_without_measuring(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    findings += [Finding(topic="torch", found="2.14"), Finding(topic="parity", found="all", broken=True)]
    assert doctor("--no-speed") == 0
    assert "parity" not in capsys.readouterr().out


def test_a_file_that_cannot_be_written(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    findings += [Finding(topic="torch", found="2.14"), Finding(topic="parity", found="all")]
    assert doctor("--json", "/proc/nowhere/file.json") == 2
    assert "fastdcgan: error: can't write to /proc/nowhere/file.json" in capsys.readouterr().err


def test_one_of_several_processes_is_refused(
    findings: list[Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert doctor() == 2
    assert "start it without a launcher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("home", "text", "shown"),
    [
        ("/home/ada", "/home/ada/.cache is full, /home/ada", "~/.cache is full, ~"),
        ("/home/ada", "/home/adam/x", "/home/adam/x"),
        ("/", "/data/x", "/data/x"),
        ("/home/ada", "a\nb\x1b[31m", "a\\nb\\x1b[31m"),
    ],
)
def test_the_home_folder_is_not_shown(home: str, text: str, shown: str) -> None:
    finding = without_home(Finding(topic="x", found=text, advice=text), Path(home))
    assert (finding.found, finding.advice) == (shown, shown)


def test_long_findings_hang_below_their_topic(
    findings: list[Finding], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    findings += [Finding(topic="cpu", found="[bold]words[/bold] " * 20), Finding(topic="y", found="z")]
    doctor()
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 and line == line.rstrip() for line in lines)
    assert sum(line.count("[bold]words[/bold]") for line in lines) == 20, "nothing is taken for markup"


def run(*arguments: str, path: Sequence[Path] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastdcgan", "doctor", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), **environ},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


@pytest.mark.slow
def test_this_machine(tmp_path: Path) -> None:
    """In truth, with parity and speed."""
    done = run("--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["topic"]: finding for finding in json.loads((tmp_path / "found.json").read_text())["findings"]}
    assert list(found) == [probe.topic for probe in PROBES]
    assert "can't be used" not in done.stdout and str(Path.home()) + os.sep not in done.stdout
    assert all(error < 1 for error in found["parity"]["details"]["errors"].values())
    speed = found["speed"]["details"]
    assert speed["images_per_sec"] > 0 and speed["reference_images_per_sec"] > 0


@pytest.mark.slow
def test_a_machine_on_which_nothing_works(tmp_path: Path) -> None:
    for name, text in (("torch", "raise OSError('libcudart.so.13: no such file')"), ("PIL", "import os; os.abort()")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    (tmp_path / "file").touch()
    done = run("--json", str(tmp_path / "found.json"), path=[tmp_path], FASTDCGAN_CACHE=str(tmp_path / "file" / "x"))
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    found = {finding["topic"]: finding for finding in json.loads((tmp_path / "found.json").read_text())["findings"]}
    assert list(found) == [probe.topic for probe in PROBES]
    assert found["torch"]["found"] == "can't be used: OSError: libcudart.so.13: no such file"
    assert found["pillow"]["found"] == "can't be used: it ended the process, by signal 6"
    assert "can't be written" in found["cache"]["found"] and "GiB free" in found["disk"]["found"]
    assert {"torch", "torchvision", "pillow", "plan", "parity"} <= {name for name, f in found.items() if f["broken"]}
