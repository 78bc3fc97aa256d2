"""BatchNorm over two ranks is BatchNorm of the whole batch: results, gradients, statistics; and what it costs."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from ranks import Training, begin, on_ranks, share
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from twins import inputs

from fastdcgan.config import RecipeConfig
from fastdcgan.distributed.accelerator import ONE_BUCKET, SEVERAL_BUCKETS, Accelerator, wrap
from fastdcgan.distributed.collectives import first_difference
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import step_function
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.ranges import ALL_REDUCE
from fastdcgan.kernels import fused_batch_norm, sync_batch_norm
from fastdcgan.kernels.sync_batch_norm import SyncBatchNorm2d

RANKS = 2

SHAPES = ((4, 16, 5, 7), (2, 48, 1, 1), (16, 32, 13, 11))
"""Of the whole batch. The second leaves each rank a single pixel, of which alone there is no variance."""

needs_kernels = pytest.mark.skipif(not fused_batch_norm.available(), reason="needs g++ and x86-64")

MEANS = (0.0, 2000.0)
WAYS = [
    *(pytest.param("plain", shape, mean) for shape in SHAPES for mean in MEANS),
    *(pytest.param("fused", shape, mean, marks=needs_kernels) for shape in SHAPES for mean in MEANS),
    pytest.param("compiled", SHAPES[0], MEANS[1]),
]

Numbers = dict[str, Tensor]


def layers(C: int) -> nn.Sequential:
    rng = torch.Generator().manual_seed(C)
    norm = nn.BatchNorm2d(C)
    nn.init.normal_(norm.weight, 0.0, 1.0, generator=rng)
    nn.init.normal_(norm.bias, 0.0, 0.5, generator=rng)
    return nn.Sequential(norm, nn.LeakyReLU(0.2))


def pictures(shape: tuple[int, ...], seed: int, mean: float = 0.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randn(shape, generator=rng) + mean
    x_BCHW[: shape[0] // 2] += 3.0  # or the ranks' statistics would be almost those of the batch
    return x_BCHW.contiguous(memory_format=torch.channels_last)


def run(network: nn.Module, called: nn.Module, x_BCHW: Tensor, grad_BCHW: Tensor) -> Numbers:
    x_BCHW = x_BCHW.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out_BCHW = called(x_BCHW)
    out_BCHW.backward(grad_BCHW.to(out_BCHW.dtype))
    assert x_BCHW.grad is not None
    gradients = {f"grad.{name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"out": out_BCHW.detach(), "grad": x_BCHW.grad, **gradients, **dict(network.named_buffers())}


def ways_to_normalise(accelerator: Accelerator) -> dict[tuple[str, tuple[int, ...], float], Numbers]:
    found = {}
    for way, shape, mean in (parameters.values for parameters in WAYS):
        if way == "fused" and not fused_batch_norm.available():
            continue
        network = layers(shape[1])
        assert sync_batch_norm.install(network, RANKS) == 1
        assert fused_batch_norm.install(network) == 1 if way == "fused" else True
        called = torch.compile(network, backend="aot_eager", fullgraph=True) if way == "compiled" else network
        x_BCHW, grad_BCHW = (
            tensor.chunk(RANKS)[accelerator.process_index] for tensor in (pictures(shape, 1, mean), pictures(shape, 2))
        )
        found[way, shape, mean] = run(network, called, x_BCHW, grad_BCHW)
    return found


DEEP = Training(arch=architecture("dcgan64"), plan=Plan(), steps=1, batch=2)
COURSE = Training(arch=architecture("dcgan28"), plan=Plan(), steps=1, batch=4)
IN_PARTS = replace(COURSE, recipe=RecipeConfig(accumulate=2))
STACKED = replace(COURSE, plan=Plan(stacked=True))
WORKS = {"deep": DEEP, "deep, several buckets": DEEP, "course": COURSE, "in parts": IN_PARTS, "stacked": STACKED}


COLLECTIVES = ("gloo:all_reduce", ALL_REDUCE)


def collectives(accelerator: Accelerator, work: Training, bucket_mib: int = ONE_BUCKET) -> list[tuple[str, int]]:
    """Collectives and backward convolutions of an iteration, in order, with how many numbers a rank sends."""
    accelerator.ddp_handler.bucket_cap_mb = bucket_mib
    state = begin(work, RANKS, lambda network: wrap(accelerator, network))
    step = step_function(work.plan, state)
    real_BCHW, z_BL = (share(t, work, accelerator.process_index, RANKS) for t in inputs(work.arch, 0, work.batch))
    step(real_BCHW, z_BL)  # after the first backward DDP may sort its buckets anew
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step(real_BCHW, z_BL)
    events = sorted(profiler.events(), key=lambda event: event.time_range.start)
    return [
        (event.name, sum(torch.Size(shape).numel() for shape in event.input_shapes if shape))
        for event in events
        if event.name in (*COLLECTIVES, "aten::convolution_backward")
    ]


def planted_difference(accelerator: Accelerator) -> tuple[str | None, str | None]:
    tensors = {
        "same": torch.ones(3, 4),
        "count": torch.tensor(7),
        "bent": torch.linspace(0, 1, 7),
        "also": torch.ones(2),
    }
    before = first_difference(accelerator, tensors)
    if accelerator.process_index == 1:
        tensors["same"] = tensors["same"].T.contiguous().T  # another layout is no other tensor
        tensors["bent"][[2, 3]] = tensors["bent"][[3, 2]]
        tensors["also"] += 1
    return before, first_difference(accelerator, tensors)


def as_rank(accelerator: Accelerator) -> dict[str, object]:
    return {
        "norms": ways_to_normalise(accelerator),
        "deep": collectives(accelerator, DEEP),
        "deep, several buckets": collectives(accelerator, DEEP, SEVERAL_BUCKETS),
        "course": collectives(accelerator, COURSE),
        "in parts": collectives(accelerator, IN_PARTS),
        "stacked": collectives(accelerator, STACKED),
        "difference": planted_difference(accelerator),
    }


@cache
def results() -> list[dict[str, object]]:
    return on_ranks(RANKS, as_rank)


def distance(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth.double()).abs().max() / truth.double().abs().max().clamp(min=1e-30))


@pytest.mark.parametrize(("way", "shape", "mean"), WAYS, ids=str)
def test_two_ranks_normalise_as_one(way: str, shape: tuple[int, ...], mean: float) -> None:
    """As near to the truth in fp64 as PyTorch's own BatchNorm on the whole batch."""
    network, x_BCHW, grad_BCHW = layers(shape[1]), pictures(shape, 1, mean), pictures(shape, 2)
    exact = layers(shape[1]).double()
    wanted = run(network, network, x_BCHW, grad_BCHW)
    truth = run(exact, exact, x_BCHW.double(), grad_BCHW.double())
    ranks: list[Numbers] = [rank["norms"][way, shape, mean] for rank in results()]  # type: ignore[index]
    for name in truth:
        if name in ("out", "grad"):
            found = torch.cat([numbers[name] for numbers in ranks])
        elif name.startswith("grad."):  # each rank's own: their sum is the batch's
            found = sum((numbers[name] for numbers in ranks), torch.zeros(()))
        else:
            found = ranks[0][name]
            assert torch.equal(ranks[1][name], found), name
        bound = 1.5 * distance(wanted[name], truth[name]) + 8 * torch.finfo(torch.float32).eps
        assert distance(found, truth[name]) <= bound, name


def test_nothing_changes_for_one_process_or_in_evaluation() -> None:
    network, x_BCHW = layers(16), pictures((4, 16, 5, 7), 1)
    assert sync_batch_norm.install(network, 1) == 0
    assert type(network[0]) is nn.BatchNorm2d
    twin = layers(16)
    assert sync_batch_norm.install(twin, RANKS) == 1
    assert isinstance(twin[0], SyncBatchNorm2d)
    assert torch.equal(twin.eval()(x_BCHW), network.eval()(x_BCHW))  # although there is no process group
    assert twin.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("name", WORKS)
def test_collectives_of_an_iteration(name: str) -> None:
    """Each gradient once, whatever the number of micro-batches; each BatchNorm's sums once forward and once back."""
    work = WORKS[name]
    state = begin(work, 1, lambda network: network)
    G, D = state.generator, state.discriminator
    norms_g, norms_d = (sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (G, D))
    weights = sum(p.numel() for net in (G, D) for p in net.parameters())

    for rank in results():
        events: list[tuple[str, int]] = rank[name]  # type: ignore[assignment]
        gradients = [size for event, size in events if event == "gloo:all_reduce"]
        assert sum(gradients) == weights
        # On a CPU a network's together. Else DDP's first bucket closes above 1 MiB, the next above 25.
        assert len(gradients) == (4 if "several" in name else 2)
        # G once; D on real, on fake, and on fake again for G: forward and back
        calls_of_d = 2 if work.plan.stacked else 3
        added_up = [event for event, _ in events if event == ALL_REDUCE]
        assert len(added_up) == 2 * (norms_g + calls_of_d * norms_d) * work.recipe.accumulate


def test_all_reduces_overlap_the_backward_pass() -> None:
    """Not on a CPU: the first bucket is sent while layers further from the loss still run backward."""
    events: list[tuple[str, int]] = results()[0]["deep, several buckets"]  # type: ignore[assignment]
    large = [at for at, (event, size) in enumerate(events) if event == "gloo:all_reduce" and size > 100_000]
    backs = [at for at, (event, _) in enumerate(events) if event == "aten::convolution_backward"]
    first_of_d, first_of_g = large[0], large[2]
    assert sum(at > first_of_d for at in backs) > 0
    assert sum(at > first_of_g for at in backs) > 0


def test_a_tensor_that_differs_is_named_with_the_processes() -> None:
    for rank in results():
        before, found = rank["difference"]  # type: ignore[misc]
        assert before is None
        assert found == "bent on process 1 is not what it is on process 0"
