import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_extractor import ToyNetwork, toy_extractor

from fastdcgan.data.array import ArraySource
from fastdcgan.evaluation.features import generated_features, real_features
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.runs.sampling import generate

ARCH = architecture("dcgan16", width=4, latent_dim=6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def numbered_pictures(count: int) -> ArraySource:
    """Pictures whose first pixel is their number, and whose last is not."""
    pixels_NHWC = np.zeros((count, 4, 4, 3), np.uint8)
    pixels_NHWC[:, 0, 0] = np.arange(count)[:, None]
    return ArraySource(pixels_NHWC, description="", origin="")


class Counted(ArraySource):
    reads = 0

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        self.reads += 1
        return super().read(batches)


def test_real_pictures_are_the_sources_own_pixels_each_at_most_once() -> None:
    source, network = numbered_pictures(200), ToyNetwork()
    features_NF = real_features(source, 70, toy_extractor(network), flip=False).features
    numbers = (255 * features_NF[:, 0]).round().astype(int).tolist()
    assert len(set(numbers)) == 70
    assert max(numbers) > 150 and min(numbers) < 50, "from all over the source, not its first"
    seen_NHWC = torch.cat(network.seen).numpy()
    assert np.array_equal(seen_NHWC, source.pictures_NHWC[numbers])
    assert np.array_equal(real_features(source, 70, toy_extractor(network, "again"), flip=False).features, features_NF)


def test_all_pictures_where_as_many_are_wanted() -> None:
    features_NF = real_features(numbered_pictures(40), 40, toy_extractor(ToyNetwork()), flip=False).features
    assert (255 * features_NF[:, 0]).round().tolist() == list(range(40))


def test_half_are_mirrored_where_training_mirrors() -> None:
    source, network = numbered_pictures(200), ToyNetwork()
    real_features(source, 200, toy_extractor(network), flip=True)
    seen_NHWC = torch.cat(network.seen).numpy()
    mirrored = [not np.array_equal(seen, own) for seen, own in zip(seen_NHWC, source.pictures_NHWC, strict=True)]
    assert 70 < sum(mirrored) < 130
    for seen_HWC, own_HWC, turned in zip(seen_NHWC, source.pictures_NHWC, mirrored, strict=True):
        assert np.array_equal(seen_HWC, own_HWC[:, ::-1] if turned else own_HWC)


def test_the_real_side_is_read_once() -> None:
    source, network = Counted(numbered_pictures(80).pictures_NHWC, description="", origin=""), ToyNetwork()
    extractor = toy_extractor(network)
    first = real_features(source, 60, extractor, flip=False)
    assert source.reads == 1
    again = real_features(source, 60, extractor, flip=False)
    assert np.array_equal(first.features, again.features) and first.identity == again.identity
    assert source.reads == 1
    real_features(source, 50, extractor, flip=False)
    real_features(source, 60, toy_extractor(network, "other weights"), flip=False)
    real_features(source, 60, extractor, flip=True)
    assert source.reads == 4


def test_a_damaged_cache_is_computed_again(tmp_path: Path) -> None:
    source, extractor = (
        Counted(numbered_pictures(60).pictures_NHWC, description="", origin=""),
        toy_extractor(ToyNetwork()),
    )
    wanted_NF = real_features(source, 60, extractor, flip=False).features
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    assert np.array_equal(real_features(source, 60, extractor, flip=False).features, wanted_NF)
    assert source.reads == 2


def test_the_identity_is_of_the_pixels() -> None:
    """Figures of two machines can be compared where the pictures are the same, whatever their files."""
    extractor, pixels_NHWC = toy_extractor(ToyNetwork()), numbered_pictures(60).pictures_NHWC

    def identity(pixels_NHWC: np.ndarray, fingerprint: str, *, flip: bool = False) -> str:
        source = ArraySource(pixels_NHWC, description="", origin="", fingerprint=fingerprint)
        return real_features(source, 60, extractor, flip=flip).identity

    other_NHWC = pixels_NHWC.copy()
    other_NHWC[7, 3, 3] += 1
    assert identity(pixels_NHWC, "here") == identity(pixels_NHWC, "there")
    assert identity(other_NHWC, "other") != identity(pixels_NHWC, "here")
    assert identity(pixels_NHWC, "here", flip=True) != identity(pixels_NHWC, "here")


def test_generated_pictures_are_rounded_to_levels_not_cut() -> None:
    """Real ones are whole levels; cut instead of rounded, generated ones would be half a level darker."""
    generator, _ = models.build(ARCH, seed=0)
    z_NL = torch.randn(70, 6, generator=torch.Generator().manual_seed(0))
    network = ToyNetwork()
    features_NF = generated_features(generator, z_NL, toy_extractor(network)).astype(float)
    seen_NHWC = torch.cat(network.seen)
    assert features_NF.shape == (70, 4) and seen_NHWC.dtype == torch.uint8
    exact_NHWC = generate(generator, z_NL).add(1).mul(127.5).permute(0, 2, 3, 1)
    error = seen_NHWC - exact_NHWC
    assert float(error.abs().max()) <= 0.501
    assert abs(float(error.mean())) < 0.02


def test_progress_ends_at_the_number_of_pictures() -> None:
    told: list[tuple[int, int]] = []
    real_features(
        numbered_pictures(70),
        70,
        toy_extractor(ToyNetwork()),
        flip=False,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (70, 70) and len(told) == 18, "four at a time, of batches of 16"


def test_several_threads_keep_the_order_and_compute_alone() -> None:
    """The first pictures take longest; a thread that shared its arithmetic would wait for the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    shared: list[int] = []

    def features_of(pictures_BHWC: Tensor) -> Tensor:
        shared.append(torch.get_num_threads())
        time.sleep(0.2 if not pictures_BHWC[0].any() else 0)
        return pictures_BHWC[:, 0, 0].float()

    extractor = replace(toy_extractor(ToyNetwork(features=3)), features_of=features_of, threads=3)
    try:
        features_NF = real_features(numbered_pictures(70), 70, extractor, flip=False).features
        assert features_NF[:, 0].tolist() == list(range(70))
        assert set(shared) == {1}
        with ThreadPoolExecutor(1) as new_thread:
            assert torch.get_num_threads() == new_thread.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)
