"""Exported generators make the same pictures elsewhere; what can't be exported is said in one line."""

import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fastdcgan import Generator, Run, cli, train
from fastdcgan.evaluation.records import Evaluation, append_evaluations
from fastdcgan.export import onnx_file
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.folder import RunFolder
from fastdcgan.runs.sampling import generate

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra `export`",
)


@pytest.fixture(scope="module", params=[("dcgan16", 3), ("dcgan28", 1)], ids=["dcgan16", "dcgan28"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    arch, channels = request.param
    folder, side = tmp_path_factory.mktemp("private-photographs"), int(arch[5:])
    pictures_NHWC = np.random.default_rng(0).integers(0, 2, (16, side, side, channels), np.uint8) * 255
    np.save(folder / "pictures.npy", pictures_NHWC)
    model = {"arch": arch, "width": 4, "channels": channels, "batch_size": 4, "images": 64, "lr": 0.02, "ema": 0.5}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fastdcgan.telemetry.report.end_of_run.device_ceilings", lambda *_: None)
        how = {"device": "cpu", "checkpoint_every": 8, "track": "none", "quiet": True}
        return train(data=folder / "pictures.npy", **model, out=folder / "run", **how)


def export(run: Run, out: Path, *options: object) -> None:
    cli.main(list(map(str, ("export", run.path, "--out", out, *options))))


def wanted(run: Run, z_BL: torch.Tensor) -> torch.Tensor:
    return generate(Generator.from_run(run), z_BL)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 0.02)])
def test_onnx(run: Run, precision: str, tolerance: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    import onnxruntime

    export(run, tmp_path, "--to", "onnx", "--precision", precision)
    said = capsys.readouterr()
    assert f"step 16 of {run.path} in {precision}" in said.out and said.err == "" and said.out.count("\n") == 1
    model = onnx.load(tmp_path / "generator.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {prop.key: prop.value for prop in model.metadata_props}["step"] == "16"
    halves = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
    assert {halves[tensor.data_type] for tensor in model.graph.initializer if len(tensor.dims) == 4} == {precision}
    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx")
    for batch in (1, 7):
        z_BL = latents(9, Stream.GENERATE, 0, batch, 100 if run.config["arch"] == "dcgan16" else 50)
        (found,) = session.run(None, {"z": z_BL.numpy()})
        assert np.abs(found - wanted(run, z_BL).numpy()).max() < tolerance
        assert found.std() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 0.02)])
def test_torch(run: Run, precision: str, tolerance: float, tmp_path: Path) -> None:
    export(run, tmp_path, "--to", "torch", "--precision", precision)
    module = torch.export.load(tmp_path / "generator.pt2").module()
    z_BL = latents(9, Stream.GENERATE, 0, 5, run.config["latent_dim"])
    assert (module(z_BL) - wanted(run, z_BL)).abs().max() < tolerance


@pytest.mark.slow
def test_a_checkpoint_and_the_last_weights(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path, "--to", "torch", "--checkpoint", 8, "--weights", "last")
    z_BL = latents(9, Stream.GENERATE, 0, 5, run.config["latent_dim"])
    found = torch.export.load(tmp_path / "generator.pt2").module()(z_BL)
    of_it = generate(Generator.from_run(run, checkpoint=8, weights="last"), z_BL)
    assert (found - of_it).abs().max() < 1e-5 < (found - wanted(run, z_BL)).abs().max()


@needs_onnx
def test_a_file_of_other_pictures_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_file, "_onnx", lambda *_: b"")
    monkeypatch.setattr(onnx_file, "_in_onnxruntime", lambda _: lambda z_BL: wanted(run, z_BL) + 2e-5)
    with pytest.raises(SystemExit):
        export(run, tmp_path / "out", "--to", "onnx")
    assert "nothing is written: its pictures would differ by 2.0e-05" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(onnx_file, "_in_onnxruntime", lambda _: lambda z_BL: wanted(run, z_BL) * float("nan"))
    with pytest.raises(SystemExit):
        export(run, tmp_path / "out", "--to", "onnx")


def test_hub(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "faces-16"
    export(run, out, "--to", "hub")
    assert capsys.readouterr().out.startswith(f"step 16 of {run.path}: {out}. Look at README.md")
    names = {"README.md", "config.json", "losses.png", "model.safetensors", "samples.png"}
    assert {path.name for path in out.iterdir()} == names
    assert np.array_equal(list(Generator.from_pretrained(out).sample(3)), list(Generator.from_run(run).sample(3)))
    with Image.open(out / "samples.png") as samples:
        assert np.array_equal(np.asarray(samples), np.asarray(Generator.from_run(run).grid(64)))

    card = (out / "README.md").read_text()
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata)["pipeline_tag"] == "unconditional-image-generation"
    assert (
        text.startswith("\n# faces-16\n") and "16 pictures." in text and "| pictures seen | 64 (4.0 epochs) |" in text
    )
    assert "Nothing was measured" in text and "| `objective` | rpgan |" in text and "| step | 16 |" in text
    assert all((out / link).is_file() for link in re.findall(r"!\[.*?\]\((.*?)\)", text))
    everything = b"".join(path.read_bytes() for path in out.iterdir())
    assert b"private-photographs" not in everything, "where the pictures are is nobody's business"

    (out / "README.md").write_text("mine")
    export(run, out, "--to", "hub")
    assert (out / "README.md").read_text() == "mine" and "README.md was there and is kept" in capsys.readouterr().out


def test_the_card_states_what_was_measured_of_these_weights(run: Run, tmp_path: Path) -> None:
    labels = {
        "extractor": "a",
        "frechet_label": "Fréchet distance, A",
        "kernel_label": "Kernel distance, A",
        "real": "x",
    }
    figures = {"kernel": 0.25, "kernel_std": 0.01, "precision": 0.5, "recall": 0.4, "seconds": 1.0}
    measured = Evaluation(
        **{"step": 16, "images": 64, "weights": "average", "pictures": 2000, "seed": 0, "repeat": 0, "training": False},
        **labels,
        **figures,
        frechet=12.346,
    )
    others = [replace(measured, step=8, frechet=99.0), replace(measured, weights="last", frechet=88.0)]
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    append_evaluations(RunFolder(copy).evaluations, [measured, *others, replace(measured, frechet=None, kernel=0.5)])
    export(Run(copy), tmp_path / "out", "--to", "hub")
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "- Fréchet distance, A: **12.35**; Kernel distance, A: **0.25**" in card
        and "2,000 pictures on each side" in card
    )
    assert "- Kernel distance, A: **0.5** (± 0.01)" in card
    assert "99" not in card.split("## Evaluation")[1] and "88" not in card.split("## Evaluation")[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "hub", "--precision", "fp16"], "--precision fp16 is for --to onnx and --to torch, not for --to hub"),
        (["--to", "tutorial", "--checkpoint", "8"], "leave --checkpoint and --weights away"),
        (["--to", "torch", "--checkpoint", "9"], "those of steps 8, 16"),
        (["--to", "onnx"], "--to onnx needs onnxruntime: pip install 'fastdcgan[export]'"),
    ],
)
def test_what_cannot_be_exported(
    run: Run,
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = {"onnx": find_spec("json"), "onnxscript": find_spec("json"), "onnxruntime": None}
    monkeypatch.setattr("fastdcgan.export.chosen.find_spec", missing.get)
    with pytest.raises(SystemExit) as end:
        export(run, tmp_path / "out", *options)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
