"""Memory that all ranks of a run share, if they are on one machine: through it they add up tensors on the CPU.

Gloo's messages pass through TCP. Between two ranks on two cores the smallest takes 0.35 ms, and the gradients of
dcgan64 20 ms a step; here they take microseconds, and as long as it takes to copy them.

Each rank has a place, and two counters that it alone changes: how often it has written its numbers, and how often it
has read those of all. Whoever sees a counter change finds what was written before: on x86-64, where stores are seen in
their order. Sums are added up in the order of the ranks, so all get the same bits.
"""

import mmap
import os
import platform
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from fastdcgan.private_torch import collective_timeout
from fastdcgan.storage.processes import has_ended

_MAX_RANKS = 16
"""Each reads the numbers of all: with more, other algorithms are faster."""

SPIN_SECONDS = 0.05
"""How long a rank polls for another before it sleeps in between: waking takes longer than most waits."""

_LOOK_SECONDS = 0.1
"""How often a rank that waits looks whether the other one is still there."""

_LINE = 64
"""Bytes between counters, a cache line."""

yield_core = getattr(os, "sched_yield", partial(time.sleep, 0))  # Windows has no sched_yield


def is_possible() -> bool:
    """Whether processes of this machine can share memory so: it is for Linux on x86-64."""
    return hasattr(os, "memfd_create") and platform.machine() == "x86_64"


class SharedMemory:
    """A place for each rank, all in one memory.

    Args:
        file: of the memory, open.
        rank: this one.
        pids: of all ranks.
        capacity: bytes of a place.
        timeout: seconds after which a rank that doesn't answer is given up.
    """

    def __init__(self, file: int, rank: int, pids: list[int], capacity: int, timeout: float) -> None:
        self._rank, self._pids, self._timeout = rank, pids, timeout
        self.capacity = capacity
        self._mapped = mmap.mmap(file, _size(len(pids), capacity))
        self._counters = memoryview(self._mapped).cast("q")
        begin = _counters_size(len(pids))
        self._places_RN = torch.frombuffer(self._mapped, dtype=torch.uint8, offset=begin).view(len(pids), capacity)
        self._uses = 0

    def add_up(self, total: Tensor, own: Tensor) -> None:
        """Write the sum of all ranks' tensors to `total`; all are contiguous, of the same shape and dtype."""
        (places_RN,) = self._views([own])
        self._exchange(
            lambda: places_RN[self._rank].copy_(own.flatten()),
            lambda: torch.sum(places_RN, 0, out=total.view(-1)),
        )

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all ranks. They are contiguous, or a permutation of theirs is."""
        flat = [tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors]
        views = self._views(flat)
        share = 1 / len(self._pids)

        def write() -> None:
            for places_RN, own_N in zip(views, flat, strict=True):
                torch.mul(own_N, share, out=places_RN[self._rank])

        def read() -> None:
            for places_RN, own_N in zip(views, flat, strict=True):
                torch.sum(places_RN, 0, out=own_N)

        self._exchange(write, read)

    def _views(self, tensors: list[Tensor]) -> list[Tensor]:
        """Of each tensor's place at all ranks, [R, N]."""
        views, end = [], 0
        for tensor in tensors:
            begin, end = end, end + tensor.nbytes
            views.append(self._places_RN[:, begin:end].view(tensor.dtype))
        return views

    def _exchange(self, write: Callable[[], object], read: Callable[[], object]) -> None:
        """Have all ranks write, and then read what all have written."""
        written, has_read = 1, 1 + len(self._pids)
        self._wait(has_read, self._uses)
        self._uses += 1
        write()
        self._counters[(written + self._rank) * _LINE // 8] = self._uses
        self._wait(written, self._uses)
        read()
        self._counters[(has_read + self._rank) * _LINE // 8] = self._uses

    def _wait(self, first: int, count: int) -> None:
        """Until this counter of each rank has come to `count`."""
        for rank in range(len(self._pids)):
            if self._counters[(first + rank) * _LINE // 8] < count:
                self._wait_for(rank, (first + rank) * _LINE // 8, count)

    def _wait_for(self, rank: int, counter: int, count: int) -> None:
        start = time.perf_counter()
        look_at = start + _LOOK_SECONDS
        while self._counters[counter] < count:
            now = time.perf_counter()
            if now < start + SPIN_SECONDS:
                yield_core()
                continue
            time.sleep(0.0005)
            if now > look_at:
                look_at = now + _LOOK_SECONDS
                if has_ended(self._pids[rank]) and self._counters[counter] < count:
                    raise dist.DistError(f"Connection closed: rank {rank} has ended")
            if now > start + self._timeout:
                raise dist.DistError(f"rank {rank} did not answer for {self._timeout:g} s")


def open_together(group: dist.ProcessGroup, capacity: int) -> SharedMemory | None:
    """Shared memory of a group, with so many bytes for each rank. All ranks must call this at the same time.

    Returns:
        None, for all of them, if one can't have it.
    """
    rank, ranks = group.rank(), group.size()
    may_share = _may_share(ranks)
    created = _create(ranks, capacity) if may_share and rank == 0 else None
    places: list[Any] = [None] * ranks
    dist.all_gather_object(places, (may_share, os.getpid(), created))
    _, first_pid, offered = places[0]
    file = created[0] if created else _open(first_pid, *offered) if may_share and offered else None
    have_it: list[Any] = [None] * ranks
    dist.all_gather_object(have_it, file is not None)
    try:
        if not all(have_it):
            return None
        assert file is not None
        with torch.inference_mode(False):
            return SharedMemory(file, rank, [pid for _, pid, _ in places], capacity, collective_timeout(group))
    finally:
        if file is not None:
            os.close(file)


def _may_share(ranks: int) -> bool:
    """Whether all ranks are here, as far as the launcher has said, and this machine can do it."""
    return is_possible() and ranks <= _MAX_RANKS and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == ranks


def _create(ranks: int, capacity: int) -> tuple[int, bytes] | None:
    """A new memory, as an open file, and a word in it by which it is known; None if there is none left."""
    word = secrets.token_bytes(16)
    try:
        file = os.memfd_create("fastdcgan")
    except OSError:
        return None
    try:
        # Reserved, as to write where there is no memory left would end the process.
        os.posix_fallocate(file, 0, _size(ranks, capacity))
        os.pwrite(file, word, 0)
    except OSError:
        os.close(file)
        return None
    return file, word


def _open(pid: int, file: int, word: bytes) -> int | None:
    """The file that another process has open; None if it is out of reach."""
    try:
        opened = os.open(f"/proc/{pid}/fd/{file}", os.O_RDWR)
    except OSError:
        return None
    if os.pread(opened, len(word), 0) == word:
        return opened
    os.close(opened)
    return None


def _counters_size(ranks: int) -> int:
    """Bytes before the places: a line for the word, and two counters for each rank."""
    return (1 + 2 * ranks) * _LINE


def _size(ranks: int, capacity: int) -> int:
    return _counters_size(ranks) + ranks * capacity
