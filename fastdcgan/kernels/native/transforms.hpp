// The transforms of Winograd's F(M, 2): M neighbouring outputs of a kernel of 2 from M + 1 products instead of 2 M.
//
// Sums y_i = d_i g_0 + d_(i+1) g_1 are coefficients of a product of polynomials, seen from the other side. Toom and Cook
// evaluate both polynomials at M + 1 points, of which the last is infinity, multiply the values and interpolate; Winograd's
// algorithm is the transpose (Winograd 1980; Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks",
// section 4):
//
//     y = OUTPUT^T ((FILTER g) * (INPUT d))
//
// The matrices follow from the points: a row for each, a column for each tap, pixel or output. Along both sides of a picture
// a matrix is applied to rows and to columns.
#pragma once

#include "vector.hpp"

namespace {

// The points are chosen for accuracy. At 0, 1, -1, 2, the usual ones, F(4, 2) would err twice as much, at 0, 1 F(2, 2) 1.6
// times (`python -m benchmarks.winograd_points`). p and -p share sums.
template <int M> constexpr float POINTS[M] = {};
template <> constexpr float POINTS<2>[2] = {0.625, -0.625};
template <> constexpr float POINTS<4>[4] = {0.375, -0.375, 1.25, -1.25};

template <int M> struct Matrices {
    float input[M + 1][M + 1] = {}, filter[M + 1][2] = {}, output[M + 1][M] = {};

    static const Matrices ALL;

    constexpr Matrices() {
        for (int k = 0; k < M; k++) {
            float from_others = 1;
            for (int other = 0; other < M; other++)
                if (other != k) from_others *= POINTS<M>[k] - POINTS<M>[other];
            multiply_out(input[k], k);
            filter[k][0] = 1 / from_others;
            filter[k][1] = POINTS<M>[k] / from_others;
            output[k][0] = 1;
            for (int i = 1; i < M; i++) output[k][i] = output[k][i - 1] * POINTS<M>[k];
        }
        multiply_out(input[M], M);
        filter[M][1] = output[M][M - 1] = 1;
    }

    // The coefficients of the product of (x - p) over all points but one.
    static constexpr void multiply_out(float *polynomial, int left_out) {
        polynomial[0] = 1;
        for (int k = 0, degree = 0; k < M; k++) {
            if (k == left_out) continue;
            degree++;
            for (int i = degree; i >= 0; i--) polynomial[i] = (i ? polynomial[i - 1] : 0) - POINTS<M>[k] * polynomial[i];
        }
    }
};

template <int M> constexpr Matrices<M> Matrices<M>::ALL{};

// One of the matrices, as a type.
template <int M> struct InputMatrix { static constexpr auto &at = Matrices<M>::ALL.input; static constexpr int ROWS = M + 1, COLUMNS = M + 1; };
template <int M> struct FilterMatrix { static constexpr auto &at = Matrices<M>::ALL.filter; static constexpr int ROWS = M + 1, COLUMNS = 2; };
template <int M> struct OutputMatrix { static constexpr auto &at = Matrices<M>::ALL.output; static constexpr int ROWS = M + 1, COLUMNS = M; };

// Calls f(0), ..., f(COUNT - 1), each number a constant of a type of its own.
template <int COUNT, class F> INLINE void unrolled(F f) { unrolled(std::make_integer_sequence<int, COUNT>(), f); }
template <int... I, class F> INLINE void unrolled(std::integer_sequence<int, I...>, F f) { (f(std::integral_constant<int, I>()), ...); }

// Of points p and -p the rows of a matrix are equal in the even columns, and opposite in the odd ones, or the other way
// round. So they share their sums: 1 or -1 if there is a pair at k and k + 1, else 0.
template <class Matrix> constexpr int pair_sign(int k) {
    if (k < 0 || k + 1 >= Matrix::ROWS - 1) return 0;
    for (int sign : {1, -1}) {
        bool pair = true;
        for (int i = 0; i < Matrix::COLUMNS; i++) pair = pair && Matrix::at[k + 1][i] == (i % 2 ? -sign : sign) * Matrix::at[k][i];
        if (pair) return sign;
    }
    return 0;
}

// sum += coefficient x. Coefficients of 0 cost nothing, those of 1 and -1 no multiplication.
struct Sum {
    Vector value;
    bool empty = true;

    INLINE void add(float coefficient, Vector x) {
        if (coefficient == 0) return;
        if (empty)
            value = coefficient == 1 ? x : coefficient * x;
        else
            value = coefficient == 1 ? value + x : coefficient == -1 ? value - x : value + coefficient * x;
        empty = false;
    }
};

// values = matrix x.
template <class Matrix> INLINE void evaluate(const Vector (&x)[Matrix::COLUMNS], Vector (&values)[Matrix::ROWS]) {
    unrolled<Matrix::ROWS>([&](auto k) INLINED {
        constexpr int sign = pair_sign<Matrix>(k);
        if (pair_sign<Matrix>(k - 1)) return; // done with the row before
        Sum even, odd;
        unrolled<Matrix::COLUMNS>([&](auto i) INLINED {
            constexpr float coefficient = Matrix::at[k][i];
            (sign && i % 2 ? odd : even).add(coefficient, x[i]);
        });
        if constexpr (sign == 0)
            values[k] = even.value;
        else
            values[k] = even.value + odd.value, values[k + 1] = sign == 1 ? even.value - odd.value : odd.value - even.value;
    });
}

// x = matrix^T values, for the first COUNT of x.
template <class Matrix, int COUNT> INLINE void interpolate(const Vector (&values)[Matrix::ROWS], Vector (&x)[COUNT]) {
    unrolled<COUNT>([&](auto i) INLINED {
        Sum sum;
        unrolled<Matrix::ROWS>([&](auto k) INLINED {
            constexpr int sign = pair_sign<Matrix>(k) * (i % 2 ? -1 : 1);
            constexpr float coefficient = Matrix::at[k][i];
            if (pair_sign<Matrix>(k - 1)) return;
            if constexpr (sign == 0)
                sum.add(coefficient, values[k]);
            else
                sum.add(coefficient, sign == 1 ? values[k] + values[k + 1] : values[k] - values[k + 1]);
        });
        x[i] = sum.value;
    });
}

} // namespace
