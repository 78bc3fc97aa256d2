"""What D sees: the reference's changes, picture by picture, whatever the batch, the layout and the numbers drawn."""

import pytest
import torch
from torch import Tensor

from fastdcgan.config import AugmentName
from fastdcgan.gan import reference
from fastdcgan.gan.augment import NUMBERS, augment
from fastdcgan.gan.randomness import Stream, uniform

ALL: tuple[AugmentName, ...] = ("colour", "translation", "cutout")
HIGHEST = 1 - 2**-14


def pictures(side: int, channels: int = 3, count: int = 8) -> Tensor:
    rng = torch.Generator().manual_seed(side)
    return torch.rand(count, channels, side, side, generator=rng, dtype=torch.float64) * 2 - 1


def drawn(count: int = 8, step: int = 1) -> Tensor:
    return uniform(0, Stream.AUGMENT, step, count, NUMBERS)


@pytest.mark.parametrize("names", [ALL, *((name,) for name in ALL)], ids=str)
@pytest.mark.parametrize(("side", "channels"), [(16, 3), (28, 1), (32, 4), (128, 3)])
def test_it_is_the_references_with_its_gradient(side: int, channels: int, names: tuple[AugmentName, ...]) -> None:
    x, twin = (pictures(side, channels).requires_grad_() for _ in range(2))
    found, wanted = augment(x, drawn(), names), reference.augment(twin, drawn(), names)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert not torch.equal(found, x)
    direction = pictures(side + 1, channels)[:, :, :side, :side]
    found.backward(direction), wanted.backward(direction)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("number", [0.0, 0.5, HIGHEST])
def test_the_ends_of_what_is_drawn_are_the_references_too(number: float) -> None:
    x, uniform_BN = pictures(512, 1, 1).float(), torch.full((1, NUMBERS), number)
    names: tuple[AugmentName, ...] = ("translation", "cutout")
    assert torch.equal(augment(x, uniform_BN, names), reference.augment(x, uniform_BN, names))


def test_numbers_drawn_are_exact_multiples_in_range() -> None:
    numbers = uniform(3, Stream.AUGMENT, 5, 1000, NUMBERS)
    assert numbers.dtype == torch.float32
    assert torch.equal(numbers * 2**14, (numbers * 2**14).round())
    assert numbers.min() >= 0 and numbers.max() <= HIGHEST
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(uniform(3, Stream.AUGMENT, 5, 10, NUMBERS), numbers[:10])
    assert not torch.equal(uniform(3, Stream.AUGMENT, 6, 10, NUMBERS), numbers[:10])


def test_a_picture_is_changed_the_same_whatever_it_is_with() -> None:
    x, uniform_BN = pictures(32).float().contiguous(memory_format=torch.channels_last), drawn()
    whole = augment(x, uniform_BN, ALL)
    for number in range(len(x)):
        assert torch.equal(augment(x[number:][:1], uniform_BN[number:][:1], ALL)[0], whole[number])


def test_pictures_are_changed_each_in_its_own_way() -> None:
    same = pictures(32, count=1).expand(8, -1, -1, -1)
    for name in ALL:
        changed = augment(same, drawn(), (name,))
        # Of 81 shifts, two may be the same.
        assert len({tuple(picture.flatten().tolist()) for picture in changed}) >= 6, name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("names", [ALL, ("translation",), ("cutout",)], ids=str)
def test_the_layout_is_kept_and_halves_become_fp32(layout: torch.memory_format, names: tuple[AugmentName, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        changed = augment(pictures(16).to(dtype).contiguous(memory_format=layout), drawn(), names)
        assert changed.is_contiguous(memory_format=layout)
        assert changed.dtype == torch.float32
