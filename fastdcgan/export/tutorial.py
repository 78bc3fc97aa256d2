"""Weights in the layout of PyTorch's DCGAN example and tutorial: made a run of, and written from a run.

There both networks are one `nn.Sequential` called `main`, whose modules stand in the order of ours, so that a tensor's
name differs in its prefix alone: `main.0.weight` is `layers.0.weight` here.
Source: https://github.com/pytorch/examples/blob/main/dcgan/main.py
"""

import pickle
import re
import secrets
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fastdcgan.config import UNKNOWN_DATA, DataConfig, ModelConfig, RunConfig, TrainConfig
from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture, Size, architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.folder import read_newest
from fastdcgan.runs.checkpoints.record import DISCRIMINATOR_FILE, Progress, make_record, read_record
from fastdcgan.runs.checkpoints.tensors import Tensors, like_moments, read_network, weights
from fastdcgan.runs.folder import (
    RunFolder,
    check_writable,
    converting_write_errors,
    create,
    read_architecture,
    run_id,
    write_config,
)
from fastdcgan.runs.generate import refuse_too_large, with_skipped
from fastdcgan.runs.sampling import SAMPLES, generate, save_grid
from fastdcgan.storage.files import open_regular, replacing
from fastdcgan.storage.printable import printable

NETWORK_FILES = ("netG.pth", "netD.pth")
"""What `export` writes."""

_PREFIX = re.compile(r"(?:(?:module|_orig_mod)\.)*(?:main\.(?:(?:module|_orig_mod)\.)*)?(?=\d+\.\w+$)")
"""Of a tensor's name; `module.` is of DataParallel and DDP, `_orig_mod.` of torch.compile."""

_MAX_BYTES = 2**32

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""How files of torch.save begin, those before torch 1.6 as the second."""

_Kind = Literal["generator", "discriminator"]


def import_weights(files: list[Path], out: Path) -> str:
    """Make a run's folder of a generator's weights, and a discriminator's if there are some.

    Its one checkpoint is of step 0. Without a discriminator it has a new one. Adam's moments are 0.

    Args:
        files: one or two, written by `torch.save(network.state_dict(), file)`, in any order.
        out: the run's folder; it holds no run yet.

    Returns:
        a line for the user.

    Raises:
        ValueError: a file can't be read or is of another network, or `out` can't be written.
    """
    folder = RunFolder(out)
    if folder.config.exists() or folder.checkpoints.exists():
        raise ValueError(f"{out} already holds a run: choose another --out")
    found: dict[_Kind, tuple[Path, Tensors]] = {}
    for file in files:
        tensors = read_state_dict(file)
        kind = _kind_of(file, tensors)
        if kind in found:
            raise ValueError(f"{found[kind][0]} and {file} are both of a {kind}: give one generator, one discriminator")
        found[kind] = file, tensors
    if "generator" not in found:
        raise ValueError(f"{files[0]} is of a discriminator, which makes no pictures: give the generator's file too")
    arch = _architecture_of(*found["generator"])
    generator, discriminator = models.build(arch, seed=0)
    _load(generator, *found["generator"])
    if "discriminator" in found:
        _load(discriminator, *found["discriminator"])
    check_writable(folder)
    with converting_write_errors(out):
        _write_run(folder, arch, generator, discriminator, [str(file.absolute()) for file, _ in found.values()])
    theirs = "" if "discriminator" in found else ", with a new discriminator"
    shape = f"{arch.name}, width {arch.width}, {arch.channels} channels, {arch.latent_dim} latent numbers"
    return f"imported {shape}{theirs}: fastdcgan generate {out}"


def export_tutorial(run: Path, out: Path) -> str:
    """Write both networks of a run's newest usable checkpoint as `netG.pth` and `netD.pth` into a folder.

    Raises:
        ValueError: there is no such run or checkpoint, or `out` can't be written.
    """
    folder = RunFolder(run)
    arch = read_architecture(folder)
    if arch.classes:
        raise ValueError(f"--to tutorial: the tutorial's networks have no classes, and {run} has learned some")
    refuse_too_large(folder, arch)
    networks = models.build(arch, seed=0)
    newest, skipped = read_newest(
        folder.checkpoints, partial(_read_networks, networks=networks, arch=arch, run=run_id(folder))
    )
    if newest is None:
        raise ValueError(f"{run} has no checkpoint yet: nothing was learned that could be exported")
    tensors, progress = newest
    with converting_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, ours in zip(NETWORK_FILES, tensors, strict=True):
            with replacing(out / name) as file:
                torch.save({key.replace("layers.", "main.", 1): tensor for key, tensor in ours.items()}, file)
    message = f"step {progress.step:,} of {run}: {', '.join(str(out / n) for n in NETWORK_FILES)}"
    if arch.resolution != (64, 64):
        message += f"; the example's networks are for 64x64, and load these once they have the layers of {arch.name}"
    return with_skipped(skipped, message)


def read_state_dict(path: Path) -> Tensors:
    """The tensors of a file by `torch.save`, fp32, under names without prefixes: `0.weight`, `1.running_mean` ...

    Only tensors are unpickled: a file that would run code is refused, and runs none.

    Raises:
        ValueError: it can't be read, holds something else, or numbers that are not finite.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(len(_ZIP))
            file.seek(0)
            if not start.startswith((_ZIP, _PICKLE)):
                raise ValueError("it is not of torch.save: name a network's weights, as netG.pth")
            if size > _MAX_BYTES:
                raise ValueError(f"{size:,} bytes, larger than the limit of {_MAX_BYTES:,}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, of kinds of pickles
                loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused, as it holds more than tensors: save a network's state_dict(), not the network"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} can't be read: {printable(reason)}") from error
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"{path} holds no state_dict of a network, but {type(loaded).__name__}")
    tensors: Tensors = {}
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not (match := _PREFIX.match(name)):
            raise ValueError(f"{path} is of another network: {str(name)[:80]!r} is no tensor of a DCGAN's `main`")
        # A tensor may claim more numbers than its file has, as one expanded from a single number does.
        if tensor.layout != torch.strided or tensor.nbytes > size:
            raise ValueError(f"{path} can't be read: {name} claims more than the file has")
        short = name[match.end() :]
        if short in tensors:
            raise ValueError(f"{path} is of another network: it has {short} twice")
        tensors[short] = tensor if short.endswith("num_batches_tracked") else tensor.float().contiguous()
        if not bool(torch.isfinite(tensors[short]).all()):
            raise ValueError(f"{path} is damaged: {name} has numbers that are not finite")
    return tensors


def _kind_of(path: Path, tensors: Tensors) -> _Kind:
    """G has BatchNorm after its first convolution, D has none there. Raises ValueError where it is neither."""
    weight = tensors.get("0.weight")
    if weight is None or weight.dim() != 4:
        shape = "missing" if weight is None else f"of shape {list(weight.shape)}"
        raise ValueError(f"{path} is of another network: its main.0.weight is {shape}, not a convolution's")
    return "generator" if "1.weight" in tensors else "discriminator"


def _architecture_of(path: Path, tensors: Tensors) -> Architecture:
    """Read from a generator's shapes. Raises ValueError where it is another network's."""
    convolutions = [tensors[name] for name in sorted(tensors, key=_position) if tensors[name].dim() == 4]
    first, last = convolutions[0], convolutions[-1]
    # Each convolution but the first doubles both sides; that with a kernel of 3 makes 7 of 4, in dcgan28 alone.
    doubled = 7 if len(convolutions) == 4 and convolutions[1].shape[-1] == 3 else 2 ** (len(convolutions) - 1)
    size = Size(*(side * doubled for side in first.shape[2:]))
    try:
        return architecture(resolution=size, channels=last.shape[1], width=last.shape[0], latent_dim=first.shape[0])
    except ValueError as error:
        raise ValueError(
            f"{path} is of another network: {len(convolutions)} convolutions, the last of shape {list(last.shape)} "
            f"({error})"
        ) from error


def _position(name: str) -> int:
    return int(name.split(".")[0])


def _load(network: nn.Module, path: Path, tensors: Tensors) -> None:
    """Raises ValueError, naming the first tensor that doesn't fit."""
    expected = {name.removeprefix("layers."): tensor for name, tensor in weights(network).items()}
    # Files from before PyTorch 0.4.1 don't have it, and nothing here reads it.
    tensors = {name: like for name, like in expected.items() if name.endswith("num_batches_tracked")} | tensors
    for name in sorted(tensors.keys() | expected.keys(), key=lambda name: (_position(name), name)):
        there = list(tensors[name].shape) if name in tensors else "missing"
        here = list(expected[name].shape) if name in expected else "unknown"
        if there != here:
            raise ValueError(f"{path} is of another network: main.{name} is {there} there, {here} here")
    network.load_state_dict({f"layers.{name}": tensor for name, tensor in tensors.items()})


def _write_run(
    folder: RunFolder, arch: Architecture, generator: nn.Module, discriminator: nn.Module, sources: list[str]
) -> None:
    """The checkpoint comes before config.json, which makes a run of the folder. Raises ValueError, OSError."""
    create(folder)
    identity = secrets.token_hex(8)
    like = like_moments("generator", generator) | like_moments("discriminator", discriminator)
    snap = checkpoint.Snapshot(
        generator=weights(generator),
        discriminator=weights(discriminator),
        average=None,
        moments={name: torch.zeros(tensor.shape) for name, tensor in like.items()},
        record=make_record(arch, Progress(), identity, plan=None, scaler_g={}, scaler_d={}),
    )
    checkpoint.write(folder.checkpoints, snap, keep=1)
    pictures_BCHW = generate(generator, latents(0, Stream.SAMPLES, 0, SAMPLES, arch.latent_dim))
    save_grid(pictures_BCHW, folder.samples / "step-00000000.png")
    config = TrainConfig(
        model=ModelConfig.of(arch),
        data=DataConfig(data=UNKNOWN_DATA),
        run=RunConfig(out=folder.path),
    )
    write_config(folder, config.resolved(), arch, {"run_id": identity, "imported_from": sources})


def _read_networks(
    path: Path, networks: tuple[nn.Module, nn.Module], arch: Architecture, run: str | None
) -> tuple[tuple[Tensors, Tensors], Progress]:
    """Both networks of a checkpoint. Raises ValueError as `checkpoint.read` does."""
    tensors, progress = checkpoint.read_generator(path, networks[0], arch, run)
    _, manifest = read_record(path, run)
    return (tensors, read_network(path, DISCRIMINATOR_FILE, manifest, networks[1])), progress
