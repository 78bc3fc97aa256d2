"""How much Winograd's F(M, 2) errs at various points, against direct sums: python -m benchmarks.winograd_points.

The matrices are those of `fastdcgan/kernels/native/transforms.hpp`, in exact arithmetic from the points; the data are
random. Errors are distances to fp64 over lengths, as in the parity tests. Sums are added up one term after the other,
where the kernels add up blocks of terms. In bf16 transformed numbers are rounded, as are results, but those of our
weight gradients.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_CHANNELS, _TILES_SUMMED = 256, 48

POINTS = {
    "F(2, 2)": ("0 1", "1 -1", "1/2 -1/2", "5/8 -5/8", "3/4 -3/4"),
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

CHOSEN = {2: "5/8 -5/8", 4: "3/8 -3/8 5/4 -5/4"}
"""The kernels' points, by M."""

TILES = (((2, 2), "fp32"), ((4, 2), "fp32"), ((4, 4), "fp32"), ((2, 2), "bf16"), ((4, 2), "bf16"), ((4, 4), "bf16"))
"""Heights and widths, and what the numbers are. The kernels have no tiles of 4 x 4 in bf16."""


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


def errors(down: list[Fraction], across: list[Fraction], precision: str = "fp32", seed: int = 0) -> dict[str, float]:
    """Of one tile's convolution, its transpose and its weight gradient, each relative to that of direct sums.

    Args:
        down: points along the first side.
        across: points along the second one.
        precision: fp32 or bf16.
        seed: of the data.
    """
    rounded = _to_bf16 if precision == "bf16" else np.asarray
    (to_input, to_filter, to_output), (input_, filter_, output) = matrices(down), matrices(across)
    H, W = len(down), len(across)
    rng = np.random.default_rng(seed)
    d_TCNN = rounded(rng.standard_normal((_TILES_SUMMED, _CHANNELS, H + 1, W + 1)).astype(np.float32))
    g_CKK = rng.standard_normal((_CHANNELS, 2, 2)).astype(np.float32)
    y_TCMM = rounded(rng.standard_normal((_TILES_SUMMED, _CHANNELS, H, W)).astype(np.float32))
    u = rounded(_both(to_filter, filter_, g_CKK))
    v = rounded(_both(to_input, input_, d_TCNN))
    w = rounded(_both(to_output, output, y_TCMM))
    found = {
        "convolution": rounded(_both(to_output.T, output.T, _sum(u[:, None], v.swapaxes(0, 1)))),
        "transposed": rounded(_both(to_input.T, input_.T, _sum(u[:, None], w.swapaxes(0, 1)))),
        "weight gradient": _both(to_filter.T, filter_.T, _sum(v, w)),
    }

    truth, summed = _direct(d_TCNN, g_CKK, y_TCMM, np.float64), _direct(d_TCNN, rounded(g_CKK), y_TCMM, np.float32)
    return {name: _distance(found[name], truth[name]) / _distance(rounded(summed[name]), truth[name]) for name in found}


def _to_bf16(x: Array) -> Array:
    """The nearest numbers that bf16 has, in fp32."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def _direct(d_TCNN: Array, g_CKK: Array, y_TCMM: Array, dtype: type[np.floating]) -> dict[str, Array]:
    """What the three are by definition."""
    d_CTNN, y_CTMM = (x.swapaxes(0, 1).astype(dtype) for x in (d_TCNN, y_TCMM))
    g_CKK = g_CKK.astype(dtype)
    (H, W), one = y_CTMM.shape[-2:], np.ones(1, dtype)
    transposed_CTNN = np.zeros_like(d_CTNN)
    terms, gradients = [], []
    for a, b in np.ndindex(2, 2):
        g_C111, window_CTMM = g_CKK[:, a, b][:, None, None, None], d_CTNN[:, :, a : a + H, b : b + W]
        terms.append(g_C111 * window_CTMM)
        transposed_CTNN[:, :, a : a + H, b : b + W] += g_C111 * y_CTMM
        by_position = (x.transpose(1, 2, 3, 0).reshape(-1, len(g_CKK)) for x in (window_CTMM, y_CTMM))
        gradients.append(_sum(*by_position))
    return {
        "convolution": _sum(np.concatenate(terms), one),
        "transposed": _sum(transposed_CTNN, one),
        "weight gradient": np.stack(gradients, -1).reshape(-1, 2, 2),
    }


def _both(down: Array, across: Array, x: Array) -> Array:
    """A matrix along each of the last two axes."""
    half: Array = np.einsum("ij,...jk->...ik", down, x)
    both: Array = np.einsum("...ik,lk->...il", half, across)
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
    """Print a table of points, and one of tiles."""
    print(f"error over that of direct sums, {_CHANNELS} channels, {_TILES_SUMMED} tiles: median of 5 seeds")
    print(f"{'':33}{'convolution':>12}{'transposed':>12}{'weight gradient':>17}")
    for algorithm, sets in POINTS.items():
        for points in sets:
            _print_row(f"{algorithm} at {points}", points, points, "fp32")
    for (height, width), precision in TILES:
        _print_row(f"tiles of {height} x {width} in {precision}", CHOSEN[height], CHOSEN[width], precision)


def _parsed(points: str) -> list[Fraction]:
    return [Fraction(point) for point in points.split()]


def _print_row(label: str, down: str, across: str, precision: str) -> None:
    runs = [errors(_parsed(down), _parsed(across), precision, seed) for seed in range(5)]
    medians = [np.median([run[name] for run in runs]) for name in runs[0]]
    print(f"{label:33}{medians[0]:12.2f}{medians[1]:12.2f}{medians[2]:17.2f}")


if __name__ == "__main__":
    main()
