"""The captured iteration is the reference's: same criteria as `test_parity.py`, and what only a graph can get wrong."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import torch.distributed as dist
from left_behind import array
from small_states import load, save
from test_parity import OBJECTIVES, check_in_fp32, check_in_fp64, distance, doubled, needs_compiler, run
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
from torch.utils.flop_counter import FlopCounterMode
from twins import (
    ARCHITECTURES,
    CPU,
    errors,
    inputs,
    moments,
    narrow,
    numbers,
    plan_twin,
    reference_twin,
    worst,
)

from fastdcgan.config import ExecutionConfig, ObjectiveName, RecipeConfig
from fastdcgan.execution import capture
from fastdcgan.execution.capture import CapturedStep
from fastdcgan.execution.plan import Plan, choose_plan
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import models, reference
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.step import StepMetrics, TrainState, train_step
from fastdcgan.limits.roofline import iteration_flops, pass_flops
from fastdcgan.private_torch import functional_all_reduce_sum
from fastdcgan.runs.checkpoints.folder import list_checkpoints
from fastdcgan.runs.checkpoints.record import Progress

TRACED = Plan(backend="eager", capture=True)  # Dynamo's graph, run as it is: the cheapest check of what was captured
LOWERED = Plan(backend="aot_eager", capture=True)
INDUCTOR = Plan(backend="inductor", capture=True)

TINY = architecture("dcgan16", width=4, latent_dim=6)
"""For what does not depend on the geometry: tracing takes most of the time."""


def fresh(plan: Plan, recipe: RecipeConfig | None = None, device: torch.device = CPU) -> TrainState:
    return prepare(plan, *models.build(TINY, seed=0), recipe or RecipeConfig(), device)


def layers_last(step: int = 0) -> tuple[Tensor, Tensor]:
    real_BCHW, z_BL = inputs(TINY, step)
    return real_BCHW.contiguous(memory_format=torch.channels_last), z_BL


def everything(state: TrainState) -> dict[str, Tensor]:
    """All that a checkpoint keeps."""
    networks = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    return {
        f"{label}.{name}": tensor.detach().clone()
        for label, network, _ in networks
        for name, tensor in network.state_dict().items()
    } | {
        f"{key}.{name}": tensor
        for key in ("step", "exp_avg", "exp_avg_sq")
        for name, tensor in moments(*networks, key=key).items()
    }


# --- Parity -----------------------------------------------------------------------------------------------------------


def test_traced_in_fp64() -> None:
    """Of the other architectures what is traced is lowered below."""
    check_in_fp64(narrow("dcgan32"), TRACED)


@pytest.mark.parametrize(
    "name", ["dcgan32", *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "dcgan32")]
)
def test_traced_in_fp32(name: str) -> None:
    check_in_fp32(narrow(name), TRACED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("dcgan28", "dcgan32", "dcgan64x128") else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in ARCHITECTURES
    ],
)
def test_lowered_in_fp64(name: str) -> None:
    check_in_fp64(narrow(name), LOWERED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "smoothing"),
    # hinge has no labels to smooth; the configuration refuses it
    [
        (objective, smoothing)
        for objective in OBJECTIVES
        for smoothing in ((0.0,) if objective == "hinge" else (0.0, 0.1))
    ],
)
def test_every_objective(objective: ObjectiveName, smoothing: float) -> None:
    recipe = RecipeConfig(objective=objective, label_smoothing=smoothing)
    twin = doubled(reference_twin(TINY, recipe))
    found = run(doubled(plan_twin(TINY, twin, TRACED, recipe)), TINY, 3, double=True)
    wanted = run(twin, TINY, 3, double=True)
    metrics = {key for key in wanted if key in StepMetrics._fields}
    assert worst({key: value for key, value in errors(found, wanted).items() if key in metrics})[0] <= 1e-6
    assert worst({key: value for key, value in errors(found, wanted).items() if key not in metrics})[0] <= 1e-10


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", ["dcgan28", pytest.param("dcgan32", marks=pytest.mark.exhaustive)])  # both layouts
def test_inductor_in_fp64(name: str) -> None:
    check_in_fp64(narrow(name), INDUCTOR)


@pytest.mark.slow
@pytest.mark.exhaustive
@needs_compiler
def test_inductor_in_fp32() -> None:
    check_in_fp32(narrow("dcgan28"), INDUCTOR)


def check_in_bf16(arch: Architecture, plan: Plan) -> None:
    """It errs as the reference does under autocast, or as the eager plan does; D's bf16 weights are cast anew for G."""
    twin = reference_twin(arch)
    truth = run(doubled(reference_twin(arch)), arch, 1, double=True)
    fast = plan_twin(arch, twin, plan)
    found = run(fast, arch, 1)
    wanted = run(reference_twin(arch, autocast=True), arch, 1)
    eager = run(plan_twin(arch, reference_twin(arch), Plan(precision="bf16")), arch, 1)
    for prefix in ("loss", "grad.D", "grad.G"):
        known = max(1.5 * distance(wanted, truth, prefix), 1.01 * distance(eager, truth, prefix))
        assert distance(found, truth, prefix) <= max(1e-3, known), prefix
    full, half = twin.step(*inputs(arch)), found
    assert half["loss_g"].item() == pytest.approx(full["loss_g"].item(), rel=0.05)


@pytest.mark.parametrize(
    "name", ["dcgan32", *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "dcgan32")]
)
def test_bf16_errs_no_more_than_the_reference_under_autocast(name: str) -> None:
    check_in_bf16(narrow(name), Plan(precision="bf16", backend="eager", capture=True))


@pytest.mark.slow
@pytest.mark.exhaustive
@needs_compiler
def test_inductor_in_bf16() -> None:
    check_in_bf16(narrow("dcgan28"), Plan(precision="bf16", backend="inductor", capture=True))


@pytest.mark.slow
@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.9), (0.9, 0.5), (0.5, 0.99999)])
def test_adam_is_pytorchs(beta1: float, beta2: float) -> None:
    recipe = RecipeConfig(beta1=beta1, beta2=beta2, lr=3e-3)
    eager = Plan(fused_adam=False)
    ours, theirs = fresh(TRACED, recipe), fresh(eager, recipe)
    for state in (ours, theirs):
        state.generator.double()
        state.discriminator.double()
    step = CapturedStep(ours, "eager")
    for number in range(4):
        real_BCHW, z_BL = layers_last(number)
        step(real_BCHW.double(), z_BL.double())
        train_step(theirs, real_BCHW.double(), z_BL.double())
    assert worst(errors(everything(ours), everything(theirs)))[0] <= 1e-10


# --- The graph --------------------------------------------------------------------------------------------------------


@dataclass
class Compiler:
    """A backend that runs the graph as it is, and remembers what it was given."""

    graphs: list[torch.fx.GraphModule] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)
    """Inputs whose address a CUDA graph may rely on."""

    changed: set[int] = field(default_factory=set)
    """Inputs that are changed in place."""

    flops: int = 0

    def __call__(self, module: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        return aot_module_simplified(module, example, fw_compiler=self._lowered)

    def _lowered(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        facts = torch._guards.TracingContext.get().fw_metadata
        assert facts is not None
        self.graphs.append(graph)
        self.fixed, self.changed = set(facts.static_input_indices), set(facts.mutated_inp_runtime_indices)

        def counting(*inputs: Tensor) -> Any:
            with FlopCounterMode(display=False) as counter:
                outputs = graph.forward(*inputs)
            self.flops = counter.get_total_flops()
            return outputs

        return make_boxed_func(counting)

    def operators(self) -> Counter[str]:
        return Counter(str(node.target) for node in self.graphs[0].graph.nodes if node.op == "call_function")


def test_the_captured_graph() -> None:
    """One graph for all steps, that a CUDA graph can replay, without work that nobody uses."""
    compiler = Compiler()
    state = fresh(Plan())
    step = CapturedStep(state, compiler)
    figures = [step(*layers_last(number)) for number in range(3)]

    assert len(compiler.graphs) == 1, "compiled again"
    assert compiler.flops == 8 * iteration_flops(*pass_flops(TINY))

    placeholders = [node for node in compiler.graphs[0].graph.nodes if node.op == "placeholder"]
    parameters = len(list(state.generator.parameters())) + len(list(state.discriminator.parameters()))
    statistics = sum(isinstance(m, nn.BatchNorm2d) for n in (state.generator, state.discriminator) for m in n.modules())
    assert len(placeholders) == 2 + 4 * parameters + 2 * statistics, "no input but pictures, noise and the state"
    assert len(compiler.changed) == 4 * parameters + 2 * statistics
    assert compiler.changed <= compiler.fixed, "CUDA graphs refuse to change what may move"

    operators = compiler.operators()
    assert not [name for name in operators if "_local_scalar_dense" in name or "num_batches" in name]
    assert operators["aten._foreach_sqrt.default"] == 2, "an update a network"

    for one in figures:
        assert isinstance(one, StepMetrics)
        assert all((figure.shape, figure.dtype) == ((), torch.float32) and figure.isfinite() for figure in one)
        assert not any(figure.requires_grad for figure in one)
        assert 0 < one.d_real < 1 and 0 < one.d_fake < 1
    assert figures[0] != figures[1]


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_of_captured_and_eager_steps_are_interchangeable(tmp_path: Path) -> None:
    """Captured, then eager, then captured again, each from the other's checkpoint: as eager all the way."""
    eager = fresh(Plan())
    for number in range(6):
        train_step(eager, *layers_last(number))
    wanted = everything(eager)

    for sitting, plan in enumerate((LOWERED, Plan(), LOWERED)):
        state = fresh(plan)
        if sitting:
            progress = load(list_checkpoints(tmp_path)[-1], state, TINY)
            assert progress.step == 2 * sitting
        step = step_function(plan, state)
        for number in range(2 * sitting, 2 * sitting + 2):
            step(*layers_last(number))
        save(tmp_path, state, TINY, Progress(step=2 * sitting + 2), keep=3)

    found = everything(state)
    assert worst(errors(found, wanted))[0] <= 1e-3  # fp32, and Adam's first steps are signs of gradients
    counts = {name for name in wanted if name.endswith("num_batches_tracked")}
    assert counts and all(torch.equal(found[name], wanted[name]) for name in counts)
    assert {name: int(found[name]) for name in counts} == {name: 6 if name.startswith("G") else 18 for name in counts}
    assert {float(count) for name, count in found.items() if name.startswith("step.")} == {6.0}
    assert {name: value.dtype for name, value in found.items()} == {name: v.dtype for name, v in wanted.items()}


def test_going_back_to_a_checkpoint_in_the_same_process(tmp_path: Path) -> None:
    """A load replaces Adam's tensors and BatchNorm's counts under a graph that is compiled already."""
    state = fresh(TRACED)
    step = step_function(TRACED, state)
    step(*layers_last(0))
    saved = save(tmp_path, state, TINY, Progress(step=1), keep=1)
    step(*layers_last(1))
    wanted = everything(state)
    step(*layers_last(2))

    load(saved, state, TINY)
    step(*layers_last(1))
    found = everything(state)
    assert all(torch.equal(found[name], value) for name, value in wanted.items()), worst(errors(found, wanted))


# --- Choosing it ------------------------------------------------------------------------------------------------------


def test_capture_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdcgan.execution.plan.has_cpp_compiler", lambda: True)
    plan = choose_plan(ExecutionConfig(compile="step", precision="bf16"), CPU)
    assert plan == Plan(precision="bf16", backend="inductor", capture=True, keep_memory=True)
    assert "captured whole by inductor" in str(plan)
    assert not choose_plan(ExecutionConfig(compile="on", precision="bf16"), CPU).capture
    with pytest.raises(ValueError, match=r"--compile step .* fp16"):
        choose_plan(ExecutionConfig(compile="step", precision="fp16"), CPU)
    monkeypatch.setattr("fastdcgan.execution.plan.has_cpp_compiler", lambda: False)
    with pytest.raises(ValueError, match="--compile step needs a C"):
        choose_plan(ExecutionConfig(compile="step"), CPU)


def test_a_captured_step_is_not_wrapped() -> None:
    """DDP's hooks would wait for gradients that never come."""
    wrapped: list[nn.Module] = []

    def wrap(network: nn.Module) -> nn.Module:
        wrapped.append(network)
        return network

    prepare(TRACED, *models.build(TINY, seed=0), RecipeConfig(), CPU, wrap=wrap)
    assert not wrapped
    prepare(Plan(), *models.build(TINY, seed=0), RecipeConfig(), CPU, wrap=wrap)
    assert len(wrapped) == 2


@pytest.mark.slow
@needs_compiler
def test_a_run_with_it(photographs: Path, tmp_path: Path) -> None:
    from fastdcgan import cli

    out = tmp_path / "run"
    data = array(photographs, tmp_path)
    options = (
        "--data",
        data,
        "--arch",
        "dcgan16",
        "--width",
        4,
        "--batch-size",
        8,
        "--precision",
        "fp32",
        "--checkpoint-every",
        2,
    )
    for images in (32, 64):
        cli.main(
            ["train", *map(str, (*options, "--compile", "step", "--images", images, "--out", out, "--device", "cpu"))]
        )
    saved = list_checkpoints(out / "checkpoints")
    assert [path.name for path in saved] == ["step-00000004", "step-00000006", "step-00000008"]
    assert '"plan": "fp32 + captured whole by inductor' in (out / "config.json").read_text()


# --- Several processes ------------------------------------------------------------------------------------------------

RANKS, STEPS = 2, 3


def shard(tensor: Tensor, rank: int) -> Tensor:
    return tensor.double().chunk(RANKS)[rank]


def train_as_rank(rank: int, folder: str, plan: Plan) -> None:
    """One process of a group: steps on its share of each batch; leaves its numbers in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    if plan.replay:  # the stand-in for a CUDA graph records what averages there, not the CPU's own way
        capture.all_reduce_sum = partial(functional_all_reduce_sum, group=dist.group.WORLD)
    twin = doubled(reference_twin(TINY))
    fast = doubled(plan_twin(TINY, twin, plan))
    for number in range(STEPS):
        real_BCHW, z_BL = inputs(TINY, number)
        fast.step(shard(real_BCHW, rank), shard(z_BL, rank))
    torch.save({key: value.contiguous() for key, value in numbers(fast).items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes")
@pytest.mark.parametrize("plan", [LOWERED, Plan(replay=True)], ids=str)
def test_gradients_are_averaged_over_processes(tmp_path: Path, plan: Plan) -> None:
    """As one process that computes the ranks' gradients in turn and takes their mean; BatchNorm's numbers are local."""
    forked.start_server()
    torch.multiprocessing.start_processes(train_as_rank, (str(tmp_path), plan), RANKS, start_method="forkserver")

    twins = [doubled(reference_twin(TINY)) for _ in range(RANKS)]
    adams = [(reference.adam(twin.G), reference.adam(twin.D)) for twin in twins]

    def learn(networks: list[nn.Module], losses: list[Tensor], optimizers: list[torch.optim.Optimizer]) -> None:
        gradients = [torch.autograd.grad(loss, list(n.parameters())) for n, loss in zip(networks, losses, strict=True)]
        means = [sum(of_ranks) / RANKS for of_ranks in zip(*gradients, strict=True)]
        for network, optimizer in zip(networks, optimizers, strict=True):
            for parameter, mean in zip(network.parameters(), means, strict=True):
                parameter.grad = mean.clone()
            optimizer.step()

    for number in range(STEPS):
        real_BCHW, z_BL = inputs(TINY, number)
        fakes = [twin.G(shard(z_BL, rank)) for rank, twin in enumerate(twins)]
        losses_d = [
            reference.loss_d("bce", twin.D(shard(real_BCHW, rank)), twin.D(fakes[rank].detach()), 0.0)
            for rank, twin in enumerate(twins)
        ]
        learn([twin.D for twin in twins], losses_d, [adam_d for _, adam_d in adams])
        losses_g = [reference.loss_g("bce", twin.D(fakes[rank])) for rank, twin in enumerate(twins)]
        learn([twin.G for twin in twins], losses_g, [adam_g for adam_g, _ in adams])

    for rank, twin in enumerate(twins):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert worst(errors(found, numbers(twin)))[0] <= 1e-10


# --- On a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_on_cuda(precision: Any) -> None:
    """Against the eager step there, over enough steps that CUDA graphs are recorded and replayed."""
    device = torch.device("cuda")
    plan = Plan(precision=precision, backend="inductor", capture=True)
    ours, theirs = fresh(plan, device=device), fresh(Plan(precision=precision), device=device)
    step = step_function(plan, ours)
    kept, wanted = [], []
    for number in range(8):
        real_BCHW, z_BL = (tensor.to(device) for tensor in layers_last(number))
        kept.append(step(real_BCHW, z_BL))
        wanted.append(train_step(theirs, real_BCHW, z_BL))
    for one, other in zip(kept, wanted, strict=True):  # a later replay must not have overwritten them
        torch.testing.assert_close(torch.stack(one), torch.stack(other), rtol=0.05, atol=0.01)
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
