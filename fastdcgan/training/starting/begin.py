"""A new run that begins with the weights of another one: --init-from."""

from dataclasses import fields, replace
from functools import partial
from itertools import zip_longest
from typing import cast

from fastdcgan.config import UNKNOWN_DATA, TrainConfig, differing_fields
from fastdcgan.distributed.accelerator import Accelerator
from fastdcgan.distributed.collectives import broadcast_object
from fastdcgan.gan.architecture import Architecture, ConvSpec
from fastdcgan.gan.step import TrainState
from fastdcgan.runs import origin
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.folder import Named, checkpoint_named, checkpoint_path, read_named
from fastdcgan.runs.folder import RunFolder, read_architecture, read_config, run_id
from fastdcgan.runs.generate import refuse_too_large
from fastdcgan.runs.origin import Ancestor
from fastdcgan.telemetry.terminal.display import Display


def with_ancestors_choices(request: TrainConfig) -> TrainConfig:
    """A request with the network and the data of the run that it begins with, where the user names none.

    Raises:
        ValueError: there is no such run, or its data are not known.
    """
    if request.run.init_from is None:
        return request
    begun = request.run.out and RunFolder(request.run.out)
    folder, _ = _ancestor(request.run.init_from)
    # A run that has begun doesn't need the other one any more.
    former = read_config(begun if begun and begun.config.exists() else folder)
    if request.data.data is None and former.data.data == UNKNOWN_DATA:
        raise ValueError(f"--init-from {request.run.init_from}: it knows no pictures: name yours by --data")
    open_ends = [each.name for each in fields(request.model) if getattr(request.model, each.name) is None]
    if request.model.arch is not None or request.model.resolution is not None:  # one says what the other is
        open_ends = [name for name in open_ends if name not in ("arch", "resolution")]
    model = replace(request.model, **{name: getattr(former.model, name) for name in open_ends})
    data = replace(request.data, data=request.data.data or former.data.data)
    return replace(request, model=model, data=data)


def check_ancestor(config: TrainConfig) -> None:
    """Whether the checkpoint that a new run begins with is there and fits.

    Raises:
        ValueError: it isn't there, or its networks are others; names the first layer that differs.
    """
    assert config.run.init_from is not None
    folder, named = _ancestor(config.run.init_from)
    theirs, ours = read_architecture(folder), config.model.architecture()
    refuse_too_large(folder, theirs)
    checkpoint_named(folder, named)
    if bool(theirs.classes) != config.model.conditional:
        does, change = ("has", "add") if theirs.classes else ("has not", "leave away")
        raise ValueError(f"--init-from {config.run.init_from} {does} learned classes: {change} --conditional")
    theirs = theirs.with_classes(())  # which classes the pictures have is not known yet
    if differing := _first_difference(theirs, ours):
        raise ValueError(
            f"--init-from {config.run.init_from} does not fit: {differing}; its networks are those of "
            f"--arch {theirs.name} --width {theirs.width} --channels {theirs.channels} --latent-dim {theirs.latent_dim}"
        )


def begin_with_ancestor(
    config: TrainConfig, state: TrainState, arch: Architecture, accelerator: Accelerator, display: Display
) -> tuple[TrainConfig, Ancestor]:
    """Load the checkpoint that a new run begins with. Every rank loads the one that the first one has chosen.

    Returns:
        the request, with the step that was chosen; what is to be kept of where it came from.

    Raises:
        ValueError: it can't be used.
    """
    assert config.run.init_from is not None
    folder, named = _ancestor(config.run.init_from)
    read = partial(checkpoint.read, state=state, arch=arch, run=run_id(folder), scalers=False)
    found = None
    if accelerator.is_main_process:
        found, passed_over = read_named(folder, named, read)
        assert found is not None, "check_ancestor has seen one"
        for line in passed_over:
            display.say(f"passed    over {line}")
    step = broadcast_object(accelerator, found.progress.step if found else 0)
    found = found or read(checkpoint_path(folder.checkpoints, step))
    updates = (tensor for name, tensor in found.moments.items() if name.endswith(".step"))
    moments = not config.run.fresh_optimizer and any(bool(count > 0) for count in updates)  # imported weights have none
    checkpoint.begin(found, state, moments=moments)
    ancestor = Ancestor(
        run=str(folder.path),
        run_id=run_id(folder),
        step=step,
        images=found.progress.images,
        moments=moments,
    )
    return replace(config, run=replace(config.run, init_from=f"{folder.path}@{step}")), ancestor


def describe_ancestor(ancestor: Ancestor, config: TrainConfig) -> list[str]:
    """Lines for the user: what the run begins with, and what is not as it was there."""
    kept = "and Adam's moments" if ancestor.moments else "without Adam's moments"
    lines = [f"begun     with the weights of {ancestor.run}@{ancestor.step} ({ancestor.images:,} images), {kept}"]
    former = read_config(RunFolder(_ancestor(cast(str, config.run.init_from))[0].path))
    if differing := differing_fields(former, config):
        lines.append(f"          not as there: {'; '.join(differing)}")
    return lines


def _ancestor(text: str) -> tuple[RunFolder, Named]:
    path, name = origin.split(text)
    return RunFolder(path), cast(Named, name if name in origin.NAMES else int(name))


def _first_difference(theirs: Architecture, ours: Architecture) -> str:
    """The first layer in which two networks differ, for people; empty where there is none."""
    for network in ("generator", "discriminator"):
        layers: list[tuple[ConvSpec | None, ConvSpec | None]]
        layers = list(zip_longest(getattr(theirs, network), getattr(ours, network)))
        for number, (there, here) in enumerate(layers, 1):
            if there != here:
                return f"layer {number} of the {network} is {_described(there)} there, {_described(here)} here"
    return ""


def _described(layer: ConvSpec | None) -> str:
    if layer is None:
        return "missing"
    return f"{layer.in_channels} to {layer.out_channels} channels, kernel {layer.kernel.short}, stride {layer.stride}"
