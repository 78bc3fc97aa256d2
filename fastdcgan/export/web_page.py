"""A static folder that plays a generator in the browser, through onnxruntime-web; it loads nothing from elsewhere.

index.html, app.js, style.css    as they lie in `web/` beside this file
generator.onnx                   as `--to onnx` writes it
model.json                       geometry, names, classes, how many latents and directions there are
latents.f32                      the noise of the first pictures of seed 0, fp32 [N, latent_dim]
directions.f32                   principal directions of the latents, fp32 [K, latent_dim], each of length 1
runtime/                         onnxruntime-web's files
"""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from fastdcgan.api.generator import Generator
from fastdcgan.export.chosen import Chosen, check_installed, choose
from fastdcgan.export.onnx_file import FILE, INPUT, LABELS, OUTPUT, checked_onnx
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.checkpoints.folder import Named
from fastdcgan.runs.folder import converting_write_errors
from fastdcgan.runs.generate import with_skipped
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable

PAGE = ("index.html", "app.js", "style.css")

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Of `dist` in the npm package: for CPUs, which every browser has."""

PACKAGE, SHA512 = (
    "onnxruntime-web@1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
"""What is fetched, and the checksum that npm's registry states for it, in base64."""

FETCH_SECONDS = 300

SEEDED, DIRECTIONS = 240, 8


def export_web(
    run: Path, out: Path, *, checkpoint: Named = "latest", raw: bool = False, runtime: Path | None = None
) -> str:
    """Write the folder. Where it has onnxruntime-web's files already, they stay.

    Args:
        run: the run's folder.
        out: the folder.
        checkpoint: as in `load_generator`.
        raw: likewise.
        runtime: a folder with the files `RUNTIME`. None: they are fetched by npm.

    Returns:
        lines for the user.

    Raises:
        ValueError: there is no such run or checkpoint, a package or npm is missing, or `out` can't be written.
    """
    check_installed("web", "onnx", "onnxscript", "onnxruntime")
    chosen = choose(run, checkpoint=checkpoint, raw=raw)
    model, _ = checked_onnx(chosen, "fp32")
    there = out / "runtime"
    if runtime is None and not all((there / name).is_file() for name in RUNTIME):
        with fetched_runtime() as folder:
            _write(out, chosen, model, folder)
    else:
        _write(out, chosen, model, runtime)
    return with_skipped(
        chosen.skipped,
        f"step {chosen.step:,} of {run}: {out}. Browsers need a server, any will do: python -m http.server -d {out}",
    )


def principal_directions(generator: Generator, count: int) -> Tensor:
    """Unit vectors of the latents along which G's first layer changes most: fp32 [count, latent_dim], orthogonal.

    The right singular vectors of the first layer's weights, scaled as the BatchNorm behind it scales them (Shen & Zhou
    2021, "Closed-Form Factorization of Latent Semantics in GANs").
    """
    first, norm = generator.layers[0], generator.layers[1]
    assert isinstance(first, nn.ConvTranspose2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    scale_C = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    of_noise_LCHW = first.weight[: generator.arch.latent_dim]  # a class's numbers stand behind it
    weights_LN = (of_noise_LCHW * scale_C[None, :, None, None]).flatten(1).detach().double()
    directions_LK = torch.linalg.svd(weights_LN, full_matrices=False).U[:, :count]
    # The sign is arbitrary: the largest component is positive, so that another machine finds the same one.
    signs_K = directions_LK.gather(0, directions_LK.abs().argmax(0, keepdim=True)).sign()
    directions_KL: Tensor = (directions_LK * signs_K).T.float().contiguous()
    return directions_KL


@contextmanager
def fetched_runtime() -> Iterator[Path]:
    """A folder with onnxruntime-web's files, from npm's registry as the user has set it up. Raises ValueError."""
    npm = shutil.which("npm")
    how = f"or --runtime FOLDER, with {', '.join(RUNTIME)} of the package {PACKAGE}"
    if npm is None:
        raise ValueError(f"--to web needs npm to fetch onnxruntime-web once, {how}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS, cwd=folder)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise ValueError(f"npm can't fetch {PACKAGE}: {said[-1] if said else 'it says nothing'}; {how}") from error
        (archive,) = Path(folder).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != SHA512:
            raise ValueError(f"what npm fetched is not {PACKAGE}: its SHA-512 is {found}, not {SHA512}; {how}")
        with tarfile.open(archive) as opened:
            for name in RUNTIME:
                member = opened.extractfile(f"package/dist/{name}")
                assert member is not None
                (Path(folder) / name).write_bytes(member.read())
        yield Path(folder)


def _write(out: Path, chosen: Chosen, model: bytes, runtime: Path | None) -> None:
    arch = chosen.generator.arch
    directions_KL = principal_directions(chosen.generator, min(DIRECTIONS, arch.latent_dim))
    description = {
        "name": printable(chosen.run.resolve().name),
        "step": chosen.step,
        "latent_dim": arch.latent_dim,
        "height": arch.resolution.height,
        "width": arch.resolution.width,
        "channels": arch.channels,
        "seeded": SEEDED,
        "directions": len(directions_KL),
        "model": FILE,
        "input": INPUT,
        "output": OUTPUT,
        **({"labels": LABELS, "classes": list(map(printable, arch.classes))} if arch.classes else {}),
    }
    files = {
        FILE: model,
        "model.json": json.dumps(description, indent=2).encode() + b"\n",
        "latents.f32": _bytes(latents(0, Stream.GENERATE, 0, SEEDED, arch.latent_dim)),
        "directions.f32": _bytes(directions_KL),
        **{name: resources.files("fastdcgan.export").joinpath("web", name).read_bytes() for name in PAGE},
    }
    if runtime is not None:
        for name in RUNTIME:
            if not (runtime / name).is_file():
                raise ValueError(f"--runtime {runtime}: has no {name}; it is in dist/ of the npm package {PACKAGE}")
            files[f"runtime/{name}"] = (runtime / name).read_bytes()
    with converting_write_errors(out):
        (out / "runtime").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_replacing(out / name, content)


def _bytes(numbers: Tensor) -> bytes:
    return numbers.contiguous().numpy().astype("<f4").tobytes()
