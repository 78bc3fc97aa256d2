// A matrix product of ROWS rows by PANEL columns, from which larger ones are made.
//
// Numbers are float, or bf16 multiplied in pairs and added up in float. A *word* is 32 bits: one float, or two bf16 with
// neighbouring indices of the sum. A *panel* is a matrix of PANEL columns, in words, row by row.
#pragma once

#include "vector.hpp"

namespace {

constexpr int64_t PANEL = 2 * LANES;

// Sums that stay in registers: ROWS x 2 of the 32 of AVX-512, of the 16 of AVX2. Each word of a panel is used ROWS times.
#ifdef __AVX512F__
constexpr int64_t ROWS = 8;
#else
constexpr int64_t ROWS = 6;
#endif

constexpr int64_t round_up(int64_t number, int64_t multiple) { return (number + multiple - 1) / multiple * multiple; }

// C[m][n] (+)= sum over k of A[m][k] B[k][n], in words. A's rows are `lda` words apart, or, if A is COLUMN_MAJOR, its columns;
// B's and C's rows are `ldb` and `ldc` apart.
template <class T, bool ADD, bool COLUMN_MAJOR = false>
inline void product(int64_t depth, const uint32_t *A, int64_t lda, const uint32_t *B, int64_t ldb, float *C, int64_t ldc) {
    Vector sum[ROWS][2] = {};
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; k++) {
        const Words left = load(B + k * ldb), right = load(B + k * ldb + LANES);
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; m++) {
            const uint32_t a = COLUMN_MAJOR ? A[k * lda + m] : A[m * lda + k];
            sum[m][0] = multiply_add((const T *)nullptr, a, left, sum[m][0]);
            sum[m][1] = multiply_add((const T *)nullptr, a, right, sum[m][1]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < 2; n++) {
            float *to = C + m * ldc + n * LANES;
            store(to, ADD ? load(to) + sum[m][n] : sum[m][n]); // a sum of sums rounds less than one long sum
        }
}

} // namespace
