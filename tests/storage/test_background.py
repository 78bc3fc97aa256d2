import threading

import pytest

from fastdcgan.storage.background import BackgroundWorker


def test_one_task_at_a_time_and_the_next_waits() -> None:
    work, go, done = BackgroundWorker("test"), threading.Event(), []

    def first() -> None:
        go.wait(10)
        done.append("first")

    work.start(first)
    work.check()
    assert not done, "what is under way is not waited for"
    threading.Timer(0.05, go.set).start()
    work.start(lambda: done.append("second"))
    assert done[0] == "first", "before the second begins"
    work.close()
    assert done == ["first", "second"]


@pytest.mark.parametrize("where", ["start", "check", "wait", "close"])
def test_an_exception_is_raised_once(where: str) -> None:
    work, ended = BackgroundWorker("test"), threading.Event()

    def fail() -> None:
        raise ValueError("the disk is full")

    work.start(fail)
    work._thread.submit(ended.set)
    ended.wait(10)
    with pytest.raises(ValueError, match="the disk is full"):
        work.start(lambda: None) if where == "start" else getattr(work, where)()
    if where != "close":
        work.check()
        work.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]


def test_nothing_to_wait_for() -> None:
    work = BackgroundWorker("test")
    work.check()
    work.wait()
    work.close()
