"""A folder as the Hugging Face Hub has models: weights, what they are the weights of, and a card for people."""

import io
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCardData

from fastdcgan import __version__
from fastdcgan.api.generator import Generator
from fastdcgan.api.run import Run
from fastdcgan.config import NAMED_DEFAULTS
from fastdcgan.evaluation.records import read_evaluations
from fastdcgan.export.chosen import Chosen, choose
from fastdcgan.runs.checkpoints.folder import Named
from fastdcgan.runs.folder import RunFolder, converting_write_errors, read_condition
from fastdcgan.runs.generate import with_skipped
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.metrics import Record

CARD = "README.md"

SAMPLES = 64


def export_hub(run: Path, out: Path, *, checkpoint: Named = "latest", raw: bool = False) -> str:
    """Write a folder to upload: model.safetensors, config.json, a model card, its pictures.

    A README.md that is there stays as it is: people write in it. Paths and names of the training's machine stay out of
    the card.

    Args:
        run: the run's folder.
        out: the folder.
        checkpoint: as in `load_generator`.
        raw: likewise.

    Returns:
        lines for the user.

    Raises:
        ValueError: there is no such run or checkpoint, or `out` can't be written.
    """
    chosen = choose(run, checkpoint=checkpoint, raw=raw)
    folder = RunFolder(run)
    kept = (out / CARD).exists()
    with converting_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_replacing(out / "samples.png", _png(chosen.generator))
        if folder.losses.is_file():
            write_replacing(out / "losses.png", folder.losses.read_bytes())
        if not kept:
            write_replacing(out / CARD, model_card(chosen, out.name, raw=raw, with_losses=folder.losses.is_file()))
        chosen.generator.save_pretrained(out)
    again = Generator.from_pretrained(out)
    assert np.array_equal(next(again.sample(1)), next(chosen.generator.sample(1))), (
        "saved and opened, it is another one"
    )
    about = f"; {CARD} was there and is kept" if kept else ""
    return with_skipped(
        chosen.skipped,
        f"step {chosen.step:,} of {run}: {out}{about}. Look at {CARD}, then: hf upload NAME/OF-MODEL {out} .",
    )


def model_card(chosen: Chosen, name: str, *, raw: bool, with_losses: bool) -> str:
    """README.md in the Hub's form: metadata for machines, and what people want to know of a model."""
    from jinja2 import Environment, StrictUndefined

    run, arch = Run(chosen.run), chosen.generator.arch
    template = resources.files("fastdcgan.export").joinpath("card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    data = ModelCardData(
        library_name="fastdcgan", pipeline_tag="unconditional-image-generation", tags=["dcgan", "gan", "pytorch"]
    )
    parameters = sum(parameter.numel() for parameter in chosen.generator.parameters())
    return environment.from_string(template).render(
        metadata=data.to_yaml(),
        title=_as_markdown(name),
        name=json.dumps(printable(name), ensure_ascii=False),
        arch=arch,
        parameters=parameters,
        step=chosen.step,
        data=_data(run),
        figures=_figures(run, chosen.step),
        evaluations=_evaluations(run, chosen.step, "last" if raw or not run.config["ema"] else "average"),
        options=_options(run),
        with_losses=with_losses,
        version=__version__,
    )


def _data(run: Run) -> str:
    """What it was trained on: the name of a known set, else how many pictures; no paths."""
    config, count = run.config, read_condition(RunFolder(run.path), "pictures")
    several = f"{count:,} pictures" if isinstance(count, int) else "pictures"
    if config["data"] in NAMED_DEFAULTS or config["data"] == "celeba":
        return f"{several} of {config['data']}"
    return several


def _figures(run: Run, step: int) -> list[tuple[str, str]]:
    """How long it was trained, and the figures at that step, as rows of a table."""
    until = [record for record in run.metrics if record.step <= step]
    if not until:
        return []
    last: Record = until[-1]
    return [
        ("pictures seen", f"{last.images:,} ({last.epoch:,.1f} epochs)"),
        ("training time", f"{last.seconds / 60:,.1f} minutes"),
        ("loss of G, of D", f"{last.loss_g:.3f}, {last.loss_d:.3f}"),
        ("D(x), D(G(z))", f"{last.d_real:.2f}, {last.d_fake:.2f}"),
    ]


def _evaluations(run: Run, step: int, weights: str) -> list[str]:
    """What was measured of these weights, a line each, with its conditions."""
    found, _ = read_evaluations(RunFolder(run.path).evaluations)
    return [
        "- "
        + (f"{_as_markdown(one.frechet_label)}: **{one.frechet:.4g}**; " if one.frechet is not None else "")
        + f"{_as_markdown(one.kernel_label)}: **{one.kernel:.4g}** (± {one.kernel_std:.2g}); "
        f"precision {one.precision:.2f}, recall {one.recall:.2f}; {one.pictures:,} pictures on each side"
        for one in found
        if (one.step, one.weights) == (step, weights)
    ]


def _options(run: Run) -> dict[str, Any]:
    """What decides what is learned, as the command line has it."""
    names = ("objective", "batch_size", "lr", "beta1", "beta2", "ema", "label_smoothing", "flip", "precision", "seed")
    config = run.config
    return {name: config[name] for name in names if name in config}


def _as_markdown(text: str) -> str:
    """Text from outside as Markdown that says just that."""
    return re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", printable(text))


def _png(generator: Generator) -> bytes:
    out = io.BytesIO()
    generator.grid(SAMPLES).save(out, format="PNG")
    return out.getvalue()
