// Convolutions of kernel 4, stride 2, padding 1, with 9 multiplications where the definition has 16.
//
// A kernel of 4 with stride 2 is a kernel of 2 with stride 1 over the four phases (py, px) of the padded picture: rows
// 2i + py, columns 2j + px. Two neighbouring outputs of a kernel of 2, y0 = d0 g0 + d1 g1 and y1 = d1 g0 + d2 g1, need
// three products instead of four (Winograd 1980; Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural
// Networks", section 4, F(2, 2)):
//
//     m0 = (d0 - d1) g0      m1 = d1 (g0 + g1)      m2 = (d2 - d1) g1      y0 = m0 + m1      y1 = m1 + m2
//
// and the same along the other side of the picture. What is left are nine matrix products, summed over phases and
// channels. The two gradients are the same algorithm transposed. Tests compare with PyTorch's own convolution.
//
// In Winograd's terms: the input transform makes d0 - d1, d1, d2 - d1 of the picture; the filter transform makes g0,
// g0 + g1, g1 of the weights; the output transform adds up the products. The transposed output transform makes y0,
// y0 + y1, y1 of the small side; the transposed input transform adds up products to pixels of the big side.
//
// A kernel of 3 with stride 2 and padding 1 on an odd side is one of 4 whose last taps are zero, on a side one longer.
// That saves no multiplications; it is only faster than other kernels.
//
// Layout: pictures are NHWC ("channels last"); `big` is the picture with twice the resolution (C channels), `small`
// the other (O channels). gather makes small from big, scatter makes big from small. Words and panels: see product.hpp.
//
// Plain C interface, OpenMP, GCC's vector types: nothing to link but the compiler's own libraries.

#include "product.hpp"

namespace {

constexpr int64_t PRODUCTS = 9;

// Tiles and columns worked on at a time. More tiles reuse the weights longer, which come from the L3 cache or from
// memory; one product's tiles (64 x 1024 floats) and its panel still fit into the L2 cache.
constexpr int64_t TILE_BLOCK = 64, COLUMN_BLOCK = 4 * PANEL;

// Padding of rows and planes, a cache line: at strides of powers of two they would map to the same sets of the L1 cache.
constexpr int64_t PAD = LANES;

// --- The geometry ---------------------------------------------------------------------------------------------------

struct Shape {
    int64_t batch, C, O, height, width; // of the big side

    int64_t small_height() const { return (height + 1) / 2; }
    int64_t small_width() const { return (width + 1) / 2; }
    int64_t rows() const { return (small_height() + 1) / 2; } // of tiles, 2 x 2 outputs each: the last may reach beyond the edge
    int64_t columns() const { return (small_width() + 1) / 2; }
    int64_t in_picture() const { return rows() * columns(); } // tiles
    int64_t tiles() const { return batch * in_picture(); }
};

// The 6 x 6 pixels of the big picture that a tile depends on; each phase has 3 x 3 of them. Zeros beyond the edges.
template <class T> struct Window {
    const T *pixel[6][6];

    Window(const T *big, const Shape &shape, int64_t tile, const T *zeros) {
        int64_t picture = tile / shape.in_picture(), inside = tile % shape.in_picture();
        int64_t top = 4 * (inside / shape.columns()) - 1, left = 4 * (inside % shape.columns()) - 1;
        for (int i = 0; i < 6; i++)
            for (int j = 0; j < 6; j++) {
                int64_t y = top + i, x = left + j;
                bool inside_picture = y >= 0 && y < shape.height && x >= 0 && x < shape.width;
                pixel[i][j] = inside_picture ? big + ((picture * shape.height + y) * shape.width + x) * shape.C : zeros;
            }
    }

    // Of one phase and 16 channels, along both sides: nine vectors.
    inline void input_transform(int py, int px, int64_t channel, Vector out[9]) const {
        Vector row[3][3];
        for (int j = 0; j < 3; j++) {
            Vector d0 = load(pixel[py][2 * j + px] + channel), d1 = load(pixel[2 + py][2 * j + px] + channel),
                   d2 = load(pixel[4 + py][2 * j + px] + channel);
            row[0][j] = d0 - d1;
            row[1][j] = d1;
            row[2][j] = d2 - d1;
        }
        for (int k = 0; k < 3; k++) {
            out[3 * k] = row[k][0] - row[k][1];
            out[3 * k + 1] = row[k][1];
            out[3 * k + 2] = row[k][2] - row[k][1];
        }
    }
};

// Of a tile's 2 x 2 pixels of the small picture and 16 channels, along both sides: nine vectors.
template <class T>
inline void output_transform_transposed(const T *small, const Shape &shape, int64_t tile, int64_t channel, Vector out[9]) {
    int64_t picture = tile / shape.in_picture(), inside = tile % shape.in_picture();
    int64_t top = 2 * (inside / shape.columns()), left = 2 * (inside % shape.columns());
    Vector y[2][2];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            if (top + i < shape.small_height() && left + j < shape.small_width())
                y[i][j] = load(small + ((picture * shape.small_height() + top + i) * shape.small_width() + left + j) * shape.O + channel);
            else
                y[i][j] = Vector{};
    Vector row[3][2] = {{y[0][0], y[0][1]}, {y[0][0] + y[1][0], y[0][1] + y[1][1]}, {y[1][0], y[1][1]}};
    for (int k = 0; k < 3; k++) {
        out[3 * k] = row[k][0];
        out[3 * k + 1] = row[k][0] + row[k][1];
        out[3 * k + 2] = row[k][1];
    }
}

// The nine products of a block of tiles, for a group of panels:
// products[9][block][columns] = transformed[9][block][row] packed.
template <class T>
inline void nine_products(const uint32_t *transformed, int64_t row, const uint32_t *packed, int64_t depth, float *products, int64_t columns,
                          int64_t tiles, int64_t block) {
    const int64_t transformed_plane = block * row + PAD, products_plane = block * columns + PAD;
    for (int p = 0; p < PRODUCTS; p++)
        for (int64_t n = 0; n < columns / PANEL; n++)
            for (int64_t t = 0; t < tiles; t += ROWS)
                product<T, false>(depth, transformed + p * transformed_plane + t * row, row, 1, packed + (n * PRODUCTS + p) * depth * PANEL,
                                  products + p * products_plane + t * columns + n * PANEL, columns);
}

// --- Weights --------------------------------------------------------------------------------------------------------

// Of one phase's 2 x 2 taps and 16 channels, along both sides: nine vectors. `weight` is [O, 4, 4, C] in memory.
inline void filter_transform(const float *weight, int64_t C, int64_t o, int py, int px, int64_t channel, Vector out[9]) {
    Vector g[2][2];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) g[i][j] = load(weight + ((o * 4 + 2 * i + py) * 4 + 2 * j + px) * C + channel);
    Vector row[3][2] = {{g[0][0], g[0][1]}, {g[0][0] + g[1][0], g[0][1] + g[1][1]}, {g[1][0], g[1][1]}};
    for (int k = 0; k < 3; k++) {
        out[3 * k] = row[k][0];
        out[3 * k + 1] = row[k][0] + row[k][1];
        out[3 * k + 2] = row[k][1];
    }
}

// For big -> small: panels of 32 small channels, [O/32][9][4C words][32].
template <class T> void pack_gather(const float *weight, int64_t C, int64_t O, uint32_t *packed) {
    int64_t depth = 4 * C / PER_WORD<T>;
#pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < O / PANEL; n++)
        for (int phase = 0; phase < 4; phase++)
            for (int64_t channel = 0; channel < C; channel += LANES)
                for (int64_t o = 0; o < PANEL; o++) {
                    Vector sums[9];
                    filter_transform(weight, C, n * PANEL + o, phase / 2, phase % 2, channel, sums);
                    for (int p = 0; p < PRODUCTS; p++) {
                        uint32_t pairs[LANES / PER_WORD<T>];
                        alignas(64) T row[LANES];
                        store(row, sums[p]);
                        std::memcpy(pairs, row, sizeof pairs);
                        uint32_t *to = packed + ((n * PRODUCTS + p) * depth + (phase * C + channel) / PER_WORD<T>) * PANEL + o;
                        for (int64_t k = 0; k < LANES / PER_WORD<T>; k++) to[k * PANEL] = pairs[k];
                    }
                }
}

// For small -> big: panels of 32 (phase, big channel), [4C/32][9][O words][32].
template <class T> void pack_scatter(const float *weight, int64_t C, int64_t O, uint32_t *packed) {
    int64_t depth = O / PER_WORD<T>;
#pragma omp parallel for collapse(2)
    for (int phase = 0; phase < 4; phase++)
        for (int64_t channel = 0; channel < C; channel += LANES)
            for (int64_t k = 0; k < depth; k++) {
                Vector first[9], second[9];
                filter_transform(weight, C, k * PER_WORD<T>, phase / 2, phase % 2, channel, first);
                filter_transform(weight, C, k * PER_WORD<T> + PER_WORD<T> - 1, phase / 2, phase % 2, channel, second);
                int64_t n = (phase * C + channel) / PANEL, column = (phase * C + channel) % PANEL;
                for (int p = 0; p < PRODUCTS; p++)
                    store(packed + ((n * PRODUCTS + p) * depth + k) * PANEL + column, pack_words((const T *)nullptr, first[p], second[p]));
            }
}

// --- Big to small: a convolution, or a transposed convolution's gradient ---------------------------------------------

template <class T> void gather(const T *big, const uint32_t *packed, T *small, const Shape &shape) {
    const int64_t depth = 4 * shape.C / PER_WORD<T>, row = depth + PAD, tiles = shape.tiles();
    const int64_t share = (tiles + omp_get_max_threads() - 1) / omp_get_max_threads();
    const int64_t block = std::min(TILE_BLOCK, (share + ROWS - 1) / ROWS * ROWS), plane = block * row + PAD;
#pragma omp parallel
    {
        static thread_local Scratch scratch, scratch_zeros;
        uint32_t *transformed = scratch.take<uint32_t>(PRODUCTS * (block * (row + COLUMN_BLOCK) + 2 * PAD));
        float *products = reinterpret_cast<float *>(transformed + PRODUCTS * plane);
        T *zeros = scratch_zeros.take<T>(shape.C);
        std::memset(zeros, 0, shape.C * sizeof(T));
#pragma omp for schedule(dynamic)
        for (int64_t start = 0; start < tiles; start += block) {
            const int64_t count = std::min(block, tiles - start);
            for (int64_t t = 0; t < count; t++) {
                Window<T> window(big, shape, start + t, zeros);
                for (int phase = 0; phase < 4; phase++)
                    for (int64_t channel = 0; channel < shape.C; channel += LANES) {
                        Vector d[9];
                        window.input_transform(phase / 2, phase % 2, channel, d);
                        for (int p = 0; p < PRODUCTS; p++)
                            store(reinterpret_cast<T *>(transformed + p * plane + t * row) + phase * shape.C + channel, d[p]);
                    }
            }
            for (int64_t n = 0; n < shape.O; n += COLUMN_BLOCK) {
                const int64_t columns = std::min(COLUMN_BLOCK, shape.O - n), products_plane = block * columns + PAD;
                nine_products<T>(transformed, row, packed + n * PRODUCTS * depth, depth, products, columns, count, block);
                for (int64_t t = 0; t < count; t++) {
                    int64_t picture = (start + t) / shape.in_picture(), inside = (start + t) % shape.in_picture();
                    int64_t top = 2 * (inside / shape.columns()), left = 2 * (inside % shape.columns());
                    const int64_t down = std::min(int64_t(2), shape.small_height() - top);
                    const int64_t across = std::min(int64_t(2), shape.small_width() - left);
                    T *corner = small + ((picture * shape.small_height() + top) * shape.small_width() + left) * shape.O + n;
                    for (int64_t channel = 0; channel < columns; channel += LANES) {
                        auto m = [&](int k, int l) { return load(products + (3 * k + l) * products_plane + t * columns + channel); };
                        for (int i = 0; i < down; i++) {
                            Vector row[3] = {m(i, 0) + m(i + 1, 0), m(i, 1) + m(i + 1, 1), m(i, 2) + m(i + 1, 2)};
                            for (int j = 0; j < across; j++)
                                store(corner + (i * shape.small_width() + j) * shape.O + channel, row[j] + row[j + 1]);
                        }
                    }
                }
            }
        }
    }
}

// --- Small to big: a transposed convolution, or a convolution's gradient ---------------------------------------------

// Adds up the products of one picture's tiles to its pixels, for some of the (phase, channel)s.
//
// Along one side, position 2a of a phase's grid is m0 of tile a and m2 of the tile before it; position 2a + 1 is
// m1 - m0 - m2 of tile a.
template <class T>
inline void input_transform_transposed(const float *products, int64_t block, int64_t first, int64_t columns, T *big, const Shape &shape) {
    static const float zeros[COLUMN_BLOCK] = {};
    struct Tile {
        const float *at;
        int64_t plane; // 0 where there is no tile: all products are zero
        Vector operator()(int k, int l, int64_t column) const { return load(at + (3 * k + l) * plane + column); }
    };
    auto tile = [&](int64_t a, int64_t b) {
        bool exists = a >= 0 && b >= 0 && a < shape.rows() && b < shape.columns();
        return exists ? Tile{products + (a * shape.columns() + b) * columns, block * columns + PAD} : Tile{zeros, 0};
    };
    for (int64_t from = first, until; from < first + columns; from = until) {
        const int64_t phase = from / shape.C, length = std::min(first + columns, (phase + 1) * shape.C) - from;
        until = from + length;
        for (int64_t a = 0; a <= shape.rows(); a++)
            for (int64_t b = 0; b <= shape.columns(); b++) {
                const Tile here = tile(a, b), above = tile(a - 1, b), before = tile(a, b - 1), above_before = tile(a - 1, b - 1);
                T *pixel[2][2];
                for (int i = 0; i < 2; i++)
                    for (int j = 0; j < 2; j++) {
                        int64_t y = 4 * a + 2 * i + phase / 2 - 1, x = 4 * b + 2 * j + phase % 2 - 1;
                        bool inside = y >= 0 && x >= 0 && y < shape.height && x < shape.width;
                        pixel[i][j] = inside ? big + (y * shape.width + x) * shape.C + from - phase * shape.C : nullptr;
                    }
                for (int64_t k = 0; k < length; k += LANES) {
                    const int64_t column = from - first + k;
                    Vector even[3], odd[3]; // sums along the first side
                    for (int l = 0; l < 3; l++) {
                        const Vector m0 = here(0, l, column);
                        even[l] = m0 + above(2, l, column);
                        odd[l] = here(1, l, column) - m0 - here(2, l, column);
                    }
                    const Vector even_before = before(0, 2, column) + above_before(2, 2, column);
                    const Vector odd_before = before(1, 2, column) - before(0, 2, column) - before(2, 2, column);
                    if (pixel[0][0]) store(pixel[0][0] + k, even[0] + even_before);
                    if (pixel[0][1]) store(pixel[0][1] + k, even[1] - even[0] - even[2]);
                    if (pixel[1][0]) store(pixel[1][0] + k, odd[0] + odd_before);
                    if (pixel[1][1]) store(pixel[1][1] + k, odd[1] - odd[0] - odd[2]);
                }
            }
    }
}

template <class T> void scatter(const T *small, const uint32_t *packed, T *big, const Shape &shape) {
    const int64_t depth = shape.O / PER_WORD<T>, row = depth + PAD, in_picture = shape.in_picture();
    const int64_t share = (shape.batch + omp_get_max_threads() - 1) / omp_get_max_threads();
    const int64_t pictures = std::max(int64_t(1), std::min(share, TILE_BLOCK / in_picture)); // whole ones: tiles share pixels
    const int64_t block = (pictures * in_picture + ROWS - 1) / ROWS * ROWS, plane = block * row + PAD;
#pragma omp parallel
    {
        static thread_local Scratch scratch;
        uint32_t *transformed = scratch.take<uint32_t>(PRODUCTS * (block * (row + COLUMN_BLOCK) + 2 * PAD));
        float *products = reinterpret_cast<float *>(transformed + PRODUCTS * plane);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < shape.batch; first += pictures) {
            const int64_t count = std::min(pictures, shape.batch - first), tiles = count * in_picture;
            for (int64_t t = 0; t < tiles; t++)
                for (int64_t channel = 0; channel < shape.O; channel += LANES) {
                    Vector w[9];
                    output_transform_transposed(small, shape, first * in_picture + t, channel, w);
                    for (int p = 0; p < PRODUCTS; p++)
                        store(reinterpret_cast<T *>(transformed + p * plane + t * row) + channel, w[p]);
                }
            for (int64_t n = 0; n < 4 * shape.C; n += COLUMN_BLOCK) {
                const int64_t columns = std::min(COLUMN_BLOCK, 4 * shape.C - n);
                nine_products<T>(transformed, row, packed + n * PRODUCTS * depth, depth, products, columns, tiles, block);
                for (int64_t picture = 0; picture < count; picture++)
                    input_transform_transposed(products + picture * in_picture * columns, block, n, columns,
                                               big + (first + picture) * shape.height * shape.width * shape.C, shape);
            }
        }
    }
}

// --- Gradient of the weights ------------------------------------------------------------------------------------------

template <class T> void weight_gradient(const T *big, const T *small, float *gradient, const Shape &shape) {
    const int64_t C = shape.C, O = shape.O, tiles = shape.tiles(), panels = 4 * C / PANEL;
    const int64_t chunk = std::min(int64_t(512), (tiles + 1) / 2 * 2); // tiles at a time, to bound the memory
    const int64_t most = chunk / PER_WORD<T>;
    static Scratch scratch_big, scratch_small, scratch_sums, scratch_zeros;
    const int64_t big_plane = most * PANEL + PAD, small_plane = most * ROWS + PAD;
    uint32_t *big_tiles = scratch_big.take<uint32_t>(panels * PRODUCTS * big_plane);        // [4C/32][9][tiles][32]
    uint32_t *small_tiles = scratch_small.take<uint32_t>(O / ROWS * PRODUCTS * small_plane); // [O/8][9][tiles][8]
    float *sums = scratch_sums.take<float>(panels * PRODUCTS * O * PANEL);                      // [4C/32][9][O][32]
    T *zeros = scratch_zeros.take<T>(std::max(C, O));
    std::memset(zeros, 0, std::max(C, O) * sizeof(T));

    for (int64_t start = 0; start < tiles; start += chunk) {
        const int64_t count = std::min(chunk, tiles - start), depth = (count + PER_WORD<T> - 1) / PER_WORD<T>;
#pragma omp parallel for
        for (int64_t k = 0; k < depth; k++) {
            int64_t tile = start + k * PER_WORD<T>, next = tile + PER_WORD<T> - 1;
            bool alone = next >= tiles; // with an odd number of tiles the last one is paired with zeros
            Window<T> window(big, shape, tile, zeros), next_window(big, shape, alone ? tile : next, zeros);
            for (int phase = 0; phase < 4; phase++)
                for (int64_t channel = 0; channel < C; channel += LANES) {
                    Vector d[9], e[9];
                    window.input_transform(phase / 2, phase % 2, channel, d);
                    next_window.input_transform(phase / 2, phase % 2, channel, e);
                    int64_t n = (phase * C + channel) / PANEL, column = (phase * C + channel) % PANEL;
                    for (int p = 0; p < PRODUCTS; p++)
                        store(big_tiles + (n * PRODUCTS + p) * big_plane + k * PANEL + column, pack_words((const T *)nullptr, d[p], e[p]));
                }
            for (int64_t channel = 0; channel < O; channel += LANES) {
                Vector w[9], v[9] = {};
                output_transform_transposed(small, shape, tile, channel, w);
                if (!alone) output_transform_transposed(small, shape, next, channel, v);
                for (int p = 0; p < PRODUCTS; p++) {
                    alignas(64) uint32_t pair[LANES];
                    store(pair, pack_words((const T *)nullptr, w[p], v[p]));
                    for (int64_t half = 0; half < LANES; half += ROWS)
                        std::memcpy(small_tiles + ((channel + half) / ROWS * PRODUCTS + p) * small_plane + k * ROWS, pair + half,
                                    ROWS * sizeof(uint32_t));
                }
            }
        }
        const int64_t slice = 128; // of the sum over tiles, so that a panel's slice stays in the L1 cache
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t n = 0; n < panels; n++)
            for (int p = 0; p < PRODUCTS; p++)
                for (int64_t k = 0; k < depth; k += slice)
                    for (int64_t o = 0; o < O; o += ROWS) {
                        const uint32_t *A = small_tiles + (o / ROWS * PRODUCTS + p) * small_plane + k * ROWS;
                        const uint32_t *B = big_tiles + (n * PRODUCTS + p) * big_plane + k * PANEL;
                        float *sum = sums + ((n * PRODUCTS + p) * O + o) * PANEL;
                        int64_t length = std::min(slice, depth - k);
                        if (start == 0 && k == 0)
                            product<T, false>(length, A, 1, ROWS, B, sum, PANEL);
                        else
                            product<T, true>(length, A, 1, ROWS, B, sum, PANEL);
                    }
    }
#pragma omp parallel for collapse(2)
    for (int64_t o = 0; o < O; o++)
        for (int phase = 0; phase < 4; phase++)
            for (int64_t channel = 0; channel < C; channel += LANES) {
                int64_t n = (phase * C + channel) / PANEL, column = (phase * C + channel) % PANEL;
                auto u = [&](int k, int l) { return load(sums + ((n * PRODUCTS + 3 * k + l) * O + o) * PANEL + column); };
                for (int i = 0; i < 2; i++) {
                    Vector row[3] = {u(i, 0) + u(i + 1, 0), u(i, 1) + u(i + 1, 1), u(i, 2) + u(i + 1, 2)};
                    for (int j = 0; j < 2; j++)
                        store(gradient + ((o * 4 + 2 * i + phase / 2) * 4 + 2 * j + phase % 2) * C + channel, row[j] + row[j + 1]);
                }
            }
}

} // namespace

#define EXPORT(NAME, T)                                                                                                \
    void pack_gather_##NAME(const float *w, int64_t C, int64_t O, uint32_t *packed) { pack_gather<T>(w, C, O, packed); } \
    void pack_scatter_##NAME(const float *w, int64_t C, int64_t O, uint32_t *packed) { pack_scatter<T>(w, C, O, packed); } \
    void gather_##NAME(const T *big, const uint32_t *packed, T *small, const Shape *shape) { gather<T>(big, packed, small, *shape); } \
    void scatter_##NAME(const T *small, const uint32_t *packed, T *big, const Shape *shape) { scatter<T>(small, packed, big, *shape); } \
    void weight_gradient_##NAME(const T *big, const T *small, float *gradient, const Shape *shape) { weight_gradient<T>(big, small, gradient, *shape); }

extern "C" {
EXPORT(fp32, float)
#ifdef __AVX512BF16__
EXPORT(bf16, bf16)
#endif
}
