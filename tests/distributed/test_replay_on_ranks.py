"""Steps that several processes record and repeat, and the memory through which those of one machine add up."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import ALONE, Accelerator, Result, Training, on_ranks, train

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.kernels import all_reduce, shared_memory, winograd
from fastdcgan.kernels.shared_memory import SharedMemory, open_together

RANKS = 2
needs_shared_memory = pytest.mark.skipif(not shared_memory.is_possible(), reason="it is for Linux on x86-64")
REPLAYED = Plan(
    stacked=True, replay=True, kernels=("ends", "norm", "thin", "winograd") if winograd.available() else ("ends",)
)
PLAIN = Training(arch=architecture("dcgan28", width=32), plan=REPLAYED, steps=4, batch=8)
WORKS = {
    "plain": PLAIN,
    "each rank's BatchNorm": replace(PLAIN, batch_norm="local"),
    "in parts": replace(PLAIN, recipe=RecipeConfig(accumulate=2)),
    "LeCam": replace(PLAIN, recipe=RecipeConfig(lecam=0.01)),
    "penalised": replace(PLAIN, recipe=RecipeConfig(r1=1.0, r1_every=2)),
}
COMPRESSED = {"compressed": replace(PLAIN, compressed=True)}


def without_shared_memory() -> None:
    """As if the launcher had said that each process has a machine of its own."""
    os.environ["LOCAL_WORLD_SIZE"] = "1"


def train_both_ways(
    accelerator: Accelerator, works: dict[str, Training], shares: bool
) -> dict[str, tuple[Result, Result]]:
    if not shares:
        without_shared_memory()
    return {
        name: (train(work, accelerator), train(replace(work, plan=replace(work.plan, replay=False)), accelerator))
        for name, work in works.items()
    }


@cache
def trained(*, shares: bool) -> list[dict[str, tuple[Result, Result]]]:
    uncompressed = on_ranks(RANKS, train_both_ways, WORKS, shares)
    compressed = on_ranks(RANKS, train_both_ways, COMPRESSED, shares, request=replace(ALONE, compress_gradients="bf16"))
    return [one | other for one, other in zip(uncompressed, compressed, strict=True)]


@pytest.mark.parametrize("shares", [True, False], ids=["shared memory", "gloo"])
@pytest.mark.parametrize("name", [*WORKS, *COMPRESSED])
def test_a_replay_is_bit_for_bit_the_step_that_ddp_takes(name: str, shares: bool) -> None:
    first, second = (rank[name] for rank in trained(shares=shares))
    replayed, stepped = first
    assert all(torch.equal(stepped[key], value) for key, value in replayed.items())
    weights = [key for key in replayed if key.endswith("weight")]
    assert weights and all(torch.equal(replayed[key], second[0][key]) for key in weights)


def sums_and_means(accelerator: Accelerator, shares: bool) -> dict[str, Any]:
    if not shares:
        without_shared_memory()
    rank = accelerator.process_index
    found: dict[str, Any] = {"sums": [], "means": [], "shares": False}
    for size in (3, 5, 70_000, 3):  # through one memory, then a larger one, then the first again
        found["sums"].append(all_reduce.all_reduce_sum(own(rank, size)))
        weight = own(rank, size * 32).view(size, 2, 4, 4).to(memory_format=torch.channels_last)
        bias = own(rank, 7)
        found["shares"] = all_reduce.average_through_memory([weight, bias])
        found["means"].append((weight, bias))
    return found


def own(rank: int, size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(100 * rank + size))


@needs_shared_memory
@pytest.mark.parametrize("ranks", [2, 3])
def test_sums_and_means_are_those_of_all_ranks_and_the_same_bits(ranks: int) -> None:
    found = on_ranks(ranks, sums_and_means, True)
    for number, size in enumerate((3, 5, 70_000, 3)):
        of_all = torch.stack([own(rank, size) for rank in range(ranks)])
        weights = torch.stack([own(rank, size * 32) for rank in range(ranks)])
        for rank in found:
            assert rank["shares"]
            torch.testing.assert_close(rank["sums"][number], of_all.sum(0))
            weight, bias = rank["means"][number]
            torch.testing.assert_close(weight.contiguous().view(-1), weights.mean(0))
            torch.testing.assert_close(bias, torch.stack([own(r, 7) for r in range(ranks)]).mean(0))
            assert weight.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(weight, found[0]["means"][number][0])


def one_after_the_other(accelerator: Accelerator) -> int:
    """How many of 300 sums, which follow one another at once, have a wrong number."""
    wrong = 0
    for number in range(300):
        found = all_reduce.all_reduce_sum(torch.full((10_000,), float(number + accelerator.process_index)))
        wrong += not torch.equal(found, torch.full((10_000,), 2.0 * number + 1))
    return wrong


@needs_shared_memory
def test_no_rank_writes_while_another_one_still_reads() -> None:
    assert on_ranks(2, one_after_the_other) == [0, 0]


def test_without_it_sums_pass_through_gloo() -> None:
    for rank in on_ranks(2, sums_and_means, False):
        assert not rank["shares"]
        for number, size in enumerate((3, 5, 70_000, 3)):
            torch.testing.assert_close(rank["sums"][number], own(0, size) + own(1, size))


def one_is_out_of_reach(accelerator: Accelerator) -> bool:
    if accelerator.process_index == 1:
        shared_memory._open = lambda *_: None
    assert dist.group.WORLD is not None
    return open_together(dist.group.WORLD, 64) is None


@needs_shared_memory
def test_where_one_rank_cannot_have_it_none_does() -> None:
    assert on_ranks(2, one_is_out_of_reach) == [True, True]


def leaves(accelerator: Accelerator, how: str) -> str:
    assert dist.group.WORLD is not None
    memory = open_together(dist.group.WORLD, 64)
    assert isinstance(memory, SharedMemory)
    if accelerator.process_index == 1:
        if how == "hangs":
            time.sleep(6)
        return ""
    memory._timeout = 2
    if how == "ends":
        time.sleep(1)
        memory._pids[1] = ended_process()
    try:
        memory.add_up(torch.zeros(2), torch.ones(2))
    except dist.DistError as error:
        return str(error)
    return "nothing was raised"


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@needs_shared_memory
@pytest.mark.parametrize(("how", "message"), [("ends", "rank 1 has ended"), ("hangs", "rank 1 did not answer for 2 s")])
def test_a_rank_that_is_lost_is_not_waited_for(how: str, message: str) -> None:
    assert message in on_ranks(2, leaves, how)[0]
