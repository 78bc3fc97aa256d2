"""Every door by which bytes of others come in: a function of bytes each, and bytes that it takes.

A door either takes the bytes or raises a ValueError of one line that any terminal can show. Nothing else comes out.
"""

import io
import json
import math
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import ONE
from PIL import Image
from small_states import ARCH, fresh, save, train

from fastdcgan.config import DataConfig, ModelConfig, RunConfig, TrainConfig, flat, parse_value_range
from fastdcgan.data import folder as folders
from fastdcgan.data.archives import shard_cache, shards
from fastdcgan.data.datasets.cifar10 import _BATCH_ERRORS, _batch_from_pickle
from fastdcgan.data.datasets.idx import FILE_NAME, read_idx_images
from fastdcgan.data.open import open_source
from fastdcgan.data.pack import read_manifest
from fastdcgan.evaluation.best import known_best
from fastdcgan.evaluation.records import forget_later_steps, read_evaluations
from fastdcgan.execution.plan import Plan
from fastdcgan.export.tutorial import import_weights
from fastdcgan.gan.models import build
from fastdcgan.gan.randomness import latents
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.folder import read_best
from fastdcgan.runs.checkpoints.record import GENERATOR_FILE, STATE_FILE, Progress
from fastdcgan.runs.folder import RunFolder, read_condition, read_config, value_range_of, write_config
from fastdcgan.runs.generate import _digest, generate_from_run, load_generator
from fastdcgan.runs.pictures.latents import LatentOfEachSeed, LatentsOfFile
from fastdcgan.storage import checksummed
from fastdcgan.storage.cache import read_cached, write_cached
from fastdcgan.telemetry.metrics import Record, read_metrics
from fastdcgan.telemetry.report import html
from fastdcgan.tuning import choice

SIDE = 16

CONFIG = TrainConfig(
    model=ModelConfig(arch="dcgan16", width=4, latent_dim=6),
    data=DataConfig(data="pictures"),
    run=RunConfig(images=100),
).resolved()

_STAMPS = count(1)


@dataclass(frozen=True, kw_only=True)
class Door:
    """One way in."""

    whole: bytes
    """What it takes as it is."""

    enter: Callable[[bytes, Path], object]
    """Given bytes, and an empty folder of its own that stays the same from call to call."""

    text: bool = False
    """What comes in are words of the user's own, which a refusal repeats as they are: the command line escapes them."""

    lenient: bool = False
    """It leaves out what it can't read, and refuses little."""

    slow: bool = False
    """It draws a whole report."""


# --- Pictures -----------------------------------------------------------------------------------------------------


def encoded(form: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((20, 20)).convert(mode).save(file, form, **options)
    return file.getvalue()


def put(folder: Path, name: str, data: bytes) -> Path:
    """Write a file that differs in its time from the one before, to those who remember."""
    path = folder / name
    path.write_bytes(data)
    stamp = next(_STAMPS)
    os.utime(path, (stamp, stamp))
    return path


def source_in(folder: Path, name: str, data: bytes) -> None:
    """A file that is named as --data."""
    read_all(put(folder, name, data))


def picture_in(folder: Path, name: str, data: bytes) -> None:
    """A file in the folder that is named as --data."""
    put(folder, name, data)
    read_all(folder)


def read_all(path: Path) -> None:
    source = open_source(str(path), resolution=SIDE, channels=3, device="cpu", threads=1, decoder="pillow")
    for pictures_BHWC in source.read([range(len(source))]):
        assert pictures_BHWC.shape[1:] == (SIDE, SIDE, 3)
    assert source.labels is None or len(source.labels.numbers) == len(source)


def picture(form: str, suffix: str, mode: str = "RGB", **options: Any) -> Door:
    return Door(whole=encoded(form, mode, **options), enter=lambda data, at: picture_in(at, f"a.{suffix}", data))


def source(whole: bytes, name: str) -> Door:
    return Door(whole=whole, enter=lambda data, at: source_in(at, name, data))


def tar() -> bytes:
    file, png = io.BytesIO(), encoded("PNG")
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a.png", "é" * 60 + "/b.png", "c.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(png)
            archive.addfile(member, io.BytesIO(png))
        link = tarfile.TarInfo("../../d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return file.getvalue()


LABELS = b'{"labels": [["0/a.png", 1]]}'


def zipped(labels: bytes = LABELS) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("0/a.png", "é" * 60 + "/b.png", "c.txt"):
            archive.writestr(zipfile.ZipInfo(name), encoded("PNG"))
        archive.writestr("d.bmp", bytes(10**5), zipfile.ZIP_DEFLATED)
        archive.writestr("dataset.json", labels)
    return file.getvalue()


def array(save: Callable[..., None], *arrays: np.ndarray[Any, Any], **named: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def idx_file(data: bytes, at: Path) -> None:
    read_idx_images(put(at, FILE_NAME, data))


def batch_of_cifar10(data: bytes, at: Path) -> None:
    try:
        _batch_from_pickle(data)
    except _BATCH_ERRORS as error:  # which open_cifar10 turns into one line
        raise ValueError(type(error).__name__) from error


def labels_of_folder(data: bytes, at: Path) -> None:
    (at / "0").mkdir(exist_ok=True)
    put(at, "0/a.png", encoded("PNG"))
    picture_in(at, "dataset.json", data)


def index_of_folder(data: bytes, at: Path) -> None:
    """What the cache says of the folder's pictures, with a checksum that is right."""
    put(at, "a.png", encoded("PNG"))
    os.utime(at / "a.png", (1, 1))
    write_cached(folders._cache_path(at), data)
    assert len(folders.scan_folder(at)) == 1, "the cache is no reason to leave a picture out"
    read_all(at)


def an_index_of_a_folder() -> bytes:
    with a_folder() as at:
        put(at, "a.png", encoded("PNG"))
        os.utime(at / "a.png", (1, 1))
        folders.scan_folder(at)
        return read_cached(folders._cache_path(at)) or b""


def index_of_shard(data: bytes, at: Path) -> None:
    path = str(put(at, "a.tar", tar()))
    os.utime(path, (1, 1))
    write_cached(shard_cache.cache_path(path), data)
    with suppress(ValueError):
        shards.open_shards(path)
    read_all(Path(path))


def an_index_of_a_shard() -> bytes:
    with a_folder() as at:
        path = str(put(at, "a.tar", tar()))
        os.utime(path, (1, 1))
        shards.open_shards(path)
        return read_cached(shard_cache.cache_path(path)) or b""


def manifest_of_pack() -> bytes:
    fields = {"source": "s", "fingerprint": "f", "count": 1, "resolution": 16, "channels": 3, "rule": "r", "format": 1}
    more = {"checksum": "c", "mtime_ns": 1, "skipped": [{"path": "p", "reason": "r", "foreign": False}]}
    return json.dumps(fields | more).encode()


# --- Weights ------------------------------------------------------------------------------------------------------


def weights(*, legacy: bool) -> bytes:
    file = io.BytesIO()
    generator, _ = build(ARCH, seed=0)
    named = {name.replace("layers.", "main.", 1): tensor for name, tensor in generator.state_dict().items()}
    torch.save(named, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def imported(data: bytes, at: Path) -> None:
    shutil.rmtree(at / "run", ignore_errors=True)
    import_weights([put(at, "netG.pth", data)], at / "run")


# --- Runs ---------------------------------------------------------------------------------------------------------


def a_run(at: Path) -> RunFolder:
    """A run's folder of one checkpoint, made once."""
    run = RunFolder(at / "run")
    if not run.config.exists():
        for folder in (run.samples, run.checkpoints):
            folder.mkdir(parents=True)
        train(state := fresh(), 1)
        save(run.checkpoints, state, ARCH, Progress(step=2, images=10), keep=3, run="r")
        Image.new("RGB", (38, 38), "red").save(run.samples / "step-00000002.png")
        Image.new("RGB", (38, 38), "red").save(run.real)
        write_config(run, CONFIG, ARCH, {"run_id": "r", "steps": 2, "processes": 1, "device": "cpu"})
    return run


def in_run(name: str, read: Callable[[RunFolder], object]) -> Callable[[bytes, Path], None]:
    """A file of a run is other bytes for once."""

    def enter(data: bytes, at: Path) -> None:
        run = a_run(at)
        path = run.path / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(data)
        try:
            read(run)
        finally:
            path.unlink() if before is None else path.write_bytes(before)

    return enter


def read_configuration(run: RunFolder) -> None:
    for condition in ("data", "run_id", "changes"):
        read_condition(run, condition)
    taken = value_range_of(run)
    assert taken is None or all(map(math.isfinite, map(float, taken)))
    config = read_config(run)
    config.model.architecture()


def configuration() -> bytes:
    conditions = {"data": "d", "run_id": "r", "steps": 2, "processes": 1, "device": "cpu", "skipped": 1, "threads": 1}
    more = {"value_range": [0, 1], "begun_from": {"run": "a", "step": 1}, "changes": [], "hardware": {"cpu": "x"}}
    record = {"architecture": ARCH.record(), "versions": {"torch": "2"}, "command": ["fastdcgan", "train"]}
    return json.dumps({"config": flat(CONFIG), "conditions": conditions | more, **record}).encode()


def metrics() -> bytes:
    record = dict.fromkeys(Record.__dataclass_fields__, 1)
    return b"".join(json.dumps(record | {"step": step}).encode() + b"\n" for step in range(1, 4))


def evaluations() -> bytes:
    return b"".join(json.dumps(asdict(ONE) | {"step": step}).encode() + b"\n" for step in (2, 4))


def read_all_evaluations(run: RunFolder) -> None:
    read_evaluations(run.evaluations)
    forget_later_steps(run.evaluations, 3)


def report(run: RunFolder) -> None:
    unread = html.write_report(run)
    assert all(isinstance(line, str) for line in unread)


def whichever_is_best(run: RunFolder) -> None:
    known_best(run, 10)
    read_best(run)


def in_checkpoint(name: str, *, sealed: bool) -> Callable[[bytes, Path], None]:
    """A file of a checkpoint is other bytes for once; sealed: as whoever wrote them would, with the right checksums."""

    def enter(data: bytes, at: Path) -> None:
        run = a_run(at)
        path = at / "damaged" / "step-00000002"
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(run.checkpoints / path.name, path)
        (path / name).write_bytes(data)
        if sealed:
            (path / checksummed.MANIFEST).unlink()
            checksummed._write_manifest(path)
        state = fresh()
        checkpoint.restore(checkpoint.read(path, state, ARCH, "r"), state)

    return enter


def of_checkpoint(name: str) -> bytes:
    with a_folder() as at:
        return (a_run(at).checkpoints / "step-00000002" / name).read_bytes()


def journal(data: bytes, at: Path) -> None:
    """Of pictures that were half written: another one says to go on elsewhere, or to begin anew."""
    run, out = a_run(at), at / "pictures.npy"
    (at / ".pictures.npy.unfinished").write_bytes(array(np.save, np.zeros((2, SIDE, SIDE, 3), np.uint8)))
    (at / ".pictures.npy.journal").write_bytes(data)
    out.unlink(missing_ok=True)
    generate_from_run(run.path, out=out, count=2)
    assert out.stat().st_size > 0


def a_journal() -> bytes:
    with a_folder() as at:
        generator, *_ = load_generator(a_run(at).path)
    device = next(generator.parameters()).device.type
    weights = _digest(generator)
    request = {"count": 2, "step": 2, "seed": 0, "weights": weights, "truncation": None, "device": device}
    return json.dumps({"request": request, "done": 2, "bytes": 1664}).encode()


# --- The cache, and words of the user's ---------------------------------------------------------------------------

CONDITIONS = {"architecture": {"name": "a"}, "batch": 1}


def cached_plan(data: bytes, at: Path) -> None:
    path = choice._cache_file(CONDITIONS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    choice.load_choice(CONDITIONS, [Plan()])


def a_cached_plan() -> bytes:
    fields = {"plan": choice.plan_fields(Plan()), "date": "2026-01-02", "speedup": 1.5}
    return json.dumps({"conditions": CONDITIONS, **fields}).encode()


def latents_of_file(data: bytes, at: Path) -> None:
    found = LatentsOfFile(put(at, "z.npy", data), 6)
    for z_BL in found.batches(2):
        assert z_BL.dtype == torch.float32 and torch.isfinite(z_BL).all()


def seeds(data: bytes, at: Path) -> None:
    found = LatentOfEachSeed.parsed(data.decode("utf-8", "surrogateescape"), 6)
    assert len(found) > 0 and found.name(0).startswith("seed-") and found.identity()
    assert found.name(len(found) - 1)
    assert next(found.batches(2)).shape[1] == 6


def value_range(data: bytes, at: Path) -> None:
    """The words, and arrays seen by them."""
    found = parse_value_range(data.decode("utf-8", "surrogateescape"))
    path = at / "a.npy"
    if not path.exists():
        path.write_bytes(fractions())
    opened = open_source(str(path), resolution=SIDE, channels=3, device="cpu", threads=1, value_range=found)
    for pictures_BHWC in opened.read([range(len(opened))]):
        assert pictures_BHWC.shape == (4, SIDE, SIDE, 3)


def fractions() -> bytes:
    return array(np.save, np.linspace(-3, 9, 1024, dtype=np.float32).reshape(4, 16, 16))


class a_folder:  # noqa: N801 (used like a function)
    """A temporary folder, and a cache of its own."""

    def __enter__(self) -> Path:
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self._before = os.environ.get("FASTDCGAN_CACHE")
        os.environ["FASTDCGAN_CACHE"] = str(Path(self._folder.name) / "cache")
        (at := Path(self._folder.name) / "at").mkdir()
        return at

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ["FASTDCGAN_CACHE"]
        else:
            os.environ["FASTDCGAN_CACHE"] = self._before
        self._folder.cleanup()


PIXELS = np.zeros((4, SIDE, SIDE, 3), np.uint8)

DOORS: dict[str, Door] = {
    "png": picture("PNG", "png"),
    "jpeg": picture("JPEG", "jpg", progressive=True),
    "tiff": picture("TIFF", "tif"),
    "pnm": picture("PPM", "pgm", "L"),
    "avif": picture("AVIF", "avif"),
    "jpeg 2000": picture("JPEG2000", "jp2", "L"),
    "ico": picture("ICO", "ico"),
    "webp": picture("WEBP", "webp"),
    "gif": picture("GIF", "gif", "P"),
    "bmp": picture("BMP", "bmp"),
    "tar": source(tar(), "a.tar"),
    "zip": source(zipped(), "a.zip"),
    "npy": source(array(np.save, PIXELS), "a.npy"),
    "npy of fractions": source(fractions(), "a.npy"),
    "folder of npy": Door(whole=fractions(), enter=lambda data, at: picture_in(at, "a.npy", data)),
    "npz": source(array(np.savez_compressed, images=PIXELS, labels=np.arange(4)), "a.npz"),
    "idx": Door(whole=struct.pack(">IIII", 0x0803, 4, 16, 16) + bytes(1024), enter=idx_file),
    "batch of cifar10": Door(
        whole=pickle.dumps({"batch_label": "1", "data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}, 3),
        enter=batch_of_cifar10,
    ),
    "dataset.json": Door(whole=LABELS, enter=labels_of_folder, lenient=True),
    "dataset.json in a zip": Door(
        whole=LABELS, enter=lambda data, at: source_in(at, "a.zip", zipped(data)), lenient=True
    ),
    "index of a folder": Door(whole=an_index_of_a_folder(), enter=index_of_folder, lenient=True),
    "index of a shard": Door(whole=an_index_of_a_shard(), enter=index_of_shard, lenient=True),
    "manifest of a pack": Door(
        whole=manifest_of_pack(), enter=lambda data, at: read_manifest(put(at, "a.json", data)), lenient=True
    ),
    "cached file": Door(whole=b"00000000\n", enter=lambda data, at: read_cached(put(at, "c", data)), lenient=True),
    "weights": Door(whole=weights(legacy=False), enter=imported),
    "weights of old": Door(whole=weights(legacy=True), enter=imported),
    "config.json": Door(whole=configuration(), enter=in_run("config.json", read_configuration)),
    "metrics.jsonl": Door(
        whole=metrics(), enter=in_run("metrics.jsonl", lambda run: read_metrics(run.metrics)), lenient=True
    ),
    "evaluations.jsonl": Door(
        whole=evaluations(), enter=in_run("evaluations.jsonl", read_all_evaluations), lenient=True
    ),
    "best.json": Door(whole=b'{"step": 2, "metric": "m", "value": 0.5}', enter=in_run("best.json", whichever_is_best)),
    "config.json reported": Door(whole=configuration(), enter=in_run("config.json", report), lenient=True, slow=True),
    "metrics.jsonl reported": Door(whole=metrics(), enter=in_run("metrics.jsonl", report), lenient=True, slow=True),
    "evaluations.jsonl reported": Door(
        whole=evaluations(), enter=in_run("evaluations.jsonl", report), lenient=True, slow=True
    ),
    "end.json reported": Door(
        whole=b'{"failed": "x", "machine": {"name": "m", "flops": {"fp32": 1e9}, "bytes": 1e9}}',
        enter=in_run("end.json", report),
        lenient=True,
        slow=True,
    ),
    "profile reported": Door(
        whole=b'{"verdict": {"sentence": "s"}, "operators": [{"name": "conv", "device_ms": 1.5, "calls": 3}]}',
        enter=in_run("profile/summary.json", report),
        lenient=True,
        slow=True,
    ),
    "grid reported": Door(
        whole=encoded("PNG"), enter=in_run("samples/step-00000002.png", report), lenient=True, slow=True
    ),
    **{
        f"{name} of a checkpoint{', sealed' * sealed}": Door(
            whole=of_checkpoint(name), enter=in_checkpoint(name, sealed=sealed)
        )
        for name, sealed in (
            (checksummed.MANIFEST, False),
            (STATE_FILE, False),
            (STATE_FILE, True),
            (GENERATOR_FILE, True),
        )
    },
    "journal": Door(whole=a_journal(), enter=journal, lenient=True),
    "plan cache": Door(whole=a_cached_plan(), enter=cached_plan, lenient=True),
    "--latents": Door(whole=array(np.save, latents(0, 0, 0, 3, 6).numpy()), enter=latents_of_file),  # type: ignore[arg-type]
    "--seeds": Door(whole=b"0-99,200, 3000-4000", enter=seeds, text=True),
    "--value-range": Door(whole=b"-1,1.5e3", enter=value_range, text=True),
}
