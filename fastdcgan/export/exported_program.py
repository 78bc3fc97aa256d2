"""torch.export: a graph and its weights, for PyTorch without this package, in Python or C++ (AOTInductor)."""

import io
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from fastdcgan.export.chosen import (
    Precision,
    choose,
    dynamic_shapes,
    example_inputs,
    in_precision,
    largest_difference,
)
from fastdcgan.runs.checkpoints.folder import Named
from fastdcgan.runs.folder import converting_write_errors
from fastdcgan.runs.generate import with_skipped
from fastdcgan.storage.files import write_replacing

FILE = "generator.pt2"


def export_torch(
    run: Path, out: Path, *, checkpoint: Named = "latest", raw: bool = False, precision: Precision = "fp32"
) -> str:
    """Write a run's generator as `generator.pt2` into a folder, once it makes the same pictures when it is loaded.

    `torch.export.load(file).module()(z_BL)` is `pictures_BCHW`, for a batch of any size; `(z_BL, labels_B)`, int64,
    where there are classes.

    Args, returns and raises as `export_onnx`.
    """
    chosen = choose(run, checkpoint=checkpoint, raw=raw)
    network, inputs, buffer = in_precision(chosen.generator, precision), example_inputs(chosen), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, inputs, dynamic_shapes=dynamic_shapes(inputs))
        torch.export.save(program, buffer)
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()

    @torch.no_grad()
    def pictures(*inputs: Tensor) -> Tensor:
        return cast(Tensor, loaded(*inputs))

    difference = largest_difference(pictures, chosen, precision)
    with converting_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_replacing(out / FILE, buffer.getvalue())
    return with_skipped(
        chosen.skipped,
        f"step {chosen.step:,} of {run} in {precision}: {out / FILE}; "
        f"loaded again, its pictures differ by at most {difference:.1e}",
    )
