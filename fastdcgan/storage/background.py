"""One background thread, for work that goes on beside the training steps."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWorker:
    """Runs one task at a time in a thread. What a task raises is raised again in the thread that started it.

    At interpreter exit a task that is running is waited for. A forked child has no such thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._task: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Wait for the task before, then start this one. Raises what the task before has raised."""
        self.wait()
        self._task = self._thread.submit(work)

    def check(self) -> None:
        """Raise what the last task has raised, if it has ended. Doesn't wait."""
        if self._task is not None and self._task.done():
            self.wait()

    def wait(self) -> None:
        """Wait until no task is running. Raises what the last one has raised, once."""
        last, self._task = self._task, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Wait as `wait` does, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
