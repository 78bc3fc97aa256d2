"""The terminal that pytest writes to, also while it captures what tests print."""

import os
import sys
from typing import TextIO

import pytest
from rich.console import Console

WIDTH = 80
"""Where there's no terminal."""


def console_of(config: pytest.Config, reporter: pytest.TerminalReporter) -> Console:
    """As wide and as colourful as pytest's. To be asked for while nothing is captured."""
    is_terminal = reporter.isatty()
    return Console(
        file=_standard_output(),
        force_terminal=is_terminal,
        no_color=not reporter.hasmarkup,
        width=config.get_terminal_writer().fullwidth if is_terminal else WIDTH,
    )


def _standard_output() -> TextIO:
    """A second way to where standard output leads now: capturing closes the first one."""
    try:
        return os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding, errors="replace")
    except OSError:  # no file
        return sys.stdout
