"""A group of ranks that train as one: `python -m benchmarks.ranks WORLD ARCH BATCH PLAN BATCH_NORM`.

This process is rank 0, starts the others, and passes on to them what it is asked: as `worker.py` it answers each line
on its standard input with a line of JSON. `step 5` takes five steps, `alone 5` has each take five by itself, all at the
same time, `batch 16` changes each rank's batch, `allreduce 1000 5` adds 1,000 numbers over the ranks five times,
`memory` asks what rank 0 needed. While the group waits each of its ranks is blocked in a read, so that it leaves the
machine to others.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial

from benchmarks.worker import peak_memory_mib
from fastdcgan.execution.plan import Plan

END, STEP, ALONE, BATCH, ALLREDUCE = range(5)
"""What rank 0 can tell the others to do."""


def command(world: int, arch: str, batch: int, plan: Plan, batch_norm: str = "local") -> list[str]:
    """The command line of a group; the batch is each rank's."""
    plan_json = json.dumps(asdict(plan))
    return [sys.executable, "-m", "benchmarks.ranks", str(world), arch, str(batch), plan_json, batch_norm]


class Rank:
    """One of the group: does what all do at the same time."""

    def __init__(self, arch_name: str, batch: int, plan: Plan, batch_norm: str) -> None:
        import torch

        from fastdcgan.config import ExecutionConfig, RecipeConfig
        from fastdcgan.distributed.accelerator import join, wrap
        from fastdcgan.execution.prepare import prepare, step_function
        from fastdcgan.gan import models
        from fastdcgan.gan.architecture import architecture
        from fastdcgan.kernels import sync_batch_norm

        self._arch = architecture(arch_name)
        self._accelerator = join(ExecutionConfig(device="cpu", threads=plan.threads))
        self._device = torch.device("cpu")
        networks = models.build(self._arch, seed=0)
        if batch_norm == "sync":
            for network in networks:
                sync_batch_norm.install(network, self._accelerator.num_processes)
        state = self._state = prepare(
            plan,
            *networks,
            RecipeConfig(),
            self._device,
            wrap=partial(wrap, self._accelerator),
        )
        self._plan, self._take_step = plan, step_function(plan, state)
        self.do(BATCH, batch, 0)

    def tell(self, order: int, first: int, second: int) -> float:
        """Rank 0: have all do it. Returns the seconds it took."""
        self._shared(order, first, second)
        return self.do(order, first, second)

    def follow(self) -> None:
        """The others: do what rank 0 says until it says to end."""
        while (order := self._shared(END, 0, 0))[0] != END:
            self.do(*order)

    def do(self, order: int, first: int, second: int) -> float:
        """Returns the seconds it took, from the moment that all began until all were done."""
        import torch

        from fastdcgan.tuning.implementations import random_batch

        if order == END:
            return 0.0
        if order == BATCH:
            real_BCHW, z_BL = random_batch(self._arch, first, self._device, seed=self._accelerator.process_index)
            self._batch = real_BCHW.contiguous(memory_format=torch.channels_last), z_BL
            return 0.0
        if order == STEP:
            return self._timed(lambda: self._take_step(*self._batch), first)
        if order == ALONE:
            with self._without_sharing():
                return self._timed(lambda: self._take_step(*self._batch), first)
        numbers = torch.ones(first)
        # They may grow to infinity: adding takes as long.
        return self._timed(lambda: torch.distributed.all_reduce(numbers), second)

    @contextmanager
    def _without_sharing(self) -> Iterator[None]:
        from torch.nn.parallel import DistributedDataParallel

        assert not self._plan.replay, "its all-reduces are recorded"
        with ExitStack() as contexts:
            for network in (self._state.call_generator, self._state.call_discriminator):
                if isinstance(network, DistributedDataParallel):
                    contexts.enter_context(network.no_sync())
            yield

    def _timed(self, act: Callable[[], object], times: int) -> float:
        self._accelerator.wait_for_everyone()
        start = time.perf_counter()
        for _ in range(times):
            act()
        self._accelerator.wait_for_everyone()
        return time.perf_counter() - start

    def _shared(self, *order: int) -> tuple[int, int, int]:
        import torch

        told = torch.tensor(order)
        if self._accelerator.num_processes > 1:
            torch.distributed.broadcast(told, 0)
        first, second, third = told.tolist()
        return first, second, third


def main(world: str, arch: str, batch: str, plan: str, batch_norm: str) -> None:
    """Rank 0 begins the others and serves; another follows."""
    if "RANK" in os.environ:
        Rank(arch, int(batch), Plan(**json.loads(plan)), batch_norm).follow()
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ExitStack() as others, os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not come between the answers
        for rank in range(1, int(world)):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            others.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.ranks", *sys.argv[1:]],
                    env=os.environ | place | numbers,
                    stdin=subprocess.DEVNULL,
                )
            )
        if int(world) > 1:
            os.environ.update(place | {"RANK": "0", "LOCAL_RANK": "0"})
        first = Rank(arch, int(batch), Plan(**json.loads(plan)), batch_norm)
        print(json.dumps({"warm_up_seconds": first.tell(STEP, 1, 0)}), file=answers)
        for line in sys.stdin:
            match line.split():
                case ["step", count]:
                    print(json.dumps({"seconds": first.tell(STEP, int(count), 0)}), file=answers)
                case ["alone", count]:
                    print(json.dumps({"seconds": first.tell(ALONE, int(count), 0)}), file=answers)
                case ["batch", size]:
                    print(json.dumps({"seconds": first.tell(BATCH, int(size), 0)}), file=answers)
                case ["allreduce", numbers_each, count]:
                    seconds = first.tell(ALLREDUCE, int(numbers_each), int(count))
                    print(json.dumps({"seconds": seconds}), file=answers)
                case ["memory"]:
                    print(json.dumps({"peak_memory_mib": peak_memory_mib()}), file=answers)
                case _:
                    raise ValueError(f"not a request: {line!r}")
        first.tell(END, 0, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
