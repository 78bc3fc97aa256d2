"""A parallel `map` in threads that works ahead of its consumer."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    depth: int,
    weight_of: Callable[[Item], int] = lambda item: 0,
    max_weight: int = 0,
) -> Generator[Result]:
    """Yield `work(item)` for each of `items`, in order.

    An exception of `work` is raised in place of its result. Closing the generator, or an exception, cancels what has
    not begun and waits for the rest, so that no thread is left.

    Args:
        work: called in threads.
        items: consumed lazily, so it may be endless.
        threads: how many.
        depth: how many items are in work or waiting to be yielded.
        weight_of: an item's weight, for example in bytes.
        max_weight: bound of the total weight of the items in work or waiting; a single one may be heavier.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fastdcgan-data")
    pending: deque[tuple[Future[Result], int]] = deque()
    weight = 0
    try:
        for item in items:
            added = weight_of(item)
            while pending and weight + added > max_weight:
                weight -= pending[0][1]
                yield pending.popleft()[0].result()
            pending.append((pool.submit(work, item), added))
            weight += added
            if len(pending) > depth:
                weight -= pending[0][1]
                yield pending.popleft()[0].result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
