"""How much Winograd's F(M, 2) errs at various points, against direct sums: python -m benchmarks.winograd_points.

The matrices are those of `fastdcgan/kernels/native/transforms.hpp`, in exact arithmetic from the points; the data are
random. Errors are distances to fp64 over lengths, as in the parity tests. Sums are added up one term after the other,
where the kernels add up blocks of terms.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

POINTS = {
    "F(2, 2)": ("0 1", "1 -1", "1/2 -1/2"),
    "F(4, 2)": (
        "0 1 -1 2",
        "0 1 -1 1/2",
        "1/2 -1/2 1 -1",
        "1/2 -1/2 3/2 -3/2",
        "1/2 -1/2 5/4 -5/4",
        "3/8 -3/8 5/4 -5/4",
    ),
}
"""Finite points; infinity is one more."""


def matrices(points: list[Fraction]) -> tuple[Array, Array, Array]:
    """The input, filter and output matrices: a row for each point, the last for infinity."""
    rows_input, rows_filter, rows_output = [], [], []
    for point in points:
        others = [other for other in points if other != point]
        distance = math.prod((point - other for other in others), start=Fraction(1))
        rows_input.append([*_multiplied_out(others), Fraction(0)])
        rows_filter.append([1 / distance, point / distance])
        rows_output.append([point**i for i in range(len(points))])
    rows_input.append(_multiplied_out(points))
    rows_filter.append([Fraction(0), Fraction(1)])
    rows_output.append([Fraction(i == len(points) - 1) for i in range(len(points))])
    return _as_floats(rows_input), _as_floats(rows_filter), _as_floats(rows_output)


def _as_floats(rows: list[list[Fraction]]) -> Array:
    return np.array([[float(x) for x in row] for row in rows], np.float32)


def _multiplied_out(roots: list[Fraction]) -> list[Fraction]:
    """The coefficients of the product of (x - root)."""
    polynomial = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *polynomial], [*(root * x for x in polynomial), Fraction(0)]
        polynomial = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return polynomial


def errors(points: list[Fraction], channels: int = 256, tiles: int = 48, seed: int = 0) -> dict[str, float]:
    """Of one tile's convolution, its transpose and its weight gradient, each relative to that of direct sums."""
    to_input, to_filter, to_output = matrices(points)
    M = len(points)
    rng = np.random.default_rng(seed)
    d_TCNN = rng.standard_normal((tiles, channels, M + 1, M + 1)).astype(np.float32)
    g_CKK = rng.standard_normal((channels, 2, 2)).astype(np.float32)
    y_TCMM = rng.standard_normal((tiles, channels, M, M)).astype(np.float32)
    u, v, w = _both(to_filter, g_CKK), _both(to_input, d_TCNN), _both(to_output, y_TCMM)

    found = {
        "convolution": _both(to_output.T, _sum(u[:, None], v.swapaxes(0, 1))),
        "transposed": _both(to_input.T, _sum(u[:, None], w.swapaxes(0, 1))),
        "weight gradient": _both(to_filter.T, _sum(v, w)),
    }

    truth, summed = _direct(d_TCNN, g_CKK, y_TCMM, np.float64), _direct(d_TCNN, g_CKK, y_TCMM, np.float32)
    return {name: _distance(found[name], truth[name]) / _distance(summed[name], truth[name]) for name in found}


def _direct(d_TCNN: Array, g_CKK: Array, y_TCMM: Array, dtype: type[np.floating]) -> dict[str, Array]:
    """What the three are by definition."""
    d_CTNN, y_CTMM = (x.swapaxes(0, 1).astype(dtype) for x in (d_TCNN, y_TCMM))
    g_CKK = g_CKK.astype(dtype)
    M, one = y_CTMM.shape[-1], np.ones(1, dtype)
    transposed_CTNN = np.zeros_like(d_CTNN)
    terms, gradients = [], []
    for a, b in np.ndindex(2, 2):
        g_C111, window_CTMM = g_CKK[:, a, b][:, None, None, None], d_CTNN[:, :, a : a + M, b : b + M]
        terms.append(g_C111 * window_CTMM)
        transposed_CTNN[:, :, a : a + M, b : b + M] += g_C111 * y_CTMM
        by_position = (x.transpose(1, 2, 3, 0).reshape(-1, len(g_CKK)) for x in (window_CTMM, y_CTMM))
        gradients.append(_sum(*by_position))
    return {
        "convolution": _sum(np.concatenate(terms), one),
        "transposed": _sum(transposed_CTNN, one),
        "weight gradient": np.stack(gradients, -1).reshape(-1, 2, 2),
    }


def _both(matrix: Array, x: Array) -> Array:
    """A matrix along both of the last two axes."""
    half: Array = np.einsum("ij,...jk->...ik", matrix, x)
    both: Array = np.einsum("...ik,lk->...il", half, matrix)
    return both


def _sum(a: Array, b: Array) -> Array:
    """Of the products along the first axis, one after the other."""
    total: Array = np.zeros(np.broadcast_shapes(a.shape[1:], b.shape[1:]), a.dtype)
    for k in range(len(a)):
        total += a[k] * (b[k] if len(b) == len(a) else b)
    return total


def _distance(found: Array, truth: Array) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def main() -> None:
    """Print a table."""
    print("error in fp32 over that of direct sums, 256 channels, 48 tiles: median of 5 seeds")
    print(f"{'':9}{'points, and infinity':24}{'convolution':>12}{'transposed':>12}{'weight gradient':>17}")
    for algorithm, sets in POINTS.items():
        for points in sets:
            fractions = [Fraction(point) for point in points.split()]
            runs = [errors(fractions, seed=seed) for seed in range(5)]
            medians = [np.median([run[name] for run in runs]) for name in runs[0]]
            print(f"{algorithm:9}{points:24}{medians[0]:12.2f}{medians[1]:12.2f}{medians[2]:17.2f}")


if __name__ == "__main__":
    main()
