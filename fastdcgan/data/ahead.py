"""Work done in threads, a little ahead of the one who waits for it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int) -> Generator[Result]:
    """Yield `work(item)` for each of `items`, in their order, computed by `threads` threads.

    `items` is consumed lazily, `ahead` of what is yielded. Whatever `work` raises is raised where its result was due.
    Closing the generator, or an exception, drops what has not begun and waits for the rest, so no thread is left.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fastdcgan-data")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
