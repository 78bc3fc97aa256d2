"""Work done in threads, a little ahead of the one who waits for it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    weigh: Callable[[Item], int] = lambda item: 0,
    most: int = 0,
) -> Generator[Result]:
    """Yield `work(item)` for each of `items`, in their order, computed by `threads` threads.

    `items` is consumed lazily, `ahead` of what is yielded; fewer where those under way would weigh more than `most`
    together, but always one. Whatever `work` raises is raised where its result was due.
    Closing the generator, or an exception, drops what has not begun and waits for the rest, so no thread is left.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fastdcgan-data")
    waiting: deque[tuple[Future[Result], int]] = deque()
    weight = 0
    try:
        for item in items:
            added = weigh(item)
            while waiting and weight + added > most:
                weight -= waiting[0][1]
                yield waiting.popleft()[0].result()
            waiting.append((pool.submit(work, item), added))
            weight += added
            if len(waiting) > ahead:
                weight -= waiting[0][1]
                yield waiting.popleft()[0].result()
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
