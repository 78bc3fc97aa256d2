"""Requests to stop, as signals bring them."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from fastdcgan.storage import signals
from fastdcgan.storage.signals import STOP_SIGNALS, Stopped, stop_requests


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_after_defer_a_signal_is_only_recorded(number: int) -> None:
    before = signal.getsignal(number)
    with stop_requests() as asked:
        asked.defer()
        assert asked() == 0
        signal.raise_signal(number)
        assert asked() == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_before_defer_a_signal_raises_stopped(number: int) -> None:
    with pytest.raises(Stopped) as stop, stop_requests():
        try:
            signal.raise_signal(number)
        except Exception:  # noqa: BLE001 (as libraries do)
            pytest.fail("a library may go on after an Exception")
    assert stop.value.args[1] == number


def test_a_program_is_not_watched_and_may_ask_by_itself() -> None:
    threads, wakeup_fd = threading.active_count(), signal.set_wakeup_fd(-1)
    with stop_requests(may_end_process=False) as asked:
        assert threading.active_count() == threads and signal.set_wakeup_fd(-1) == -1
        asked.request(signal.SIGINT)
        assert asked() == signal.SIGINT
    signal.set_wakeup_fd(wakeup_fd)


def test_nothing_is_used_that_windows_has_only_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """os.set_blocking came to it with Python 3.12; a wakeup is a socket there."""
    monkeypatch.delattr("os.set_blocking", raising=False)
    with stop_requests() as asked:
        asked.defer()
        wakeup_fd = signal.set_wakeup_fd(-1)
        assert stat.S_ISSOCK(os.fstat(wakeup_fd).st_mode)
        signal.set_wakeup_fd(wakeup_fd)
        signal.raise_signal(signal.SIGTERM)
        assert asked() == signal.SIGTERM


def test_the_first_signal_counts() -> None:
    with stop_requests() as asked:
        asked.defer()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert asked() == signal.SIGTERM


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_raises_keyboard_interrupt(first: signal.Signals) -> None:
    with stop_requests() as asked:
        asked.defer()
        signal.raise_signal(first)  # and Ctrl-C after that, as a shell's script may have sent the first
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert asked() == first


def test_a_launchers_duplicate_is_no_second_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with stop_requests() as asked:
        asked.defer()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert asked() == signal.SIGINT


def test_after_the_duplicate_window_a_second_ctrl_c_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(signals, "DUPLICATE_WINDOW_S", -1.0)
    with stop_requests() as asked:
        asked.defer()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


LISTEN = """
import os, threading
from fastdcgan.storage.signals import stop_requests
def held():  # not /proc/self/task: the system takes a moment to end a thread that was joined
    return threading.active_count(), len(os.listdir("/proc/self/fd"))
before = held()
for _ in range(20):
    with stop_requests():
        pass
assert held() == before, (held(), before)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts through /proc")
def test_listening_leaves_no_thread_and_no_descriptor() -> None:
    """In a process of its own: threads of what other tests used come and go in this one."""
    done = subprocess.run([sys.executable, "-c", LISTEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


STUCK = """
import ctypes
from fastdcgan.storage import signals
signals.GRACE_PERIOD_S = signals.SECOND_GRACE_PERIOD_S = 0.1
with signals.stop_requests() as asked:
    if {keep}:
        asked.defer()
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(256)
    lock(mutex)
    print("ready", flush=True)
    lock(mutex)  # for ever, and no signal interrupts it: Python's handlers don't run
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a mutex of zeros is Linux's")
@pytest.mark.parametrize(
    ("keep", "signals"), [(False, ["SIGTERM"]), (False, ["SIGUSR1"]), (True, ["SIGINT", "SIGINT"])]
)
def test_a_process_blocked_in_c_is_ended_too(keep: bool, signals: list[str]) -> None:
    """As one that waits for another process, or for a disk."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(keep=keep)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for name in signals:
        time.sleep(0.2)  # till it waits
        process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.Signals[signals[-1]], said
    assert said == "fastdcgan: interrupted\n"
