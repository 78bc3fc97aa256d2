"""What `fastdcgan doctor` prints: text to paste into an issue, without the user's name or home folder."""

import json
import os
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.text import Text

from fastdcgan import __version__
from fastdcgan.doctor.finding import Finding
from fastdcgan.doctor.probing import PROBES, look_at
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable

TOPIC_WIDTH = 13


def diagnose(*, measure: bool, out: Path | None) -> bool:
    """Look at everything and say what was found, as it is found.

    Args:
        measure: whether to take steps.
        out: where the findings go as JSON too.

    Returns:
        whether training can run here.

    Raises:
        ValueError: `out` can't be written, or this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("fastdcgan doctor looks at a machine from one process: start it without a launcher")
    console = Console(highlight=False)
    probes = [probe for probe in PROBES if measure or not probe.measures]
    console.print(f"fastdcgan {__version__}, {date.today()}\n")
    findings: list[Finding] = []
    with closing(look_at(probes)) as looking:
        for probe in probes:
            with console.status(f"looking at {probe.topic}"):
                finding = without_home(next(looking))
            findings.append(finding)
            _show(console, finding)
    broken = [finding.topic for finding in findings if finding.broken]
    console.print()
    if broken:
        console.print(f"Training can't run here, for: {', '.join(broken)}.")
    else:
        console.print("Training can run here.")
    if out is not None:
        _write(out, findings)
    return not broken


def without_home(finding: Finding, home: Path | None = None) -> Finding:
    """The same, on one line each that any terminal can print, the user's home folder written as ~."""
    home = home or Path.home()
    folders = {re.escape(str(path)) for path in (home, home.resolve()) if path != Path(path.anchor)}
    pattern = re.compile(rf"({'|'.join(sorted(folders, key=len, reverse=True))})(?![\w.-])") if folders else None

    def clean(text: str) -> str:
        return printable(pattern.sub("~", text) if pattern else text)

    return replace(finding, found=clean(finding.found), advice=clean(finding.advice))


def _show(console: Console, finding: Finding) -> None:
    """A finding as lines that hang below its topic, without trailing blanks."""
    found = f"BROKEN: {finding.found}" if finding.broken else finding.found
    wrapped = partial(wrap, width=console.width - TOPIC_WIDTH, break_long_words=False, break_on_hyphens=False)
    indent = f"\n{' ' * TOPIC_WIDTH}"
    text = Text(f"{finding.topic:{TOPIC_WIDTH}}", style="bold")
    text.append(indent.join(wrapped(found)), style="bold red" if finding.broken else "not bold")
    if finding.advice:
        text.append(indent + indent.join(wrapped(f"-> {finding.advice}")), style="not bold yellow")
    console.print(text, soft_wrap=True)


def _write(path: Path, findings: Sequence[Finding]) -> None:
    record: dict[str, Any] = {
        "fastdcgan": __version__,
        "date": date.today().isoformat(),
        "can_train": not any(finding.broken for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
    try:
        write_replacing(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise ValueError(f"can't write to {path}: {error.strerror or error}") from error
