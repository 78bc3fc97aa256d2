"""Ranks that can't train together are told so before the first step, in one line."""

import socket
from pathlib import Path

import pytest
import torch
from launched import QUICK, launch, write_pictures

from fastdcgan.config import ExecutionConfig, TrainConfig
from fastdcgan.data.array import ArraySource
from fastdcgan.distributed import accelerator, agreement
from fastdcgan.distributed.accelerator import join


class Ranks:
    """Two ranks, of which the second one says `other`."""

    num_processes = 2

    def __init__(self, monkeypatch: pytest.MonkeyPatch, other: object) -> None:
        monkeypatch.setattr(agreement, "gather_objects", lambda accelerator, value: [value, other or value])


def source(levels: torch.Tensor) -> ArraySource:
    pictures_NHWC = levels.to(torch.uint8)[:, None, None, None].expand(-1, 4, 4, 1).contiguous().numpy()
    return ArraySource(pictures_NHWC, description="", origin="")


def test_another_option_or_other_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = TrainConfig().resolved()
    agreement.check_same_request(Ranks(monkeypatch, None), ours)
    theirs = {**agreement.flat(ours), "code": "other", "torch": str(torch.__version__), "lr": 1.0}
    with pytest.raises(ValueError, match=r"rank 1 .*--lr 1\.0, rank 0 has 0\.0002; code other, rank 0 has") as error:
        agreement.check_same_request(Ranks(monkeypatch, theirs), ours)
    assert "\n" not in str(error.value)


def test_other_pictures_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = source(torch.arange(0, 200, 10))
    agreement.check_same_pictures(Ranks(monkeypatch, (20, 0, [level + 1.0 for level in range(0, 200, 10)])), ours)
    with pytest.raises(ValueError, match="rank 1 sees other pictures than rank 0: 19 usable and 1 skipped"):
        agreement.check_same_pictures(Ranks(monkeypatch, (19, 1, [])), ours)
    swapped = [float(level) for level in range(0, 200, 10)]
    swapped[3], swapped[4] = swapped[4], swapped[3]
    with pytest.raises(ValueError, match="their pictures number 3 differ"):
        agreement.check_same_pictures(Ranks(monkeypatch, (20, 0, swapped)), ours)


def test_other_checkpoints_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"different checkpoints \(steps \[7, 3\]\)"):
        agreement.check_same_start(Ranks(monkeypatch, 3), 7)


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        from accelerate.state import PartialState

        PartialState._reset_state()
        with pytest.raises(ValueError, match=f"MASTER_PORT={port} is in use"):
            join(ExecutionConfig(device="cpu", rank_timeout=5))
        PartialState._reset_state()


def test_a_missing_backend_and_a_missing_device_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(accelerator.distributed, "is_backend_available", lambda name: False)
    with pytest.raises(ValueError, match="has no nccl for several processes on cuda here: use --device cpu"):
        accelerator._check_backend(0)
    monkeypatch.setattr(accelerator.distributed, "is_backend_available", lambda name: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine finds 1 device of kind cuda: start 1 process a"):
        accelerator._check_backend(1)


@pytest.mark.slow
def test_ranks_of_different_options_end_before_the_first_step(tmp_path: Path) -> None:
    """In truth: the second rank gets another seed."""
    photos, out = write_pictures(tmp_path / "photos"), tmp_path / "run"
    script = tmp_path / "train.py"
    root = Path(__file__).parents[2]
    script.write_text(
        f"import os, sys; sys.path.insert(0, {str(root)!r})\n"
        "from fastdcgan.cli import train_main\n"
        "train_main([*sys.argv[1:], '--seed', os.environ['RANK']])\n"
    )
    code, said = launch("--data", photos, "--out", out, *QUICK, "--images", 80, script=script).ended()
    assert code != 0
    assert "rank 1 was started differently from rank 0: --seed 1, rank 0 has 0\n" in said, said
    assert not out.exists()
