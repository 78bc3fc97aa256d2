// A matrix product of 8 rows by 32 columns, from which larger ones are made.
//
// Numbers are float, or bf16 multiplied in pairs and added up in float. A *word* is 32 bits: one float, or two bf16 with
// neighbouring indices of the sum. A *panel* is a matrix of 32 columns, in words, row by row.
#pragma once

#include "vector.hpp"

namespace {

constexpr int64_t PANEL = 32, ROWS = 8;

// C[m][n] (+)= sum over k of A[m][k] B[k][n], in words; `row` and `step` are A's strides.
template <class T, bool ADD>
inline void product(int64_t depth, const uint32_t *A, int64_t row, int64_t step, const uint32_t *B, float *C, int64_t ldc) {
    Vector sum[ROWS][2];
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < 2; n++) sum[m][n] = ADD ? load(C + m * ldc + n * LANES) : Vector{};
    for (int64_t k = 0; k < depth; k++) {
        const Words left = load(B + k * PANEL), right = load(B + k * PANEL + LANES);
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; m++) {
            uint32_t a = A[m * row + k * step];
            sum[m][0] = multiply_add((const T *)nullptr, a, left, sum[m][0]);
            sum[m][1] = multiply_add((const T *)nullptr, a, right, sum[m][1]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < 2; n++) store(C + m * ldc + n * LANES, sum[m][n]);
}

} // namespace
