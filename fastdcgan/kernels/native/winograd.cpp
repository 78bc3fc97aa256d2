// Convolutions of kernel 4, stride 2, padding 1, with 9, 7.5 or 6.25 multiplications for 16 of the definition.
//
// A kernel of 4 with stride 2 is a kernel of 2 with stride 1 over the four phases (py, px) of the padded picture: rows
// 2i + py, columns 2j + px. Winograd's F(H, 2) along one side and F(W, 2) along the other one make a tile of H x W outputs
// of a kernel of 2 from (H + 1) (W + 1) products (transforms.hpp). What is left are as many matrix products, summed over
// phases and channels. H and W are 2 or 4. Tests compare with PyTorch's own convolution.
//
//     gather            small = OUTPUT ((FILTER weight) * (INPUT big))        a convolution
//     scatter           big = INPUT^T ((FILTER weight) * (OUTPUT^T small))    its gradient; a transposed convolution
//     weight_gradient   weight = FILTER^T ((INPUT big) * (OUTPUT^T small))    the gradient of both
//
// So the three are transposes of one another, and share transforms and products.
//
// A kernel of 3 with stride 2 and padding 1 on an odd side is one of 4 whose last taps are zero, on a side one longer. So
// the odd phases have one tap along that side, and their products at infinity are zero: they are left out, 11 of 36 for
// F(2, 2).
//
// Layout: pictures are NHWC ("channels last"); `big` is the picture with twice the resolution (C channels), `small`
// the other (O channels). Words, panels and strips: see product.hpp.
//
// Plain C interface, OpenMP, GCC's vector types: nothing to link but the compiler's own libraries.

#include "prefetch.hpp"
#include "product.hpp"
#include "transforms.hpp"

namespace {

// Columns of one product that a thread works on at a time.
constexpr int64_t COLUMN_BLOCK = 128;

// Terms added up one after the other. So much of a panel stays in the L1 cache, and the sums of blocks round less than one sum.
constexpr int64_t DEPTH_BLOCK = 256;

// Tiles worked on at a time by a thread, or for each of several threads. More tiles reuse the weights longer, which come from
// the L3 cache or from memory; what DEPTH_BLOCK takes of one product's tiles still fits into the L2 cache.
constexpr int64_t TILE_BLOCK = 64;

// Tiles, of those that all threads work on together, whose transforms a thread takes at a time.
constexpr int64_t TILE_SHARE = 8;

// Bytes of weights that threads read, if each reads all, from which on they share them out instead.
constexpr int64_t MOST_READ = 64 << 20;

// Tiles that are transformed, and then multiplied and summed, at a time: by all threads together, or by each alone.
constexpr int64_t SHARED_CHUNK = 256, OWN_CHUNK = 64;

// Of these, added up one after the other: as DEPTH_BLOCK.
constexpr int64_t TILE_SLICE = 64;

// Bytes of sums of all threads, up to which each has its own.
constexpr int64_t MOST_SUMS = 8 << 20;

// Words of tiles that are transformed together, so that their stores are neighbours in memory.
constexpr int64_t GROUP = 8;

// Padding of rows and planes, a cache line: at strides of powers of two they would map to the same sets of the L1 cache.
constexpr int64_t PAD = 16;

// --- The geometry ---------------------------------------------------------------------------------------------------

struct Shape {
    int64_t batch, C, O, height, width; // of the big side

    int64_t small_height() const { return (height + 1) / 2; }
    int64_t small_width() const { return (width + 1) / 2; }
    int64_t big_size() const { return height * width * C; } // of a picture, in numbers
    int64_t small_size() const { return small_height() * small_width() * O; }
    int64_t kernel() const { return height % 2 ? 3 : 4; }
};

// Outputs of a tile: F(H, 2) along the first side, F(W, 2) along the second one. They depend on DOWN x ACROSS pixels of each
// phase, and take as many products.
template <int H, int W> struct TileSize {
    static constexpr int HEIGHT = H, WIDTH = W, DOWN = H + 1, ACROSS = W + 1;
    static constexpr int64_t PRODUCTS = DOWN * ACROSS;
};

// Whether a layer's transformed weights, read by each thread, are too many for the caches. `size` is that of a number.
template <class Size> bool exceed_caches(int64_t C, int64_t O, int64_t size) {
    return Size::PRODUCTS * 4 * C * O * size * omp_get_max_threads() > MOST_READ;
}

// The tiles of HEIGHT x WIDTH pixels that cover the small side; the last may reach beyond its edge.
template <class Size> struct Tiles : Shape {
    static constexpr int64_t PRODUCTS = Size::PRODUCTS;

    explicit Tiles(const Shape &shape) : Shape(shape) {}
    int64_t rows() const { return (small_height() + Size::HEIGHT - 1) / Size::HEIGHT; }
    int64_t columns() const { return (small_width() + Size::WIDTH - 1) / Size::WIDTH; }
    int64_t in_picture() const { return rows() * columns(); }
    // Whether the last pixels of the a-th tile, or column of tiles, lie beyond the bottom or the right edge.
    bool is_below(int64_t a) const { return Size::HEIGHT * (a + 1) > small_height(); }
    bool is_right(int64_t b) const { return Size::WIDTH * (b + 1) > small_width(); }

    // Products at infinity, along the first side and along the second one.
    static bool in_last_row(int64_t p) { return p / Size::ACROSS == Size::HEIGHT; }
    static bool in_last_column(int64_t p) { return p % Size::ACROSS == Size::WIDTH; }

    // Whether such a product of a phase is zero whatever the weights are.
    bool is_zero_row(int phase) const { return kernel() == 3 && phase / 2; }
    bool is_zero_column(int phase) const { return kernel() == 3 && phase % 2; }
    bool is_zero(int64_t p, int phase) const {
        return (in_last_row(p) && is_zero_row(phase)) || (in_last_column(p) && is_zero_column(phase));
    }

    // The phases of which product p is not zero, as runs of neighbours: calls f(first, last).
    template <class F> void for_phases(int64_t p, F f) const {
        for (int first = 0, last; first < 4; first = last + 1) {
            for (last = first; last < 4 && !is_zero(p, last);) last++;
            if (first < last) f(first, last);
        }
    }
    int64_t count() const { return batch * in_picture(); }

    // Whether all threads work on one block of tiles together, each with a part of the weights; else each thread has blocks of
    // its own, and reads all weights for each. `size` is that of a number.
    bool together(int64_t size) const { return exceed_caches<Size>(C, O, size); }

    // Tiles of a block: blocks are of equal size, and as many for each thread. `multiple` tiles can't be split.
    int64_t block(int64_t multiple, bool together) const {
        const int64_t threads = omp_get_max_threads(), most = std::max(multiple, TILE_BLOCK * (together ? threads : 1));
        const int64_t blocks = round_up((count() + most - 1) / most, together ? 1 : threads);
        return round_up((count() + blocks - 1) / blocks, multiple);
    }
};

// Where a tile lies.
template <class Size> struct Place {
    int64_t picture, top, left; // of the small side

    Place(const Tiles<Size> &tiles, int64_t tile) {
        const int64_t inside = tile % tiles.in_picture();
        picture = tile / tiles.in_picture();
        top = Size::HEIGHT * (inside / tiles.columns());
        left = Size::WIDTH * (inside % tiles.columns());
    }
};

// The memory of the pictures, of `size` numbers each, that these tiles cover, as far as tiles can be told apart by it. None if
// threads work `together`: each would bring all.
template <class T, class Size>
Prefetch prefetch_tiles(T *pictures, int64_t size, const Tiles<Size> &tiles, int64_t first, int64_t last, bool together) {
    const auto at = [&](int64_t tile) { return pictures + std::min(tile, tiles.count()) * size / tiles.in_picture(); };
    return {at(first), at(together ? first : last)};
}

// The tiles of a block in the order of the memory for them: first those whose last row of pixels alone lies beyond the bottom
// edge, then those inside, then those with the last column beyond the right edge, then those with both.
//
// Products at infinity (the last ones along a side) have to do with the last row or column alone. So for a tile that lacks it
// they don't matter, and those that do matter are neighbours.
template <class Size> struct Order {
    int64_t first[5] = {}; // of each kind of tile, and the end
    int64_t *tile, *position; // tile[position]; position[tile - start]

    Order(const Tiles<Size> &tiles, int64_t start, int64_t count, Scratch &scratch) : tile(scratch.take<int64_t>(2 * count)), position(tile + count) {
        const auto kind_of = [&](int64_t each) INLINED {
            const int64_t inside = each % tiles.in_picture();
            const bool below = tiles.is_below(inside / tiles.columns()), right = tiles.is_right(inside % tiles.columns());
            return right ? 2 + below : 1 - below;
        };
        for (int64_t i = 0; i < count; i++) first[kind_of(start + i) + 1]++;
        for (int kind = 0; kind < 4; kind++) first[kind + 1] += first[kind];
        int64_t next[4];
        std::copy(first, first + 4, next);
        for (int64_t i = 0; i < count; i++) {
            position[i] = next[kind_of(start + i)]++;
            tile[position[i]] = start + i;
        }
    }

    // The positions whose product p matters: from `begin` up to `end`.
    int64_t begin(int64_t p) const { return first[Tiles<Size>::in_last_row(p) ? 1 : 0]; }
    int64_t end(int64_t p) const { return first[Tiles<Size>::in_last_column(p) ? 2 : Tiles<Size>::in_last_row(p) ? 3 : 4]; }
};

// --- The transforms of a tile, for 16 or 8 channels -------------------------------------------------------------------

// Along both sides: out(k, l) = sum of down[k][i] across[l][j] in(i, j).
template <class Down, class Across, class In, class Out> INLINE void evaluate_both(In in, Out out) {
    Vector half[Down::ROWS][Across::COLUMNS];
    unrolled<Across::COLUMNS>([&](auto j) INLINED {
        Vector x[Down::COLUMNS], values[Down::ROWS];
        unrolled<Down::COLUMNS>([&](auto i) INLINED { x[i] = in(i, j); });
        evaluate<Down>(x, values);
        unrolled<Down::ROWS>([&](auto k) INLINED { half[k][j] = values[k]; });
    });
    unrolled<Down::ROWS>([&](auto k) INLINED {
        Vector values[Across::ROWS];
        evaluate<Across>(half[k], values);
        unrolled<Across::ROWS>([&](auto l) INLINED { out(k, l, values[l]); });
    });
}

// Along both sides: out(i, j) = sum of down[k][i] across[l][j] in(k, l).
template <class Down, class Across, class In, class Out> INLINE void interpolate_both(In in, Out out) {
    Vector half[Down::COLUMNS][Across::ROWS];
    unrolled<Across::ROWS>([&](auto l) INLINED {
        Vector values[Down::ROWS], x[Down::COLUMNS];
        unrolled<Down::ROWS>([&](auto k) INLINED { values[k] = in(k, l); });
        interpolate<Down>(values, x);
        unrolled<Down::COLUMNS>([&](auto i) INLINED { half[i][l] = x[i]; });
    });
    unrolled<Down::COLUMNS>([&](auto i) INLINED {
        Vector x[Across::COLUMNS];
        interpolate<Across>(half[i], x);
        unrolled<Across::COLUMNS>([&](auto j) INLINED { out(i, j, x[j]); });
    });
}

// The pixels of the big picture that a tile depends on; each phase has DOWN x ACROSS of them. Zeros beyond the edges.
template <class T, class Size> struct Window {
    const T *pixel[2 * Size::DOWN][2 * Size::ACROSS];

    Window() = default;
    Window(const T *big, const Tiles<Size> &tiles, int64_t tile, const T *zeros) {
        const Place<Size> place(tiles, tile);
        const bool exists = tile < tiles.count();
        for (int i = 0; i < 2 * Size::DOWN; i++)
            for (int j = 0; j < 2 * Size::ACROSS; j++) {
                const int64_t y = 2 * place.top - 1 + i, x = 2 * place.left - 1 + j;
                const bool inside = exists && y >= 0 && y < tiles.height && x >= 0 && x < tiles.width;
                pixel[i][j] = inside ? big + ((place.picture * tiles.height + y) * tiles.width + x) * tiles.C : zeros;
            }
    }

    // Has a part of the pixels that `input_transform` will read brought into the caches.
    void prefetch(int phase, int64_t channel) const {
        if (channel % (64 / sizeof(T))) return; // another part of the same cache line
        for (int i = phase / 2; i < 2 * Size::DOWN; i += 2)
            for (int j = phase % 2; j < 2 * Size::ACROSS; j += 2) __builtin_prefetch(pixel[i][j] + channel);
    }

    // Of one phase: calls out(product, vector).
    template <class Out> INLINE void input_transform(int phase, int64_t channel, Out out) const {
        const int py = phase / 2, px = phase % 2;
        evaluate_both<InputMatrix<Size::HEIGHT>, InputMatrix<Size::WIDTH>>([&](int i, int j) INLINED { return load(pixel[2 * i + py][2 * j + px] + channel); },
                                      [&](int k, int l, Vector v) INLINED { out(k * Size::ACROSS + l, v); });
    }
};

// The pixels of the small picture in a tile; `beyond` in place of those beyond the edges, and of a tile that does not exist.
template <class T, class Size> struct SmallPixels {
    T *pixel[Size::HEIGHT][Size::WIDTH];

    SmallPixels(T *small, const Tiles<Size> &tiles, int64_t tile, T *beyond) {
        const Place<Size> place(tiles, tile);
        for (int i = 0; i < Size::HEIGHT; i++)
            for (int j = 0; j < Size::WIDTH; j++) {
                const int64_t y = place.top + i, x = place.left + j;
                const bool inside = place.picture < tiles.batch && y < tiles.small_height() && x < tiles.small_width();
                pixel[i][j] = inside ? small + ((place.picture * tiles.small_height() + y) * tiles.small_width() + x) * tiles.O : beyond;
            }
    }

    // Calls out(product, vector).
    template <class Out> INLINE void output_transform_transposed(int64_t channel, Out out) const {
        evaluate_both<OutputMatrix<Size::HEIGHT>, OutputMatrix<Size::WIDTH>>([&](int i, int j) INLINED { return load(pixel[i][j] + channel); },
                                       [&](int k, int l, Vector v) INLINED { out(k * Size::ACROSS + l, v); });
    }
};

// Weights [O, kernel, kernel, C] in memory, or their gradient.
template <class Float> struct Weights {
    Float *at;
    int64_t C, O, kernel; // 4 or 3

    // Tap (i, j) of a phase's 2 x 2, of LANES channels; null where there is none.
    Float *tap(int64_t o, int phase, int i, int j, int64_t channel) const {
        const int64_t y = 2 * i + phase / 2, x = 2 * j + phase % 2;
        return y < kernel && x < kernel ? at + ((o * kernel + y) * kernel + x) * C + channel : nullptr;
    }
};

// Of one phase's 2 x 2 taps: calls out(product, vector).
template <class Size, class Out>
INLINE void filter_transform(const Weights<const float> &weights, int64_t o, int phase, int64_t channel, Out out) {
    evaluate_both<FilterMatrix<Size::HEIGHT>, FilterMatrix<Size::WIDTH>>(
        [&](int i, int j) INLINED {
            const float *tap = weights.tap(o, phase, i, j, channel);
            return tap ? load(tap) : Vector{};
        },
        [&](int k, int l, Vector v) INLINED { out(k * Size::ACROSS + l, v); });
}

// Where a block's transformed tiles and their products lie: [PRODUCTS][block][row] words, [PRODUCTS][block][columns] sums.
template <class Size> struct Block {
    static constexpr int64_t PRODUCTS = Tiles<Size>::PRODUCTS;
    int64_t tiles, depth, columns;
    uint32_t *transformed = nullptr;
    float *products = nullptr;

    int64_t row() const { return depth + PAD; }
    int64_t plane() const { return tiles * row() + PAD; }
    int64_t products_row() const { return columns + PAD; }
    int64_t products_plane() const { return tiles * products_row() + PAD; }
    Block in(Scratch &scratch) const {
        Block block = *this;
        block.transformed = scratch.take<uint32_t>(PRODUCTS * (plane() + products_plane()));
        block.products = reinterpret_cast<float *>(block.transformed + PRODUCTS * plane());
        return block;
    }
};

// products = transformed packed, for a block's tiles. Threads that work together share out products and columns: so each reads
// a part of the weights. `nonzero(p, f)` calls f(first, last, from, until) for the words of the sum and the columns of which
// product p is not zero. What doesn't matter is left as it is. Meanwhile the pixels of the `next` block, and the memory for this
// one's `results`, are fetched.
template <class T, class Size, class Nonzero>
inline void multiply(const Block<Size> &block, const Order<Size> &order, const uint32_t *packed, bool together, Prefetch next, Prefetch results,
                     Nonzero nonzero) {
    const int64_t column_blocks = (block.columns + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
    const int64_t products_of_panel = order.first[4] / ROWS + 1, products = Block<Size>::PRODUCTS * block.columns / PANEL * products_of_panel;
    const bool far = Block<Size>::PRODUCTS * block.depth * block.columns * int64_t(sizeof(*packed)) > MOST_CACHED;
    next.split(products);
    results.split(products);
    for_each(together, Block<Size>::PRODUCTS * column_blocks, 1, [&](int64_t unit) {
        const int64_t p = unit / column_blocks, block_from = unit % column_blocks * COLUMN_BLOCK;
        const auto weights = [&](int64_t n, int64_t k) { return packed + (n * Block<Size>::PRODUCTS + p * PANEL) * block.depth + k * PANEL; };
        nonzero(p, [&](int64_t first, int64_t last, int64_t from, int64_t until) {
            const int64_t begin = std::max(block_from, from / PANEL * PANEL), end = std::min({block_from + COLUMN_BLOCK, until, block.columns});
            for (int64_t k = first; k < last; k += DEPTH_BLOCK)
                for (int64_t n = begin; n < end; n += PANEL) {
                    const uint32_t *B = weights(n, k);
                    const uint32_t *next_B = n + PANEL < end ? weights(n + PANEL, k) : weights(begin, std::min(k + DEPTH_BLOCK, last));
                    Prefetch next_weights(next_B, next_B + (far ? DEPTH_BLOCK * PANEL : 0));
                    next_weights.split(products_of_panel);
                    for_products(order.begin(p), order.end(p), [&](int64_t t, int64_t rows) INLINED {
                        const uint32_t *A = block.transformed + p * block.plane() + t * block.row() + k;
                        float *sum = block.products + p * block.products_plane() + t * block.products_row() + n;
                        const int64_t length = std::min(DEPTH_BLOCK, last - k);
                        next.next_part();
                        results.next_part();
                        next_weights.next_part();
                        if (k == 0)
                            product_of_rows<T, false>(rows, length, A, block.row(), B, PANEL, sum, block.products_row());
                        else
                            product_of_rows<T, true>(rows, length, A, block.row(), B, PANEL, sum, block.products_row());
                    });
                }
        });
    });
}

// --- Weights --------------------------------------------------------------------------------------------------------

// For big -> small: panels of small channels, [O/PANEL][PRODUCTS][4C words][PANEL].
template <class T, class Size> void pack_gather(const Weights<const float> &weights, uint32_t *packed) {
    const int64_t C = weights.C, O = weights.O;
    constexpr int64_t PRODUCTS = Tiles<Size>::PRODUCTS, PARTS = PANEL / LANES;
    const int64_t depth = 4 * C / PER_WORD<T>;
    const bool bypass = exceed_caches<Size>(C, O, sizeof(T));
#pragma omp parallel
    {
#pragma omp for collapse(2)
        for (int64_t n = 0; n < O / PANEL; n++)
            for (int phase = 0; phase < 4; phase++)
                for (int64_t channel = 0; channel < C; channel += LANES) {
                    Words columns[PARTS / PER_WORD<T>][PRODUCTS][LANES]; // a part has LANES / PER_WORD of their words
                    for (int64_t part = 0; part < PARTS; part++)
                        for (int64_t lane = 0; lane < LANES; lane++)
                            filter_transform<Size>(weights, n * PANEL + part * LANES + lane, phase, channel, [&](int p, Vector sum) INLINED {
                                store(reinterpret_cast<T *>(&columns[part / PER_WORD<T>][p][lane]) + part % PER_WORD<T> * LANES, sum);
                            });
                    for (auto &of_products : columns)
                        for (auto &of_lanes : of_products) transpose(of_lanes);
                    for (int p = 0; p < PRODUCTS; p++) {
                        uint32_t *to = packed + ((n * PRODUCTS + p) * depth + (phase * C + channel) / PER_WORD<T>)*PANEL;
                        for (int64_t word = 0; word < LANES / PER_WORD<T>; word++)
                            for (int64_t part = 0; part < PARTS; part++, to += LANES) { // neighbours: whole cache lines
                                const Words &column = columns[part / PER_WORD<T>][p][part % PER_WORD<T> * (LANES / PER_WORD<T>) + word];
                                bypass ? stream_store(to, column) : store(to, column);
                            }
                    }
                }
        fence_streaming_stores();
    }
}

// For small -> big: panels of (phase, big channel), [4C/PANEL][PRODUCTS][O words][PANEL].
template <class T, class Size> void pack_scatter(const Weights<const float> &weights, uint32_t *packed) {
    const int64_t C = weights.C, O = weights.O;
    constexpr int64_t PRODUCTS = Tiles<Size>::PRODUCTS;
    const int64_t depth = O / PER_WORD<T>;
#pragma omp parallel for collapse(2)
    for (int phase = 0; phase < 4; phase++)
        for (int64_t channel = 0; channel < C; channel += LANES)
            for (int64_t k = 0; k < depth; k++) {
                Vector first[PRODUCTS];
                const int64_t n = (phase * C + channel) / PANEL, column = (phase * C + channel) % PANEL;
                filter_transform<Size>(weights, k * PER_WORD<T>, phase, channel, [&](int p, Vector sum) INLINED { first[p] = sum; });
                filter_transform<Size>(weights, k * PER_WORD<T> + PER_WORD<T> - 1, phase, channel, [&](int p, Vector second) INLINED {
                    store(packed + ((n * PRODUCTS + p) * depth + k) * PANEL + column,
                          pack_words((const T *)nullptr, first[p], second));
                });
            }
}

// --- Big to small: a convolution, or a transposed convolution's gradient ---------------------------------------------

template <class T, class Size> void gather(const T *big, const uint32_t *packed, T *small, const Shape &shape) {
    const Tiles<Size> tiles(shape);
    const bool together = tiles.together(sizeof(T));
    const Block<Size> layout{tiles.block(1, together), 4 * shape.C / PER_WORD<T>, shape.O};
    static thread_local Scratch shared_scratch, scratch_zeros;
    const Block<Size> shared = together ? layout.in(shared_scratch) : layout;
    T *zeros = scratch_zeros.take<T>(shape.C);
    std::memset(zeros, 0, shape.C * sizeof(T));
#pragma omp parallel
    {
        static thread_local Scratch scratch, scratch_order;
        const Block<Size> block = together ? shared : layout.in(scratch);
        for_each(!together, tiles.count(), block.tiles, [&](int64_t start) {
            const int64_t count = std::min(block.tiles, tiles.count() - start);
            const Order<Size> order(tiles, start, count, scratch_order);
            for_each(together, count, TILE_SHARE, [&](int64_t first) {
                Window<T, Size> window(big, tiles, order.tile[first], zeros);
                for (int64_t t = first; t < std::min(count, first + TILE_SHARE); t++) {
                    const Window<T, Size> next(big, tiles, order.tile[std::min(t + 1, count - 1)], zeros);
                    for (int phase = 0; phase < 4; phase++)
                        for (int64_t channel = 0; channel < shape.C; channel += LANES) {
                            next.prefetch(phase, channel);
                            T *to = reinterpret_cast<T *>(block.transformed + t * block.row()) + phase * shape.C + channel;
                            window.input_transform(phase, channel, [&](int p, Vector d) INLINED {
                                store(to + p * block.plane() * PER_WORD<T>, d);
                            });
                        }
                    window = next;
                }
            });
            const int64_t next = start + omp_get_num_threads() * block.tiles; // most likely
            const Prefetch pixels = prefetch_tiles(big, shape.big_size(), tiles, next, next + block.tiles, together);
            const Prefetch results = prefetch_tiles(small, shape.small_size(), tiles, start, start + count, together);
            multiply<T, Size>(block, order, packed, together, pixels, results, [&](int64_t p, auto f) INLINED {
                const int64_t words = block.depth / 4; // of a phase
                tiles.for_phases(p, [&](int64_t first, int64_t last) INLINED { f(first * words, last * words, 0, block.columns); });
            });
            for_each(together, count, 1, [&](int64_t t) {
                const SmallPixels<T, Size> to(small, tiles, order.tile[t], nullptr);
                for (int64_t channel = 0; channel < shape.O; channel += LANES) {
                    const float *from = block.products + t * block.products_row() + channel;
                    interpolate_both<OutputMatrix<Size::HEIGHT>, OutputMatrix<Size::WIDTH>>(
                        [&](int k, int l) INLINED { return load(from + (k * Size::ACROSS + l) * block.products_plane()); },
                        [&](int i, int j, Vector y) INLINED {
                            if (to.pixel[i][j]) store(to.pixel[i][j] + channel, y);
                        });
                }
            });
        });
    }
}

// --- Small to big: a transposed convolution, or a convolution's gradient ---------------------------------------------

// The products of one tile. Some may be zero and not in the memory: all, and where there are such (SOME) those in the last row
// or in the last column.
template <class Size, bool SOME> struct TileProducts {
    const float *at[2][2]; // of the last row or not, of the last column or not
    int64_t plane[2][2];

    TileProducts(const float *products, int64_t products_plane, bool zero, bool zero_row, bool zero_column, const float *zeros) {
        for (int row = 0; row < 2; row++)
            for (int column = 0; column < 2; column++) {
                const bool none = zero || (row && zero_row) || (column && zero_column);
                at[row][column] = none ? zeros : products;
                plane[row][column] = none ? 0 : products_plane;
            }
    }
    INLINE Vector operator()(int k, int l, int64_t channel) const {
        const bool row = SOME && k == Size::HEIGHT, column = SOME && l == Size::WIDTH;
        return load(at[row][column] + (k * Size::ACROSS + l) * plane[row][column] + channel);
    }
};

// Adds up the products of up to four tiles to the HEIGHT x WIDTH pixels of one phase that begin where tile `here` does.
//
// A tile has DOWN x ACROSS pixels of a phase; its last row and column are the first ones of the tiles below and right
// of it, and the last row of INPUT^T takes of its column of products the last alone. Below the last row of tiles
// (BELOW) and right of the last column (RIGHT) there are only such shared pixels.
template <class Size, bool BELOW, bool RIGHT, class T, class Products>
inline void add_tiles(const Products &here, const Products &above, const Products &before, const Products &above_before, T *const (&pixel)[Size::HEIGHT][Size::WIDTH], int64_t channels) {
    constexpr int HEIGHT = BELOW ? 1 : Size::HEIGHT, WIDTH = RIGHT ? 1 : Size::WIDTH;
    for (int64_t channel = 0; channel < channels; channel += LANES) {
        // Along the first side, for the l-th product along the other one.
        const auto along_first = [&](const Products &tile, const Products &over, int l, Vector(&x)[HEIGHT]) INLINED {
            Vector values[Size::DOWN];
            unrolled<Size::DOWN>([&](auto k) INLINED { values[k] = BELOW ? Vector{} : tile(k, l, channel); });
            interpolate<InputMatrix<Size::HEIGHT>>(values, x);
            x[0] = BELOW ? over(Size::HEIGHT, l, channel) : x[0] + over(Size::HEIGHT, l, channel);
        };
        Vector half[HEIGHT][Size::ACROSS], shared[HEIGHT];
        along_first(before, above_before, Size::WIDTH, shared);
        if (!RIGHT)
            unrolled<Size::ACROSS>([&](auto l) INLINED {
                Vector x[HEIGHT];
                along_first(here, above, l, x);
                unrolled<HEIGHT>([&](auto i) INLINED { half[i][l] = x[i]; });
            });
        unrolled<HEIGHT>([&](auto i) INLINED {
            Vector x[WIDTH] = {};
            if (!RIGHT) interpolate<InputMatrix<Size::WIDTH>>(half[i], x);
            x[0] += shared[i];
            unrolled<WIDTH>([&](auto j) INLINED {
                if (pixel[i][j]) store(pixel[i][j] + channel, x[j]);
            });
        });
    }
}

// Adds up the products of one picture's tiles, which lie at these positions of the block, to its pixels, for the channels of
// one phase.
template <class T, class Size, bool SOME>
inline void input_transform_transposed(const Block<Size> &block, const int64_t *position, int phase, T *big, const Tiles<Size> &tiles,
                                       const float *zeros) {
    const auto tile = [&](int64_t a, int64_t b) INLINED {
        const bool exists = a >= 0 && b >= 0 && a < tiles.rows() && b < tiles.columns();
        const int64_t row = exists ? position[a * tiles.columns() + b] : 0;
        return TileProducts<Size, SOME>(block.products + row * block.products_row() + phase * tiles.C, block.products_plane(), !exists,
                               tiles.is_below(a) || tiles.is_zero_row(phase),
                               tiles.is_right(b) || tiles.is_zero_column(phase), zeros);
    };
    for (int64_t a = 0; a <= tiles.rows(); a++)
        for (int64_t b = 0; b <= tiles.columns(); b++) {
            T *pixel[Size::HEIGHT][Size::WIDTH];
            for (int i = 0; i < Size::HEIGHT; i++)
                for (int j = 0; j < Size::WIDTH; j++) {
                    const int64_t y = 2 * (Size::HEIGHT * a + i) + phase / 2 - 1, x = 2 * (Size::WIDTH * b + j) + phase % 2 - 1;
                    const bool inside = y >= 0 && x >= 0 && y < tiles.height && x < tiles.width;
                    pixel[i][j] = inside ? big + (y * tiles.width + x) * tiles.C : nullptr;
                }
            const auto add = [&](auto below, auto right) INLINED {
                add_tiles<Size, below.value, right.value>(tile(a, b), tile(a - 1, b), tile(a, b - 1), tile(a - 1, b - 1), pixel, tiles.C);
            };
            const bool below = a == tiles.rows(), right = b == tiles.columns();
            const std::true_type yes;
            const std::false_type no;
            below ? (right ? add(yes, yes) : add(yes, no)) : (right ? add(no, yes) : add(no, no));
        }
}

template <class T, class Size> void scatter(const T *small, const uint32_t *packed, T *big, const Shape &shape) {
    const Tiles<Size> tiles(shape);
    const int64_t in_picture = tiles.in_picture();
    const bool together = tiles.together(sizeof(T));
    const bool some_are_zero = tiles.kernel() == 3 || tiles.is_below(tiles.rows() - 1) || tiles.is_right(tiles.columns() - 1);
    const int64_t pictures = tiles.block(in_picture, together) / in_picture; // whole ones: tiles share pixels
    const Block<Size> layout{pictures * in_picture, shape.O / PER_WORD<T>, 4 * shape.C};
    static thread_local Scratch shared_scratch, scratch_zeros;
    const Block<Size> shared = together ? layout.in(shared_scratch) : layout;
    float *zeros = scratch_zeros.take<float>(std::max(shape.C, shape.O));
    std::memset(zeros, 0, std::max(shape.C, shape.O) * sizeof(float));
#pragma omp parallel
    {
        static thread_local Scratch scratch, scratch_order;
        const Block<Size> block = together ? shared : layout.in(scratch);
        for_each(!together, shape.batch, pictures, [&](int64_t first) {
            const int64_t pictures_here = std::min(pictures, shape.batch - first), count = pictures_here * in_picture;
            const Order<Size> order(tiles, first * in_picture, count, scratch_order);
            for_each(together, count, 1, [&](int64_t t) {
                const SmallPixels<const T, Size> from(small, tiles, order.tile[t], reinterpret_cast<const T *>(zeros));
                for (int64_t channel = 0; channel < shape.O; channel += LANES) {
                    T *to = reinterpret_cast<T *>(block.transformed + t * block.row()) + channel;
                    from.output_transform_transposed(channel, [&](int p, Vector w) INLINED {
                        store(to + p * block.plane() * PER_WORD<T>, w);
                    });
                }
            });
            const int64_t start = first * in_picture, next = start + omp_get_num_threads() * block.tiles; // most likely
            const Prefetch pixels = prefetch_tiles(small, shape.small_size(), tiles, next, next + block.tiles, together);
            const Prefetch results = prefetch_tiles(big, shape.big_size(), tiles, start, start + count, together);
            multiply<T, Size>(block, order, packed, together, pixels, results, [&](int64_t p, auto f) INLINED {
                tiles.for_phases(p, [&](int64_t first, int64_t last) INLINED { f(0, block.depth, first * shape.C, last * shape.C); });
            });
            for_each(together, 4 * pictures_here, 1, [&](int64_t unit) {
                const int64_t picture = unit / 4, phase = unit % 4;
                const int64_t *position = order.position + picture * in_picture;
                T *to = big + (first + picture) * shape.height * shape.width * shape.C;
                some_are_zero ? input_transform_transposed<T, Size, true>(block, position, phase, to, tiles, zeros)
                              : input_transform_transposed<T, Size, false>(block, position, phase, to, tiles, zeros);
            });
        });
    }
}

// --- Gradient of the weights ------------------------------------------------------------------------------------------

// Where a chunk's transformed tiles lie, paired to words: [4C/PANEL][PRODUCTS][words][PANEL] of the big side,
// [PRODUCTS][words][O] of the small side.
template <class Size> struct Chunk {
    static constexpr int64_t PRODUCTS = Tiles<Size>::PRODUCTS;
    int64_t words, panels, maps;
    uint32_t *big = nullptr, *small = nullptr;

    int64_t big_plane() const { return (words + GROUP) * PANEL + PAD; }
    int64_t small_row() const { return maps + PAD; }
    int64_t small_plane() const { return words * small_row() + PAD; }
    Chunk in(Scratch &scratch) const {
        Chunk chunk = *this;
        const int64_t big_size = panels * PRODUCTS * big_plane();
        chunk.big = scratch.take<uint32_t>(big_size + PRODUCTS * small_plane());
        chunk.small = chunk.big + big_size;
        return chunk;
    }
};

template <class T, class Size>
void transform_tiles(const T *big, const T *small, const Tiles<Size> &tiles, const Order<Size> &order, const Chunk<Size> &chunk, bool together,
                     const T *zeros) {
    constexpr int64_t PRODUCTS = Tiles<Size>::PRODUCTS;
    const int64_t depth = (order.first[4] + PER_WORD<T> - 1) / PER_WORD<T>;
    // With an odd number of tiles the last one is paired with zeros.
    const auto tile_of = [&](int64_t k, int64_t i) INLINED {
        const int64_t t = k * PER_WORD<T> + i;
        return t < order.first[4] ? order.tile[t] : tiles.count();
    };
    for_each(together, depth, GROUP, [&](int64_t from) {
        const int64_t until = std::min(depth, from + GROUP);
        Window<T, Size> windows[GROUP][PER_WORD<T>], next[GROUP][PER_WORD<T>];
        for (int64_t k = from; k < until; k++)
            for (int64_t i = 0; i < PER_WORD<T>; i++) {
                windows[k - from][i] = Window<T, Size>(big, tiles, tile_of(k, i), zeros);
                next[k - from][i] = Window<T, Size>(big, tiles, tile_of(k + GROUP, i), zeros);
            }
        for (int phase = 0; phase < 4; phase++)
            for (int64_t line = 0; line < tiles.C; line += 16) // channels of a cache line
                for (int64_t k = from; k < until; k++)
                    for (int64_t channel = line; channel < line + 16; channel += LANES) {
                        Vector first[PRODUCTS];
                        const int64_t n = (phase * tiles.C + channel) / PANEL, column = (phase * tiles.C + channel) % PANEL;
                        const auto *window = windows[k - from];
                        for (const auto &ahead : next[k - from]) ahead.prefetch(phase, channel);
                        if (PER_WORD<T> > 1) window[0].input_transform(phase, channel, [&](int p, Vector d) INLINED { first[p] = d; });
                        window[PER_WORD<T> - 1].input_transform(phase, channel, [&](int p, Vector last) INLINED {
                            store(chunk.big + (n * PRODUCTS + p) * chunk.big_plane() + k * PANEL + column,
                                  pack_words((const T *)nullptr, PER_WORD<T> > 1 ? first[p] : last, last));
                        });
                    }
        for (int64_t k = from; k < until; k++) {
            const SmallPixels<const T, Size> pixels(small, tiles, tile_of(k, 0), zeros), last_pixels(small, tiles, tile_of(k, PER_WORD<T> - 1), zeros);
            for (int64_t channel = 0; channel < tiles.O; channel += LANES) {
                Vector first[PRODUCTS];
                if (PER_WORD<T> > 1) pixels.output_transform_transposed(channel, [&](int p, Vector w) INLINED { first[p] = w; });
                last_pixels.output_transform_transposed(channel, [&](int p, Vector last) INLINED {
                    store(chunk.small + p * chunk.small_plane() + k * chunk.small_row() + channel,
                          pack_words((const T *)nullptr, PER_WORD<T> > 1 ? first[p] : last, last));
                });
            }
        }
    });
}

// sums[4C/PANEL][PRODUCTS][maps][PANEL] (+)= small^T big, over a chunk's tiles; written where the chunk is the first one. Meanwhile
// the pixels of the next one are fetched.
template <class T, class Size>
void multiply_tiles(const Tiles<Size> &tiles, const Order<Size> &order, const Chunk<Size> &chunk, bool is_first, bool together, Prefetch next_big,
                    Prefetch next_small, float *sums) {
    const int64_t products = Tiles<Size>::PRODUCTS * chunk.panels * (tiles.O / ROWS + 1);
    next_big.split(products);
    next_small.split(products);
    for_each(together, Tiles<Size>::PRODUCTS * chunk.panels, 1, [&](int64_t unit) {
        const int64_t p = unit / chunk.panels, n = unit % chunk.panels; // p outermost: the small side's tiles stay in the L2 cache
        if (tiles.is_zero(p, n * PANEL / tiles.C)) return;              // matters to the taps that there are none of
        const int64_t begin = order.begin(p) / PER_WORD<T>, end = (order.end(p) + PER_WORD<T> - 1) / PER_WORD<T>;
        float *here = sums + (n * Tiles<Size>::PRODUCTS + p) * chunk.maps * PANEL;
        if (is_first && begin >= end) std::memset(here, 0, chunk.maps * PANEL * sizeof(float));
        for (int64_t k = begin; k < end; k += TILE_SLICE)
            for_products(0, tiles.O, [&](int64_t o, int64_t rows) INLINED {
                const uint32_t *A = chunk.small + p * chunk.small_plane() + k * chunk.small_row() + o;
                const uint32_t *B = chunk.big + (n * Tiles<Size>::PRODUCTS + p) * chunk.big_plane() + k * PANEL;
                const int64_t length = std::min(TILE_SLICE, end - k);
                next_big.next_part();
                next_small.next_part();
                if (is_first && k == begin)
                    product_of_rows<T, false, true>(rows, length, A, chunk.small_row(), B, PANEL, here + o * PANEL, PANEL);
                else
                    product_of_rows<T, true, true>(rows, length, A, chunk.small_row(), B, PANEL, here + o * PANEL, PANEL);
            });
    });
}

template <class T, class Size> void weight_gradient(const T *big, const T *small, float *gradient, const Shape &shape) {
    const Tiles<Size> tiles(shape);
    constexpr int64_t PRODUCTS = Tiles<Size>::PRODUCTS;
    const int64_t C = shape.C, O = shape.O, panels = 4 * C / PANEL, threads = omp_get_max_threads();
    const int64_t sums_size = panels * PRODUCTS * O * PANEL;
    const Weights<float> to{gradient, C, O, shape.kernel()};
    // Each thread has a part of the tiles, and sums of its own. Where those would be too large, all work on each chunk of tiles
    // together: then each reads what the others transformed, which takes longer the further apart their caches are.
    const bool together = sums_size * threads * int64_t(sizeof(float)) > MOST_SUMS;
    const int64_t part = together ? tiles.count() : round_up((tiles.count() + threads - 1) / threads, PER_WORD<T>);
    const int64_t parts = (tiles.count() + part - 1) / part, chunk_tiles = std::min(together ? SHARED_CHUNK : OWN_CHUNK, round_up(part, PER_WORD<T>));
    const Chunk<Size> layout{chunk_tiles / PER_WORD<T>, panels, O};
    static thread_local Scratch shared_scratch, scratch_sums, scratch_zeros;
    const Chunk<Size> shared = together ? layout.in(shared_scratch) : layout;
    float *all_sums = scratch_sums.take<float>(parts * sums_size);
    T *zeros = scratch_zeros.take<T>(std::max(C, O));
    std::memset(zeros, 0, std::max(C, O) * sizeof(T));
#pragma omp parallel
    {
        static thread_local Scratch scratch, scratch_order;
        const Chunk<Size> chunk = together ? shared : layout.in(scratch);
        for_each(!together, tiles.count(), part, [&](int64_t first) {
            const int64_t last = std::min(tiles.count(), first + part);
            for (int64_t start = first; start < last; start += chunk_tiles) {
                const Order<Size> order(tiles, start, std::min(chunk_tiles, last - start), scratch_order);
                transform_tiles(big, small, tiles, order, chunk, together, zeros);
                const int64_t next = start + chunk_tiles, after = std::min(next + chunk_tiles, last);
                const Prefetch next_big = prefetch_tiles(big, shape.big_size(), tiles, next, after, together);
                const Prefetch next_small = prefetch_tiles(small, shape.small_size(), tiles, next, after, together);
                multiply_tiles<T, Size>(tiles, order, chunk, start == first, together, next_big, next_small, all_sums + first / part * sums_size);
            }
        });
#pragma omp for collapse(2)
        for (int phase = 0; phase < 4; phase++)
            for (int64_t channel = 0; channel < C; channel += LANES)
                for (int64_t o = 0; o < O; o++) {
                    const int64_t n = (phase * C + channel) / PANEL, column = (phase * C + channel) % PANEL;
                    interpolate_both<FilterMatrix<Size::HEIGHT>, FilterMatrix<Size::WIDTH>>(
                        [&](int k, int l) INLINED {
                            const float *sums = all_sums + ((n * PRODUCTS + k * Size::ACROSS + l) * O + o) * PANEL + column;
                            Vector sum = load(sums);
                            for (int64_t other = 1; other < parts; other++) sum += load(sums + other * sums_size);
                            return sum;
                        },
                        [&](int i, int j, Vector g) INLINED {
                            if (float *tap = to.tap(o, phase, i, j, channel)) store(tap, g);
                        });
                }
    }
}

} // namespace

// bf16 has no tiles of 4 x 4: their transformed numbers would lose too many bits.
#define EXPORT(NAME, T, HEIGHT, WIDTH)                                                                                 \
    void winograd_pack_gather##NAME(const float *w, int64_t C, int64_t O, int64_t kernel, uint32_t *packed) {                  \
        pack_gather<T, TileSize<HEIGHT, WIDTH>>({w, C, O, kernel}, packed);                                            \
    }                                                                                                                  \
    void winograd_pack_scatter##NAME(const float *w, int64_t C, int64_t O, int64_t kernel, uint32_t *packed) {                 \
        pack_scatter<T, TileSize<HEIGHT, WIDTH>>({w, C, O, kernel}, packed);                                           \
    }                                                                                                                  \
    void winograd_gather##NAME(const T *big, const uint32_t *packed, T *small, const Shape *shape) {                           \
        gather<T, TileSize<HEIGHT, WIDTH>>(big, packed, small, *shape);                                                \
    }                                                                                                                  \
    void winograd_scatter##NAME(const T *small, const uint32_t *packed, T *big, const Shape *shape) {                          \
        scatter<T, TileSize<HEIGHT, WIDTH>>(small, packed, big, *shape);                                               \
    }                                                                                                                  \
    void winograd_weight_gradient##NAME(const T *big, const T *small, float *gradient, const Shape *shape) {                   \
        weight_gradient<T, TileSize<HEIGHT, WIDTH>>(big, small, gradient, *shape);                                     \
    }

extern "C" {
EXPORT(2x2_fp32, float, 2, 2)
EXPORT(4x2_fp32, float, 4, 2)
EXPORT(4x4_fp32, float, 4, 4)
#ifdef __AVX512BF16__
EXPORT(2x2_bf16, bf16, 2, 2)
EXPORT(4x2_bf16, bf16, 4, 2)
#endif
}
