"""Weights in the layout of PyTorch's DCGAN example and tutorial, there and back."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastdcgan import cli
from fastdcgan.export.tutorial import export_tutorial, import_weights
from fastdcgan.gan import reference
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.generate import load_generator
from fastdcgan.runs.sampling import generate

Layers = tuple[list[reference.Layer], list[reference.Layer]]

LAYERS = {
    "dcgan16": reference.layers_of_size(16, 16, channels=1, width=6, latent_dim=5),
    "dcgan64": reference.layers_64(channels=3, width=4, latent_dim=7),
    "dcgan128": reference.layers_of_size(128, 128, channels=4, width=2, latent_dim=9),
    "dcgan28": reference.layers_28(),
    "dcgan48": reference.layers_of_size(48, 48, channels=3, width=3, latent_dim=4),
    "dcgan64x32": reference.layers_of_size(64, 32, channels=1, width=6, latent_dim=7),
}


class Tutorial(nn.Module):
    """Either network of the example: modules, order and names as there."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*modules)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.main(x_BCHW)
        return out


def tutorial_generator(layers: list[reference.Layer]) -> Tutorial:
    modules: list[nn.Module] = []
    for a, b, kernel, stride, padding in layers:
        modules += [nn.ConvTranspose2d(a, b, kernel, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]
    return Tutorial(*modules[:-2], nn.Tanh())


def tutorial_discriminator(layers: list[reference.Layer]) -> Tutorial:
    modules: list[nn.Module] = []
    for number, (a, b, kernel, stride, padding) in enumerate(layers):
        modules.append(nn.Conv2d(a, b, kernel, stride, padding, bias=False))
        if number == len(layers) - 1:
            modules.append(nn.Sigmoid())
        else:
            modules += [nn.BatchNorm2d(b)] * (number > 0) + [nn.LeakyReLU(0.2, inplace=True)]
    return Tutorial(*modules)


def learned_something(network: Tutorial, seed: int) -> Tutorial:
    """With all tensors away from what they are initialised to."""
    rng = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 4:  # scaled, so that Tanh and Sigmoid don't saturate
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / (2 * tensor.shape[0] ** 0.5))
        elif tensor.is_floating_point():
            low = 0.5 if name.endswith(("weight", "running_var")) else -0.3
            tensor.copy_(torch.rand(tensor.shape, generator=rng) + low)
    return network.eval()


def saved(tmp_path: Path, layers: Layers, prefix: str = "") -> tuple[Tutorial, Tutorial, Path, Path]:
    g = learned_something(tutorial_generator(layers[0]), 1)
    d = learned_something(tutorial_discriminator(layers[1]), 2)
    for network, name in ((g, "a.pth"), (d, "b.pth")):
        torch.save({prefix + key: tensor for key, tensor in network.state_dict().items()}, tmp_path / name)
    return g, d, tmp_path / "a.pth", tmp_path / "b.pth"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("name", LAYERS)
def test_pictures_are_the_same_there_and_back(tmp_path: Path, name: str, prefix: str) -> None:
    g, d, file_g, file_d = saved(tmp_path, LAYERS[name], prefix)
    run = tmp_path / "run"
    assert import_weights([file_d, file_g], run).startswith(f"imported {name}, ")
    generator, arch, progress, _ = load_generator(run)
    z_BL = latents(3, Stream.GENERATE, 0, 5, arch.latent_dim)
    with torch.no_grad():
        theirs_BCHW = g(z_BL[:, :, None, None])
    assert theirs_BCHW.std() > 0.05
    assert progress.step == 0
    torch.testing.assert_close(generate(generator, z_BL), theirs_BCHW, rtol=0, atol=1e-6)

    said = export_tutorial(run, tmp_path / "back")
    assert ("load these once they have the layers of" in said) == (name != "dcgan64")
    g2, d2 = tutorial_generator(LAYERS[name][0]).eval(), tutorial_discriminator(LAYERS[name][1]).eval()
    g2.load_state_dict(torch.load(tmp_path / "back" / "netG.pth", weights_only=True))
    d2.load_state_dict(torch.load(tmp_path / "back" / "netD.pth", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(g2(z_BL[:, :, None, None]), theirs_BCHW, rtol=0, atol=1e-6)
        torch.testing.assert_close(d2(theirs_BCHW), d(theirs_BCHW), rtol=0, atol=1e-6)


def test_an_imported_run_generates_interpolates_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, file_g, _ = saved(tmp_path, LAYERS["dcgan16"])
    run = tmp_path / "run"
    cli.main(["import", str(file_g), "--out", str(run)])
    assert "with a new discriminator" in capsys.readouterr().out
    cli.main(["generate", str(run), "--count", "3", "--out", str(tmp_path / "grid.png")])
    cli.main(["interpolate", str(run), "--frames", "3", "--out", str(tmp_path / "walk.gif")])
    cli.main(["report", str(run)])
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size[0] > 32
    assert (tmp_path / "walk.gif").is_file() and (run / "report.html").is_file()
    conditions = json.loads((run / "config.json").read_text())["conditions"]
    assert conditions["imported_from"] == [str(file_g)]


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    file, proof = tmp_path / "a.pth", tmp_path / "it-ran"
    torch.save({"main.0.weight": Hostile(proof)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds more than tensors"):
        import_weights([file], tmp_path / "run")
    assert not proof.exists() and not (tmp_path / "run").exists()


def refusal(tmp_path: Path, *files: Path) -> str:
    with pytest.raises(ValueError) as error:
        import_weights(list(files), tmp_path / "run")
    assert not (tmp_path / "run").exists() and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("start", [b"\x89PNG\r\n", b"{}", b""])
def test_another_kind_of_file_is_not_said_to_be_a_network(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(start)
    assert refusal(tmp_path, file) == (
        f"{file} can't be read: it is not of torch.save: name a network's weights, as netG.pth"
    )


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    g, d, file_g, file_d = saved(tmp_path, LAYERS["dcgan64"])
    assert "is of a discriminator, which makes no pictures" in refusal(tmp_path, file_d)
    assert "are both of a generator" in refusal(tmp_path, file_g, file_g)
    other = tmp_path / "c.pth"
    state = g.state_dict()
    torch.save(state | {"main.4.weight": torch.ones(3)}, other)
    assert "main.4.weight is [3] there, [16] here" in refusal(tmp_path, other)
    torch.save({key: tensor for key, tensor in state.items() if key != "main.4.running_var"}, other)
    assert "main.4.running_var is missing there, [16] here" in refusal(tmp_path, other)
    torch.save(state | {"main.0.bias": torch.ones(32)}, other)
    assert "main.0.bias is [32] there, unknown here" in refusal(tmp_path, other)
    torch.save(state | {"main.0.weight": torch.full_like(state["main.0.weight"], float("nan"))}, other)
    assert "main.0.weight has numbers that are not finite" in refusal(tmp_path, other)
    torch.save(nn.Linear(3, 4).state_dict(), other)
    assert "'weight' is no tensor of a DCGAN" in refusal(tmp_path, other)
    torch.save(nn.Sequential(nn.Linear(3, 4)).state_dict(), other)
    assert "main.0.weight is of shape [4, 3], not a convolution's" in refusal(tmp_path, other)
    torch.save({"main.0.weight": torch.ones(1).expand(2**20, 2**20, 4, 4)}, other)
    assert "claims more than the file has" in refusal(tmp_path, other)
    torch.save(torch.ones(3), other)
    assert "no state_dict" in refusal(tmp_path, other)
    small = tmp_path / "small"
    small.mkdir()
    _, _, _, other_d = saved(small, LAYERS["dcgan16"])
    assert "main.0.weight is [6, 1, 4, 4] there, [4, 3, 4, 4] here" in refusal(tmp_path, file_g, other_d)
    assert d.training is False


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"words", b"\x80\x02."])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert str(tmp_path / "a.pth") in refusal(tmp_path, tmp_path / "a.pth")


def test_a_run_is_not_overwritten_and_a_file_of_weights_names_the_command(tmp_path: Path) -> None:
    _, _, file_g, _ = saved(tmp_path, LAYERS["dcgan16"])
    with pytest.raises(ValueError, match=f"fastdcgan import {file_g} --out runs/a"):
        load_generator(file_g)
    import_weights([file_g], tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run"):
        import_weights([file_g], tmp_path / "run")
