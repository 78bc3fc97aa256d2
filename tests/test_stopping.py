"""Requests to stop, as signals bring them."""

import signal

import pytest

from fastdcgan import stopping
from fastdcgan.stopping import STOP_SIGNALS, stop_requests


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered_and_ends_nothing(number: int) -> None:
    before = signal.getsignal(number)
    with stop_requests() as asked:
        assert asked() == 0
        signal.raise_signal(number)
        assert asked() == number
        signal.raise_signal(number)  # as a launcher passes on what came to all processes
        assert asked() == number
    assert signal.getsignal(number) is before


def test_the_first_signal_counts() -> None:
    with stop_requests() as asked:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert asked() == signal.SIGTERM


def test_asking_again_later_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "ECHO", -1.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have it ignored
    try:
        with stop_requests():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
