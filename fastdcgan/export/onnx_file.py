"""ONNX: for onnxruntime, browsers, mobile phones and other languages."""

import json
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fastdcgan import __version__
from fastdcgan.export.chosen import (
    Chosen,
    Precision,
    check_installed,
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

FILE = "generator.onnx"

INPUT, LABELS, OUTPUT = "z", "labels", "pictures"
"""Names: fp32 [batch, latent_dim] of standard normal noise; where there are classes, int64 [batch], the number of each
picture's; fp32 [batch, C, H, W] in [-1, 1]."""


def export_onnx(
    run: Path, out: Path, *, checkpoint: Named = "latest", raw: bool = False, precision: Precision = "fp32"
) -> str:
    """Write a run's generator as `generator.onnx` into a folder, once onnxruntime makes the same pictures with it.

    Args:
        run: the run's folder.
        out: the folder.
        checkpoint: as in `load_generator`.
        raw: likewise.
        precision: of weights and arithmetic; input and output are fp32.

    Returns:
        lines for the user.

    Raises:
        ValueError: there is no such run or checkpoint, a package is missing, `out` can't be written, or the pictures
            differ.
    """
    check_installed("onnx", "onnx", "onnxscript", "onnxruntime")
    chosen = choose(run, checkpoint=checkpoint, raw=raw)
    file, difference = checked_onnx(chosen, precision)
    with converting_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_replacing(out / FILE, file)
    return with_skipped(
        chosen.skipped,
        f"step {chosen.step:,} of {run} in {precision}: {out / FILE}, {len(file) / 2**20:,.1f} MiB; "
        f"its pictures in onnxruntime differ by at most {difference:.1e}",
    )


def checked_onnx(chosen: Chosen, precision: Precision) -> tuple[bytes, float]:
    """A generator as an ONNX file, and how far its pictures are from PyTorch's. Raises ValueError if that is far."""
    file = _onnx(chosen, precision)
    return file, largest_difference(_in_onnxruntime(file), chosen, precision)


def _onnx(chosen: Chosen, precision: Precision) -> bytes:
    inputs = example_inputs(chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the exporter itself uses
        program = torch.onnx.export(
            in_precision(chosen.generator, precision),
            inputs,
            dynamo=True,
            input_names=[INPUT, LABELS][: len(inputs)],
            output_names=[OUTPUT],
            dynamic_shapes=dynamic_shapes(inputs),
            verbose=False,
        )
    assert program is not None
    model: Any = program.model_proto
    model.doc_string = (
        f"DCGAN generator, trained by fastdcgan. {INPUT}: standard normal noise. {OUTPUT}: in [-1, 1], channels first."
    )
    for key, value in {
        "fastdcgan": __version__,
        "step": chosen.step,
        "architecture": chosen.generator.arch.name,
        **({"classes": json.dumps(chosen.generator.arch.classes)} if chosen.generator.arch.classes else {}),
    }.items():
        model.metadata_props.add(key=key, value=str(value))
    return cast(bytes, model.SerializeToString())


def _in_onnxruntime(file: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def pictures(*inputs: Tensor) -> Tensor:
        named = {name: tensor.numpy() for name, tensor in zip((INPUT, LABELS), inputs, strict=False)}
        return torch.from_numpy(session.run([OUTPUT], named)[0])

    return pictures
