"""Signals that ask a process to stop, and how it stops without losing anything."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

STOP_SIGNALS = tuple(int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; what Slurm, Kubernetes and launchers send before they kill; what Slurm can be told to send earlier still."""

DUPLICATE_WINDOW_S = 2.0
"""Below a launcher, a second SIGINT within this time is a duplicate: some forward what the terminal sends to all."""

GRACE_PERIOD_S = 5.0
"""How long the main thread has to leave by itself after the first signal. Python runs its handlers only between
operations, and one that waits for another process may take a day."""

SECOND_GRACE_PERIOD_S = 1.0
"""The same after a second SIGINT."""


class Stopped(BaseException):
    """The run was asked to stop, and nothing is lost. Arguments: the message, and the signal's number.

    Not an `Exception`, because libraries catch those and go on.
    """


class EndedTogetherError(ValueError):
    """All processes of a run end with this same error, and one on each machine says so.

    Args:
        message: the same.
        speaks: whether this process is to say it. None: if it is its machine's first.
    """

    def __init__(self, message: str, *, speaks: bool | None = None) -> None:
        super().__init__(message)
        self.speaks = speaks


class StopRequests:
    """The signals by which this process was asked to stop. Calling it returns the first one's number, or 0.

    Args:
        duplicate_window: seconds in which a second SIGINT counts as a duplicate of the first.
    """

    def __init__(self, duplicate_window: float) -> None:
        self._deferred = False
        self._done = threading.Event()
        # Signals reach the main thread (`handle`) and the watcher (`watch`): each keeps its own account.
        self._handled, self._watched = _FirstSignal(duplicate_window), _FirstSignal(duplicate_window)

    def __call__(self) -> int:
        """The signal with which this process was first asked to stop, else 0."""
        return self._handled.number

    def defer(self) -> None:
        """From now on work would be lost: signals are only recorded, and the caller has to look, save and leave."""
        self._deferred = True

    def request(self, number: int) -> None:
        """Ask from within the process, as if it had been sent this signal while work would be lost. Any thread may."""
        self._handled.number = self._handled.number or number

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler, in the main thread.

        Raises:
            Stopped: the first signal, and there is nothing to save.
            KeyboardInterrupt: a second SIGINT.
        """
        if self._handled.is_second_interrupt(number):
            raise KeyboardInterrupt
        if not self._deferred and number == self._handled.number:
            raise Stopped("stopped before the first step was done: nothing is lost", number)

    def watch(self, wakeups: socket.socket) -> None:
        """End the process where its main thread doesn't within the grace period. Runs in a thread.

        Args:
            wakeups: yields a byte per signal (`signal.set_wakeup_fd`).
        """
        while numbers := wakeups.recv(64):
            for number in numbers:
                if number not in STOP_SIGNALS:
                    continue
                if self._watched.is_second_interrupt(number):
                    self._exit_after(SECOND_GRACE_PERIOD_S, signal.SIGINT)
                elif not self._deferred:
                    self._exit_after(GRACE_PERIOD_S, self._watched.number)

    def mark_done(self) -> None:
        """The main thread has left: the watcher no longer ends the process."""
        self._done.set()

    def _exit_after(self, seconds: float, number: int) -> None:
        if not self._done.wait(seconds):
            os.write(2, b"fastdcgan: interrupted\n")
            os._exit(128 + number)


class _FirstSignal:
    """Remembers the first signal, and tells a second SIGINT from a duplicate of the first."""

    def __init__(self, duplicate_window: float) -> None:
        self.number, self._time, self._window = 0, 0.0, duplicate_window

    def is_second_interrupt(self, number: int) -> bool:
        if not self.number:
            self.number, self._time = number, time.monotonic()
            return False
        return number == signal.SIGINT and time.monotonic() - self._time > self._window


@contextmanager
def stop_requests(*, may_end_process: bool = True) -> Iterator[StopRequests]:
    """Handle the signals that ask to stop.

    Until `defer` is called, nothing would be lost, and the first one raises `Stopped` in the main thread. After that
    signals are recorded. A second SIGINT ends the process in any case, by KeyboardInterrupt; a file being written then
    is not seen half written, for it is renamed into place.

    Python lets only the main thread handle signals: in another one they stay with whoever has them.

    Args:
        may_end_process: whether the process is ended where its main thread doesn't answer. False: of a program that has
            more to lose than the run, such as a notebook's kernel.
    """
    requests = StopRequests(DUPLICATE_WINDOW_S if is_launched() else 0.0)
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    with _watched(requests) if may_end_process else nullcontext(), _handled(requests):
        yield requests


@contextmanager
def _handled(requests: StopRequests) -> Iterator[None]:
    """Python's handlers of the signals, and the former ones at the end."""
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        for number in former:
            signal.signal(number, requests.handle)
        yield
    finally:
        for number, handler in former.items():
            if handler is not None:  # it was installed from C, and Python can't put it back
                signal.signal(number, handler)


@contextmanager
def _watched(requests: StopRequests) -> Iterator[None]:
    """A thread that learns of signals while the main thread can't handle them."""
    reading, writing = socket.socketpair()  # Windows takes no pipe that doesn't block before Python 3.12
    writing.setblocking(False)
    former_fd = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=requests.watch, args=(reading,), name="fastdcgan-signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former_fd)
        requests.mark_done()
        writing.close()
        watcher.join()
        reading.close()


def is_launched() -> bool:
    """Whether a launcher started this process, as one of several or as the only one."""
    return "RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
