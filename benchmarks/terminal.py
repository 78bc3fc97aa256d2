"""Writes to the terminal that pytest writes to, also while it captures what tests print."""

import io
import sys
from typing import IO, cast

import pytest
from rich.console import Console

WIDTH = 80
"""Where there's no terminal."""


class _Through(io.TextIOBase):
    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.__stdout__, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        self._reporter.write(text, flush=True)
        return len(text)


def console_of(config: pytest.Config, reporter: pytest.TerminalReporter) -> Console:
    """As wide and as colourful as pytest's. Ask while nothing is captured: the width is that of standard output."""
    is_terminal = reporter.isatty()
    return Console(
        file=cast(IO[str], _Through(reporter)),
        force_terminal=is_terminal,
        no_color=not reporter.hasmarkup,
        width=config.get_terminal_writer().fullwidth if is_terminal else WIDTH,
        legacy_windows=False,
        soft_wrap=False,
    )
