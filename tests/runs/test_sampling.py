import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.runs.sampling import CHUNK, generate, generate_uint8, grid, save_grid

ARCH = architecture("dcgan16", width=4, latent_dim=6)


@pytest.fixture
def generator() -> nn.Module:
    """Statistics as after some training: fresh ones would look right even if they were not used."""
    network, _ = models.build(ARCH, seed=0)
    rng = torch.Generator().manual_seed(1)
    for _ in range(10):
        network(torch.randn(16, 6, generator=rng))
    return network


def noise(count: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(2))


def test_pictures_are_fp32_in_range_and_hold_no_graph(generator: nn.Module) -> None:
    pictures_BCHW = generate(generator, noise(5))
    assert (pictures_BCHW.shape, pictures_BCHW.dtype) == ((5, 3, 16, 16), torch.float32)
    assert pictures_BCHW.device.type == "cpu"
    assert pictures_BCHW.abs().max() <= 1
    assert not pictures_BCHW.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_generating_changes_nothing_else(generator: nn.Module, training: bool) -> None:
    generator.train(training)
    next(generator.parameters()).requires_grad_(False)
    generator(noise(4)).sum().backward()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in generator.parameters()]
    wanted = [p.requires_grad for p in generator.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    generate(generator, noise(CHUNK + 3))

    after = generator.state_dict()
    assert any(name.endswith("running_mean") for name in before)
    assert not [name for name in before if not torch.equal(before[name], after[name])]
    assert {module.training for module in generator.modules()} == {training}
    assert [p.requires_grad for p in generator.parameters()] == wanted
    for old, parameter in zip(gradients, generator.parameters(), strict=True):
        assert parameter.grad is None if old is None else torch.equal(old, parameter.grad)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert torch.is_grad_enabled()


def test_training_mode_comes_back_after_a_failure(generator: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        generate(generator, torch.randn(2, 7))
    assert generator.training
    assert torch.is_grad_enabled()


def test_a_picture_does_not_depend_on_the_others(generator: nn.Module) -> None:
    z_BL = noise(CHUNK + 5)
    together = generate(generator, z_BL)
    assert len(together) == CHUNK + 5
    for number in (0, 3, CHUNK - 1, CHUNK, CHUNK + 4):
        alone = generate(generator, z_BL[number : number + 1])
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=1e-5)
    torch.testing.assert_close(generate(generator, z_BL.flip(0)), together.flip(0), rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3, "other noise, other picture"


def test_the_statistics_of_training_are_used(generator: nn.Module) -> None:
    in_training = generator(noise(5))
    assert not torch.allclose(generate(generator, noise(5)), in_training, atol=1e-3)


def pictures(count: int, channels: int, side: int = 8) -> Tensor:
    """Every picture of one colour of its own."""
    levels = torch.linspace(-1, 1, count * channels).reshape(count, channels, 1, 1)
    return levels.expand(count, channels, side, side).clone()


@pytest.mark.parametrize(("channels", "mode"), [(1, "RGB"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(2, 2, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3), (12, 4, 3), (64, 8, 8)]
)
def test_a_grid_is_as_square_as_it_can_be(
    count: int, columns: int, rows: int, channels: int, mode: str, tmp_path: Path
) -> None:
    path = save_grid(pictures(count, channels), tmp_path / "grid.png")
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", mode)
        assert image.size == (columns * (8 + 2) + 2, rows * (8 + 2) + 2)


@pytest.mark.parametrize(
    ("height", "width", "columns"), [(8, 8, 8), (16, 8, 8), (8, 16, 8), (24, 8, 16), (32, 8, 16), (8, 32, 4)]
)
def test_a_grid_of_long_pictures_is_about_as_high_as_wide(
    height: int, width: int, columns: int, tmp_path: Path
) -> None:
    with Image.open(save_grid(torch.zeros(64, 1, height, width), tmp_path / "grid.png")) as image:
        assert image.size == (columns * (width + 2) + 2, 64 // columns * (height + 2) + 2)


def test_a_grid_holds_the_pictures_row_by_row(tmp_path: Path) -> None:
    colours = pictures(5, 3)
    with Image.open(save_grid(colours, tmp_path / "grid.png")) as image:
        for number, picture in enumerate(colours):
            row, column = divmod(number, 3)
            found = image.getpixel((column * 10 + 6, row * 10 + 6))
            assert found == pytest.approx(((picture[:, 0, 0] + 1) * 127.5).tolist(), abs=1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grid_of_one_is_the_picture(channels: int, tmp_path: Path) -> None:
    with Image.open(save_grid(pictures(1, channels), tmp_path / "grid.png")) as image:
        assert image.size == (8, 8)


def test_a_grid_is_within_what_a_picture_can_show() -> None:
    wild = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 10
    before = wild.clone()
    shown = grid(wild)
    assert (shown.min(), shown.max()) == (0, 1)
    assert torch.equal(wild, before)


def test_the_extremes_are_black_and_white() -> None:
    extremes = nn.Parameter(torch.tensor([-5.0, -1.0, 0.0, 1.0, 5.0]).expand(2, 1, 1, 5))

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pictures_BCHW = extremes

        def forward(self, z_BL: Tensor) -> Tensor:
            return self.pictures_BCHW.clone()

    assert generate_uint8(Constant(), noise(2))[:, 0, :, 0].tolist() == [[0, 0, 128, 255, 255]] * 2
