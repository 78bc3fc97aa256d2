"""The replayed step against the same operators run eagerly, bit for bit, through a stand-in for a CUDA graph."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from recorded import RecordedGraph
from torch import Tensor
from twins import inputs, narrow

from fastdcgan.config import ExecutionConfig, ObjectiveName, RecipeConfig
from fastdcgan.data.array import ArraySource, DeviceSource
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.execution.accumulate import accumulated_train_step
from fastdcgan.execution.plan import Plan, choose_plan
from fastdcgan.execution.prepare import prepare
from fastdcgan.execution.replay import Replayed, ReplayedStep, gradients_averaged
from fastdcgan.gan import models
from fastdcgan.gan.step import StepMetrics, TrainState, train_step
from fastdcgan.runs.checkpoints.tensors import moments, restore_moments

CPU = torch.device("cpu")


def made(
    name: str = "dcgan28",
    accumulate: int = 1,
    stacked: bool = False,
    objective: ObjectiveName = "bce",
    device: torch.device = CPU,
    replayed: bool = False,
) -> TrainState:
    plan = Plan(stacked=stacked, replay=replayed and device.type == "cuda")
    return prepare(
        plan, *models.build(narrow(name), seed=0), RecipeConfig(accumulate=accumulate, objective=objective), device
    )


def replayed(state: TrainState, take_step=train_step) -> ReplayedStep:  # type: ignore[no-untyped-def]
    return ReplayedStep(state, take_step, RecordedGraph)


def numbers(state: TrainState) -> list[Tensor]:
    tensors = [*state.generator.state_dict().values(), *state.discriminator.state_dict().values()]
    for optimizer in (state.optimizer_g, state.optimizer_d):
        for of_parameter in optimizer.state.values():
            tensors += of_parameter.values()
    return [tensor.detach().clone() for tensor in tensors]


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@pytest.mark.parametrize(
    ("name", "accumulate", "stacked", "objective"),
    [
        ("dcgan28", 1, False, "bce"),
        ("dcgan64", 1, False, "hinge"),
        ("dcgan28", 2, False, "lsgan"),
        ("dcgan28", 1, True, "minimax"),
        ("dcgan28", 1, False, "rpgan"),
    ],
)
def test_replay_computes_what_eager_does(name: str, accumulate: int, stacked: bool, objective: ObjectiveName) -> None:
    plain, other = (made(name, accumulate, stacked, objective) for _ in range(2))
    take_step = train_step if accumulate == 1 else accumulated_train_step
    step = replayed(other, take_step)
    kept: list[tuple[StepMetrics, StepMetrics]] = []
    for number in range(3):
        batch = inputs(narrow(name), number)
        kept.append((step(*batch), take_step(plain, *batch)))
        assert same(numbers(other), numbers(plain)), number
    assert all(same(list(found), list(wanted)) for found, wanted in kept), "metrics are not those of their own step"


def test_loading_a_state_between_steps() -> None:
    plain, other = made(), made()
    step = replayed(other)
    for number in range(4):
        if number == 2:  # as a rollback or a resume does: the optimizer's tensors are replaced
            for network, optimizer, source, source_optimizer in (
                (other.generator, other.optimizer_g, plain.generator, plain.optimizer_g),
                (other.discriminator, other.optimizer_d, plain.discriminator, plain.optimizer_d),
            ):
                network.load_state_dict(source.state_dict())
                saved = {name: x.clone() for name, x in moments("n", source, source_optimizer).items()}
                restore_moments("n", saved, network, optimizer)
        batch = inputs(narrow("dcgan28"), number)
        step(*batch)
        train_step(plain, *batch)
    assert same(numbers(other), numbers(plain))


def test_a_number_read_on_the_host_is_an_error() -> None:
    def reads(state: TrainState, real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
        metrics = train_step(state, real_BCHW, z_BL)
        metrics.loss_d.item()
        return metrics

    with pytest.raises(RuntimeError, match="read on the host"):
        replayed(made(), reads)(*inputs(narrow("dcgan28")))


def test_the_stand_in_bakes_in_what_the_host_computed() -> None:
    count = 0

    def counts(state: TrainState, real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
        nonlocal count
        count += 1
        return train_step(state, real_BCHW * (1 + count), z_BL)

    batch = inputs(narrow("dcgan28"))
    plain, baked = made(), made()
    step = replayed(baked, counts)
    first = step(*batch)
    recorded = count
    step(*batch)
    assert count == recorded, "Python ran in a replay"
    assert not torch.equal(first.loss_d, train_step(plain, *batch).loss_d)


def test_replay_is_asked_for_by_name_where_it_can_be() -> None:
    device = torch.device("cuda")
    plan = choose_plan(ExecutionConfig(compile="replay", precision="bf16"), device)
    assert plan == Plan(precision="bf16", replay=True) and "replayed" in str(plan)
    assert choose_plan(ExecutionConfig(compile="replay", precision="bf16"), device, world_size=2) == plan
    for request, where, words in (
        (ExecutionConfig(compile="replay"), torch.device("mps"), "on mps: use --compile auto"),
        (ExecutionConfig(compile="replay", precision="fp16"), device, "fp16"),
    ):
        with pytest.raises(ValueError, match=f"--compile replay .*{words}"):
            choose_plan(request, where)


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_real_graph(accumulate: int) -> None:
    device = torch.device("cuda")
    plain, other = (made("dcgan64", accumulate, device=device, replayed=True) for _ in range(2))
    take_step = train_step if accumulate == 1 else accumulated_train_step
    step = ReplayedStep(other, take_step)
    batches = [tuple(x.to(device) for x in inputs(narrow("dcgan64"), number)) for number in range(3)]
    for number, (real_BCHW, z_BL) in enumerate(batches):
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            metrics = step(real_BCHW, z_BL)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(metrics, take_step(plain, real_BCHW, z_BL), rtol=1e-3, atol=1e-4)


def replay_as_rank(rank: int, folder: str) -> None:
    """One process of two, each with a GPU: replays against eager steps whose gradients are averaged likewise."""
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    plain, other = (made("dcgan64", device=device, replayed=True) for _ in range(2))
    step = ReplayedStep(other, train_step)
    for number in range(3):
        real_BCHW, z_BL = (x.chunk(2)[rank].to(device) for x in inputs(narrow("dcgan64"), number))
        with gradients_averaged(plain):
            wanted = train_step(plain, real_BCHW, z_BL)
        torch.testing.assert_close(step(real_BCHW, z_BL), wanted, rtol=1e-3, atol=1e-4)
    weights = torch.cat([parameter.detach().flatten() for parameter in other.generator.parameters()])
    both = [torch.empty_like(weights) for _ in range(2)]
    dist.all_gather(both, weights)
    assert torch.equal(*both), "ranks have other weights"
    dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_real_graph_on_two_gpus(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(replay_as_rank, (str(tmp_path),), 2)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_of_pictures_on_the_device_are_recorded(flip: bool, ranks: int) -> None:
    """The same pictures bit for bit, in the same layout, over more than an epoch."""
    pictures_NHWC = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), np.uint8)
    source = ArraySource(pictures_NHWC, description="", origin="", fingerprint="")
    graphs: list[RecordedGraph] = []

    def make_graph() -> RecordedGraph:
        graphs.append(RecordedGraph())
        return graphs[-1]

    batching = Batching(seed=3, global_batch=16, rank=ranks - 1, world_size=ranks, flip=flip)
    plain = real_batches(source, batching, CPU, 2)
    record = partial(Replayed, make_graph=make_graph)
    recorded = real_batches(DeviceSource(source, CPU), batching, CPU, 2, record)
    for number in range(7):
        found_BCHW, wanted_BCHW = next(recorded), next(plain)
        assert torch.equal(found_BCHW, wanted_BCHW), number
        assert found_BCHW.stride() == wanted_BCHW.stride()
    assert len(graphs) == 1, "recorded anew"
