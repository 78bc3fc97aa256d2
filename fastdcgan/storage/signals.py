"""Being asked to stop, and doing so without losing anything."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = tuple(int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; what Slurm, Kubernetes and launchers send before they kill; what Slurm can be told to send earlier still."""

ECHO = 2.0
"""Seconds in which, below a launcher, a second SIGINT is the first: some pass on what the terminal sends to all."""

GRACE, AT_ONCE = 5.0, 1.0
"""Seconds that the main thread has to leave by itself: Python hears of a signal only when an operation has ended, and
one that waits for another process may take a day. The first time asked, and the second."""


class Stopped(BaseException):
    """The run was asked to stop, and nothing is lost. Arguments: what to say, and the signal's number.

    No `Exception`: it may be raised inside a library that goes on after those.
    """


class StopRequests:
    """What this process was asked, by signals."""

    def __init__(self, echo: float) -> None:
        self._echo = echo
        self._keeping = False
        self._done = threading.Event()
        self._heard, self._read = _Asked(), _Asked()

    def __call__(self) -> int:
        """The signal with which this process was first asked to stop, else 0."""
        return self._heard.number

    def keep(self) -> None:
        """From now on something would be lost: the caller looks whether it was asked, saves, and leaves by itself."""
        self._keeping = True

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal.

        Raises:
            Stopped: there is nothing to save.
            KeyboardInterrupt: asked by SIGINT for the second time.
        """
        again = self._heard.again(number, self._echo)
        if again:
            raise KeyboardInterrupt
        if not self._keeping and number == self._heard.number:
            raise Stopped("stopped before the first step was done: nothing is lost", number)

    def watch(self, signals: int) -> None:
        """See to it that the process leaves, whatever its main thread waits for.

        Args:
            signals: a descriptor that yields a byte a signal.
        """
        while numbers := os.read(signals, 64):
            for number in numbers:
                if number not in STOP_SIGNALS:
                    continue
                if self._read.again(number, self._echo):
                    self._leave(AT_ONCE, signal.SIGINT)
                elif not self._keeping:
                    self._leave(GRACE, self._read.number)

    def end(self) -> None:
        """The main thread has left."""
        self._done.set()

    def _leave(self, within: float, number: int) -> None:
        if not self._done.wait(within):
            os.write(2, b"fastdcgan: interrupted\n")
            os._exit(128 + number)


class _Asked:
    """How often a process was asked."""

    def __init__(self) -> None:
        self.number, self._since = 0, 0.0

    def again(self, number: int, echo: float) -> bool:
        """Whether this signal says: at once."""
        if not self.number:
            self.number, self._since = number, time.monotonic()
            return False
        return number == signal.SIGINT and time.monotonic() - self._since > echo


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listen to the signals that ask to stop.

    Until `keep` is called, nothing would be lost, and the first one ends the process: `Stopped` is raised where the
    main thread is. After that they are remembered. A second SIGINT ends the process in any case, by KeyboardInterrupt,
    and what it was writing is never half there for whoever reads it.
    """
    requests = StopRequests(ECHO if launched() else 0.0)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=requests.watch, args=(reading,), name="fastdcgan-signals", daemon=True)
    watcher.start()
    for number in before:
        signal.signal(number, requests.hear)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        requests.end()
        os.close(writing)
        watcher.join()
        os.close(reading)


def launched() -> bool:
    """Whether a launcher started this process, as one of several or as the only one."""
    return "RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
