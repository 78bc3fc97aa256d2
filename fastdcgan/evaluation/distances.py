"""Distances between real and generated pictures, from their features: torch-fidelity computes them, and is known here.

Heusel et al. 2017 (Fréchet), Bińkowski et al. 2018 (kernel), Kynkäänniemi et al. 2019 (precision and recall).
"""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 50, 1000
"""The kernel distance is the mean over so many random subsets of so many pictures, or of half of few."""

NEIGHBOURS = 3
"""A picture is within a set if it is no farther from one of it than that one's third neighbour there."""

_ROWS_AT_A_TIME = 1000
"""Of the table of all distances between pictures, which would be gigabytes."""

INSTALL = "pip install 'fastdcgan[metrics]'"


@dataclass(frozen=True, kw_only=True)
class Distances:
    """How far generated pictures are from real ones."""

    frechet: float | None
    """0 or more, lower is better; it falls with the number of pictures. None for no more pictures than features: their
    covariance would be singular, and the figure mostly that."""

    kernel: float
    """0 in expectation for equal distributions, lower is better; unbiased, so that it may be a little below 0."""

    kernel_std: float
    """Standard deviation over the subsets."""

    precision: float
    """Share of generated pictures among the real ones: low where they are bad."""

    recall: float
    """Share of real pictures among the generated ones: low where kinds are missing."""


def check_installed() -> None:
    """Raises ValueError, naming the extra, if torch-fidelity is missing."""
    if find_spec("torch_fidelity") is None:
        raise ValueError(f"measuring pictures needs torch-fidelity: {INSTALL}")


def distances(generated_NF: NDArray[np.float32], real_NF: NDArray[np.float32]) -> Distances:
    """Compare as many generated pictures as real ones.

    Args:
        generated_NF: features, a row a picture; more than `NEIGHBOURS` of them.
        real_NF: likewise, as many.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    assert generated_NF.shape == real_NF.shape, (generated_NF.shape, real_NF.shape)
    count, features = real_NF.shape
    assert count > NEIGHBOURS, count
    # A mean of thousands of squares loses digits in float32.
    generated, real = (torch.from_numpy(one_NF.astype(np.float64)) for one_NF in (generated_NF, real_NF))
    frechet = None
    if count > features:
        statistics = fid_features_to_statistics(generated), fid_features_to_statistics(real)
        frechet = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    kernel = kid_features_to_metric(
        generated,
        real,
        kid_subsets=KERNEL_SUBSETS,
        kid_subset_size=KERNEL_SUBSET_SIZE if count >= 2 * KERNEL_SUBSET_SIZE else (count + 1) // 2,
        verbose=False,
    )
    # Only which of two distances is the greater counts here.
    within = prc_features_to_metric(
        generated.float(),
        real.float(),
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=_ROWS_AT_A_TIME,
        save_cpu_ram=True,
        verbose=False,
    )
    return Distances(
        frechet=frechet,
        kernel=kernel[KEY_METRIC_KID_MEAN],
        kernel_std=kernel[KEY_METRIC_KID_STD],
        precision=within[KEY_METRIC_PRECISION],
        recall=within[KEY_METRIC_RECALL],
    )
