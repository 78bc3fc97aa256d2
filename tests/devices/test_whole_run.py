"""A whole run on a device that is not the CPU: host and device don't mix, and where the host waits is counted.

What runs here is all of `trainer.train`, with Accelerate, on the stand-in device of `standin.py`. Its kernels are the
CPU's: that CUDA's compute the same is not shown here.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import planted
import pytest
import torch
from learned import assert_same_weights, learned
from own_process import OwnProcess
from whole_run import STEPS, Plant, Ran, begin, pictures, request, train

from fastdcgan.config import TrainConfig

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a process has one kind of accelerator: here CUDA")

WEIGHTS_OF_A_CHECKPOINT = 70
"""Tensors that a checkpoint of these networks holds: weights, BatchNorm's buffers, Adam's moments and counts."""

TICKS, GRIDS, SAVES = 4, 3, 2
"""In 12 steps: after 5, 6, 10, 12; after 0, 6, 12; after 6, 12."""


@pytest.fixture(scope="module")
def apart() -> Iterator[OwnProcess]:
    process = OwnProcess(begin)
    yield process
    process.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def ran(apart: OwnProcess, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    done: Ran = apart(train, request(data, tmp_path_factory.mktemp("run") / "run"))
    return done


def check(ran: Ran, *, scalers: bool = False, resident: bool = False) -> None:
    """The contract: when a run waits for its device."""
    steps = [wait for wait in ran.waits if wait.place == STEPS]
    assert steps == [], f"the host waited between ticks: {steps[0].why} at {steps[0].line}"
    assert ran.count("tick") == {"fetch": TICKS}, "a tick fetches its figures at once"
    assert ran.count("check_state") == {"fetch": SAVES}, "all tensors are checked, then one answer is fetched"
    # The last grid is compared with the training pictures: all of them in one batch here, then those that are shown.
    compared = 2 if resident else 0
    assert ran.count("sample") == {"fetch": GRIDS + compared}, "a grid's pictures are fetched at once"
    saved = Counter({"fetch": SAVES * WEIGHTS_OF_A_CHECKPOINT})
    if scalers:  # the scale, and how many steps it has held, of each of the two
        saved["aten._local_scalar_dense.default"] = SAVES * 2 * 2
    assert ran.count("save") == saved, "a checkpoint takes one copy a tensor"
    assert set(ran.count("setup")) <= {"unpinned"}, "networks are copied to the device, and nothing back"


def test_the_run_is_on_the_device(ran: Ran) -> None:
    assert len(ran.tensors) == WEIGHTS_OF_A_CHECKPOINT
    assert set(ran.tensors.values()) == ran.devices_of_pictures == {"standin:0"}


def test_when_the_host_waits(ran: Ran) -> None:
    check(ran)
    assert {wait.place for wait in ran.waits} == {"setup", "tick", "check_state", "sample", "save"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"accumulate": 2},
        {"accumulate": 2, "precision": "fp16"},
        {"objective": "hinge"},
        {"objective": "lsgan"},
        {"objective": "minimax"},
        {"data_memory": 1},
    ],
    ids=str,
)
def test_when_it_waits_in_other_runs(options: dict[str, Any], apart: OwnProcess, data: Path, tmp_path: Path) -> None:
    ran = apart(train, request(data, tmp_path / "run", **options))
    check(ran, scalers=options.get("precision") == "fp16", resident="data_memory" in options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_same_is_learned_on_the_cpu(precision: str, apart: OwnProcess, data: Path, tmp_path: Path) -> None:
    """Bit for bit, as the kernels are the same: so no step ran on stale, half copied or left out tensors."""
    on_device, on_cpu = tmp_path / "device", tmp_path / "cpu"
    apart(train, request(data, on_device, precision=precision))
    ran = apart(train, request(data, on_cpu, precision=precision), None, "cpu")
    assert set(ran.tensors.values()) == {"cpu"} and ran.waits == []
    assert_same_weights(learned(on_device, 12), learned(on_cpu, 12))


@pytest.mark.slow
def test_a_run_goes_on(apart: OwnProcess, data: Path, tmp_path: Path) -> None:
    apart(train, request(data, tmp_path / "run", steps=6))
    went_on = apart(train, request(data, tmp_path / "run"))
    assert went_on.count(STEPS) == {} and went_on.count("load_last_checkpoint") == {}
    assert went_on.count("setup")["unpinned"] > WEIGHTS_OF_A_CHECKPOINT, "nothing was loaded"
    apart(train, request(data, tmp_path / "at once"))
    assert_same_weights(learned(tmp_path / "run", 12), learned(tmp_path / "at once", 12))


@pytest.mark.slow
def test_a_run_goes_back(apart: OwnProcess, data: Path, tmp_path: Path) -> None:
    ran = apart(train, request(data, tmp_path / "run", on_nan="rollback"), planted.overflow)
    assert ran.count(STEPS) == {}
    assert ran.count("load_last_checkpoint")["unpinned"] == WEIGHTS_OF_A_CHECKPOINT
    assert set(ran.tensors.values()) == {"standin:0"}


@pytest.mark.parametrize(
    ("plant", "seen", "options"),
    [
        (planted.item_in_the_step, "between ticks: aten._local_scalar_dense.default at", {}),
        *(
            pytest.param(*fault, marks=pytest.mark.slow)
            for fault in (
                (planted.decision_in_the_step, "between ticks: aten._local_scalar_dense.default at", {}),
                (planted.copy_to_the_host_in_the_step, "between ticks: fetch at", {}),
                (planted.mask_in_the_step, "between ticks: aten.index.Tensor at", {}),
                (planted.synchronised_step, "between ticks: synchronize at", {}),
                (planted.fetched_in_a_backward_pass, "between ticks: .* at a backward pass", {}),
                (planted.noise_left_on_the_host, "Expected all tensors to be on the same device", {}),
                (planted.noise_not_pinned, "between ticks: unpinned at", {}),
                (planted.pictures_not_pinned, "between ticks: unpinned at", {}),
                (planted.numbers_left_on_the_host, "Expected all tensors to be on the same", {"data_memory": 1}),
                (planted.indexed_from_the_host, "between ticks: unpinned at", {"data_memory": 1}),
                (planted.mean_over_a_wrong_axis, "Dimension out of range", {}),
                (planted.scales_fetched_one_by_one, "a tick fetches its figures at once", {"precision": "fp16"}),
                (planted.tensors_checked_one_by_one, "then one answer is fetched", {}),
                (planted.pictures_fetched_one_by_one, "a grid's pictures are fetched at once", {}),
                (planted.tensors_copied_twice, "one copy a tensor", {}),
            )
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_fault_is_seen(
    plant: Plant, seen: str, options: dict[str, Any], apart: OwnProcess, data: Path, tmp_path: Path
) -> None:
    asked: TrainConfig = request(data, tmp_path / "run", **options)
    with pytest.raises((AssertionError, RuntimeError, IndexError), match=seen):
        check(apart(train, asked, plant), scalers="precision" in options)
