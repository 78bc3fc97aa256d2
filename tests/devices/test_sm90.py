"""What Inductor makes of a step for an H100, without one: how many kernels, in which layout, and that they compile.

Not shown here: that they compute the right numbers there, or how fast. `tests/parity` compares the same graphs on the
CPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import planted
import pytest
import sm90
import torch
from own_process import OwnProcess
from sm90 import Lowered

from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.limits.gpu_prediction import step_kernels

pytest.importorskip("triton", reason="Triton writes the kernels")

pytestmark = [
    pytest.mark.slow(20),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: its own kernels are tested, see `-m gpu`"),
]


@pytest.fixture(scope="module")
def apart() -> Iterator[OwnProcess]:
    process = OwnProcess(sm90.begin)
    yield process
    process.close()


def check(graphs: list[Lowered], arch: Architecture, batch: int, precision: str, *, captured: bool) -> None:
    """What a lowered step must be like, from what `limits/gpu_prediction.py` predicts."""
    misplaced = [shape for graph in graphs for shape, strides in graph.buffers if not kept(shape, strides, arch)]
    assert misplaced == [], "copied out of channels-last"

    passes = len(arch.generator) + 3 * len(arch.discriminator)
    assert sum(graph.forward_convolutions for graph in graphs) == passes
    assert sum(graph.backward_convolutions for graph in graphs) == passes

    # Without the convolutions. Inductor takes two kernels for most statistics and casts each weight by itself; compiled
    # networks count their batches, and fuse nothing across networks, but their optimizers are not compiled.
    predicted = [k for k in step_kernels(arch, batch, precision) if captured or not k.name.endswith("Adam")]
    kernels = sum(not kernel.flops for kernel in predicted)
    assert kernels <= sum(graph.launches for graph in graphs) <= (2 if captured else 2.5) * kernels
    moved, wanted = sum(graph.bytes for graph in graphs), sum(kernel.bytes for kernel in predicted)
    assert moved == pytest.approx(wanted, rel=0.1), "other bytes are moved"


def kept(shape: tuple[int, ...], strides: tuple[int, ...], arch: Architecture) -> bool:
    """Whether a tensor is channels-last, or is one of those whose layout doesn't matter or is known to change.

    Known: the input and the weight of D's last convolution, whose result has one channel and one pixel, so that its
    layout says nothing of the operands'.
    """
    if len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1:
        return True
    last = arch.discriminator[-1]
    return strides[1] == 1 or shape[1:] == (last.in_channels, *last.kernel)


@pytest.mark.parametrize(
    ("name", "batch", "precision", "captured"),
    [
        ("dcgan64", 128, "bf16", True),
        pytest.param("dcgan64", 128, "bf16", False, marks=pytest.mark.exhaustive),
        pytest.param("dcgan16", 128, "fp32", True, marks=pytest.mark.exhaustive),
    ],
)
def test_a_step_lowered_for_an_h100(
    name: str, batch: int, precision: str, captured: bool, apart: OwnProcess, tmp_path: Path
) -> None:
    graphs: list[Lowered] = apart(sm90.lower, name, {"precision": precision, "capture": captured}, batch)
    check(graphs, architecture(name), batch, precision, captured=captured)
    if captured:
        assert len(graphs) == 1
        sizes = apart(sm90.machine_code, graphs[0], tmp_path)
        assert 0 < len(graphs[0].kernels) == len(sizes) and min(sizes) > 1000


@pytest.mark.parametrize(
    ("plan", "plant", "seen"),
    [
        ({"channels_last": False}, None, "copied out of channels-last"),
        ({"precision": "bf16"}, planted.autocast_lost, "bytes are moved"),
    ],
    ids=["channels first", "autocast lost"],
)
def test_a_planted_fault_is_seen(plan: dict[str, Any], plant: Any, seen: str, apart: OwnProcess) -> None:
    graphs = apart(sm90.lower, "dcgan16", {"capture": True, **plan}, 128, plant)
    with pytest.raises(AssertionError, match=seen):
        check(graphs, architecture("dcgan16"), 128, plan.get("precision", "fp32"), captured=True)
