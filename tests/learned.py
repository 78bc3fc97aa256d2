"""What a run has learned: the tensors of a checkpoint, to be compared with another one's."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def learned(run: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {
        f"{file.stem}.{name}": tensor
        for file in sorted((run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same_weights(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert found and found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
