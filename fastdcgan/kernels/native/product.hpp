// A matrix product of ROWS rows by PANEL columns, from which larger ones are made.
//
// Numbers are float, or bf16 multiplied in pairs and added up in float. A *word* is 32 bits: one float, or two bf16 with
// neighbouring indices of the sum. A *panel* is a matrix of PANEL columns, in words, row by row.
//
// `product` multiplies with vectors. A Multiplier does so for a type with whatever the processor has: vectors, or for bf16
// its matrix unit (AMX).
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
template <class T, bool ADD, bool COLUMN_MAJOR = false, int64_t ROWS = ::ROWS>
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

// The same for up to ROWS rows. Fewer take less time, until there are so few sums that each waits for its last one.
template <class T, bool ADD, bool COLUMN_MAJOR = false, int64_t MOST = ROWS>
inline void product_of_rows(int64_t rows, int64_t depth, const uint32_t *A, int64_t lda, const uint32_t *B, int64_t ldb, float *C, int64_t ldc) {
    if constexpr (MOST > 1)
        if (rows < MOST) return product_of_rows<T, ADD, COLUMN_MAJOR, MOST - 1>(rows, depth, A, lda, B, ldb, C, ldc);
    product<T, ADD, COLUMN_MAJOR, MOST>(depth, A, lda, B, ldb, C, ldc);
}

// Calls f(row, rows) for rows from `first` up to `end` in as few products as there can be, of as equal height as there can be.
template <class F> INLINE void for_products(int64_t first, int64_t end, F f) {
    for (int64_t products = (end - first + ROWS - 1) / ROWS; products > 0; products--) {
        const int64_t rows = (end - first + products - 1) / products;
        f(first, rows);
        first += rows;
    }
}

// Vectors. A product has ROWS rows, and a multiple of DEPTH words.
template <class T> struct Multiplier {
    static constexpr int64_t ROWS = ::ROWS, DEPTH = 1;
    static constexpr bool READS_COLUMNS = true; // of A, where that is what lies in the memory at hand

    template <bool ADD, bool COLUMN_MAJOR = false>
    static void multiply(int64_t depth, const uint32_t *A, int64_t lda, const uint32_t *B, int64_t ldb, float *C, int64_t ldc) {
        product<T, ADD, COLUMN_MAJOR>(depth, A, lda, B, ldb, C, ldc);
    }
};

#ifdef __AMX_BF16__
// The matrix unit, whose registers ("tiles") hold 16 rows of 16 words each, and are set up for a thread as long as it has a
// Multiplier. Four of them, 2 x 2, hold sums: so each tile of A and of B that is loaded is used twice.
template <> struct Multiplier<bf16> {
    static constexpr int64_t TILE = 16, ROWS = 2 * TILE, DEPTH = TILE;
    static constexpr bool READS_COLUMNS = false;
    static_assert(PANEL == 2 * TILE);

    Multiplier() {
        struct alignas(64) { // Intel's manual, volume 1, chapter 18
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } setup;
        std::fill_n(setup.row_bytes, 8, TILE * sizeof(uint32_t));
        std::fill_n(setup.rows, 8, TILE);
        memory_is_touched();
        _tile_loadconfig(&setup);
    }
    ~Multiplier() { _tile_release(); }
    Multiplier(const Multiplier &) = delete;

    template <bool ADD, bool COLUMN_MAJOR = false>
    static void multiply(int64_t depth, const uint32_t *A, int64_t lda, const uint32_t *B, int64_t ldb, float *C, int64_t ldc) {
        static_assert(!COLUMN_MAJOR);
        ADD ? load_sums(C, ldc) : clear_sums();
        add_product(depth, A, lda, B, ldb);
        store_sums(C, ldc);
    }

    // The same in steps: the sums stay in the unit.
    static void clear_sums() {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    static void load_sums(const float *C, int64_t ldc) {
        memory_is_touched();
        _tile_loadd(0, C, ldc * sizeof(*C));
        _tile_loadd(1, C + TILE, ldc * sizeof(*C));
        _tile_loadd(2, C + TILE * ldc, ldc * sizeof(*C));
        _tile_loadd(3, C + TILE * ldc + TILE, ldc * sizeof(*C));
    }
    static void store_sums(float *C, int64_t ldc) {
        _tile_stored(0, C, ldc * sizeof(*C));
        _tile_stored(1, C + TILE, ldc * sizeof(*C));
        _tile_stored(2, C + TILE * ldc, ldc * sizeof(*C));
        _tile_stored(3, C + TILE * ldc + TILE, ldc * sizeof(*C));
        memory_is_touched();
    }
    // HALF: of the upper TILE rows alone.
    template <bool HALF = false> static void add_product(int64_t depth, const uint32_t *A, int64_t lda, const uint32_t *B, int64_t ldb) {
        memory_is_touched();
        for (int64_t k = 0; k < depth; k += DEPTH) {
            _tile_loadd(4, A + k, lda * sizeof(*A));
            _tile_loadd(6, B + k * ldb, ldb * sizeof(*B));
            _tile_loadd(7, B + k * ldb + TILE, ldb * sizeof(*B));
            if (!HALF) _tile_loadd(5, A + TILE * lda + k, lda * sizeof(*A));
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (HALF) continue;
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }

  private:
    // GCC's functions don't tell the compiler that they read and write memory.
    static void memory_is_touched() { asm volatile("" ::: "memory"); }
};
#endif

} // namespace
