import numpy as np
import pytest
from numpy.typing import NDArray

from fastdcgan.evaluation import distances as module
from fastdcgan.evaluation.distances import check_installed, distances

Features = NDArray[np.float32]


def normal(count: int, features: int, seed: int, *, mean: float = 0.0, scale: float = 1.0) -> Features:
    return np.random.default_rng(seed).normal(mean, scale, (count, features)).astype(np.float32)


def frechet_from_its_definition(a_NF: Features, b_NF: Features) -> float:
    """Dowson & Landau 1982, with the root of a symmetric matrix, in float64."""
    a, b = a_NF.astype(np.float64), b_NF.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def test_equal_sets_are_at_no_distance() -> None:
    same_NF = normal(400, 8, seed=0)
    found = distances(same_NF, same_NF)
    assert found.frechet == pytest.approx(0, abs=1e-6)
    assert (found.precision, found.recall) == (1, 1)
    assert abs(distances(same_NF, normal(400, 8, seed=1)).kernel) < 0.05


def test_frechet_is_what_its_definition_says() -> None:
    generated_NF, real_NF = normal(600, 16, seed=0, mean=0.5, scale=2), normal(600, 16, seed=1)
    found = distances(generated_NF, real_NF).frechet
    assert found == pytest.approx(frechet_from_its_definition(generated_NF, real_NF), rel=1e-6)
    assert found == pytest.approx(16 * (0.5**2 + (2 - 1) ** 2), rel=0.1), "of two isotropic normal distributions"


def test_statistics_are_taken_in_float64() -> None:
    """A small difference on features that are far from 0: of the squares float32 keeps not one digit of it."""
    generated_NF, real_NF = normal(1500, 4, 0, mean=4096, scale=0.5), normal(1500, 4, 1, mean=4096, scale=0.4)
    found = distances(generated_NF, real_NF).frechet
    assert found == pytest.approx(frechet_from_its_definition(generated_NF, real_NF), rel=1e-6)
    assert found == pytest.approx(4 * 0.1**2, rel=0.2)


@pytest.mark.parametrize("count", [50, 64])
def test_no_frechet_of_no_more_pictures_than_features(count: int) -> None:
    found = distances(normal(count, 64, seed=0, mean=3), normal(count, 64, seed=1))
    assert found.frechet is None
    assert found.kernel > 1, "the kernel distance needs no covariance"
    assert distances(normal(65, 64, seed=0), normal(65, 64, seed=1)).frechet is not None


def test_the_kernel_distance_does_not_depend_on_the_number_of_pictures() -> None:
    """As the Fréchet distance does: that is why few pictures have it alone."""
    few, many = (distances(normal(n, 32, 0, mean=0.3), normal(n, 32, 1)) for n in (100, 1500))
    assert few.frechet is not None and many.frechet is not None
    assert few.frechet > 1.6 * many.frechet
    assert few.kernel == pytest.approx(many.kernel, rel=0.35)


def test_precision_is_of_the_generated_and_recall_of_the_real() -> None:
    """Real pictures of two kinds, generated ones of one of them: all are good, half of the kinds are missing."""
    one, other = normal(200, 4, seed=0), normal(200, 4, seed=1, mean=100)
    real_NF = np.concatenate((one, other))
    generated_NF = np.concatenate((normal(200, 4, seed=2, scale=0.5), normal(200, 4, seed=3, scale=0.5)))
    found = distances(generated_NF, real_NF)
    assert found.precision > 0.95
    assert found.recall < 0.55
    swapped = distances(real_NF, generated_NF)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def test_as_many_generated_pictures_as_real_ones() -> None:
    with pytest.raises(AssertionError):
        distances(normal(60, 4, seed=0), normal(61, 4, seed=0))


def test_the_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    distances(normal(60, 4, seed=0), normal(60, 4, seed=1))
    assert np.array_equal(np.random.get_state()[1], before)


def test_the_extra_is_named_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"torch-fidelity: pip install 'fastdcgan\[metrics\]'"):
        check_installed()
