"""Work that goes on beside the steps, in one thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one piece of work at a time. What a piece raises comes up in the thread that gave it.

    At the interpreter's end a piece under way is waited for. A forked process has no part in it.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._under_way: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin with a piece of work, once the one before is done. Raises what the one before has raised."""
        self.wait()
        self._under_way = self._thread.submit(work)

    def check(self) -> None:
        """Raise what the last piece of work has raised, if it has ended so. Doesn't wait."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is under way. Raises what the last piece of work has raised, once."""
        last, self._under_way = self._under_way, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Wait as `wait` does, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
