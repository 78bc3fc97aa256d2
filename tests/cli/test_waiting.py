"""What makes pictures leaves the cores that it does not use to others."""

import sys

import pytest
from conftest import Command


def spin_counts(fastdcgan: Command, *arguments: str) -> set[str]:
    """How often a thread of libgomp asks for work before it sleeps, as libgomp says when it is loaded."""
    said = fastdcgan(*arguments).stderr.splitlines()
    return {line.split("'")[1] for line in said if "GOMP_SPINCOUNT" in line}


@pytest.mark.slow(12)
@pytest.mark.skipif(sys.platform != "linux", reason="asks libgomp")
def test_threads_sleep_while_pictures_are_made(fastdcgan: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for verb in ("generate", "interpolate", "evaluate"):
        assert spin_counts(fastdcgan, verb, "no-such-run") == {"0"}, verb
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert not {"0"} & spin_counts(fastdcgan, "generate", "no-such-run"), "the user's own counts"
