"""A process for what would change PyTorch for all other tests."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


class OwnProcess:
    """Calls functions in another process, begun anew.

    Args:
        begin: what it does first.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=begin)

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns or raises there."""
        return self._pool.submit(function, *args).result()

    def close(self) -> None:
        """End it."""
        self._pool.shutdown()
