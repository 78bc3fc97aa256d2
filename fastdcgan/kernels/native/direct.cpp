// Convolutions of kernel 4 (3 on odd sides), stride 2, padding 1 by the processor's matrix unit (AMX), as they are defined.
//
// The unit multiplies so fast that Winograd's transforms (winograd.cpp) take longer than the products they save.
//
//     gather             small[y][x] = sum over taps (i, j) of big[2y + i - 1][2x + j - 1] weight[i][j]
//     scatter            big[Y][X] = sum over taps and (y, x) with Y = 2y + i - 1, X = 2x + j - 1 of small[y][x] weight[i][j]^T
//     weight_gradient    weight[i][j] = sum over pictures and (y, x) of small[y][x]^T big[2y + i - 1][2x + j - 1]
//
// A product's rows are pictures: PICTURES of them at one position and one tap. So taps beyond the edge are left out, sides
// may be of any length, and no position is computed in vain. For this pictures are copied to where those of a position are
// neighbours: some rows of pixels at a time, which stay in the L2 cache. For the weights' gradient pictures are the terms
// of the sum.
//
// Layout: pictures are NHWC; `big` has C channels, a multiple of 16, `small` has O, a multiple of 32. Words, panels: see
// product.hpp.

#include "product.hpp"

#ifdef __AMX_BF16__

namespace {

using Unit = Multiplier<bf16>;

constexpr int64_t PICTURES = Unit::ROWS, PAIRS = PICTURES / 2, SUMS = PICTURES * PANEL;
static_assert(PAIRS == Unit::DEPTH);

// Bytes of copied pictures at a time: with the weights of a panel they stay in the L2 cache.
constexpr int64_t MOST_COPIED = 1 << 20;

// The same where all threads work on one copy, and bytes of sums of all threads up to which each has its own.
constexpr int64_t MOST_COPIED_TOGETHER = 16 << 20, MOST_SUMS = 8 << 20;

// Padding of rows, a cache line in words: at strides of powers of two they would map to the same sets of the L1 cache.
constexpr int64_t PAD = 16;

struct Side {
    int64_t height, width, channels;

    int64_t pixels() const { return height * width; }
    // Of words and of panels, the last one filled up with zeros.
    int64_t words() const { return round_up(channels, PANEL) / 2; }
    int64_t panels() const { return round_up(channels, PANEL) / PANEL; }
};

struct Shape {
    int64_t batch, C, O, height, width; // of the big side

    Side big() const { return {height, width, C}; }
    Side small() const { return {(height + 1) / 2, (width + 1) / 2, O}; }
    int64_t kernel() const { return height % 2 ? 3 : 4; }
    int64_t taps() const { return kernel() * kernel(); }
    int64_t blocks() const { return (batch + PICTURES - 1) / PICTURES; }
};

// Which row (or column) of the input a tap of a row of the output reads; one that isn't there where it reads none.
struct Gather {
    static Side in(const Shape &shape) { return shape.big(); }
    static Side out(const Shape &shape) { return shape.small(); }
    static int64_t source(int64_t row, int64_t tap) { return 2 * row + tap - 1; }
    // The first and the end of those that rows [top, bottom) read.
    static int64_t first(int64_t top) { return 2 * top - 1; }
    static int64_t end(int64_t bottom) { return 2 * bottom + 1; }
};
struct Scatter {
    static Side in(const Shape &shape) { return shape.small(); }
    static Side out(const Shape &shape) { return shape.big(); }
    static int64_t source(int64_t row, int64_t tap) { return (row + 1 - tap) % 2 ? -1 : (row + 1 - tap) / 2; }
    static int64_t first(int64_t top) { return top / 2 - 1; }
    static int64_t end(int64_t bottom) { return bottom / 2 + 1; }
};

bool exists(int64_t index, int64_t count) { return index >= 0 && index < count; }

// 16 channels of two pictures, a word each.
inline Words pair(const bf16 *first, const bf16 *second) {
    const auto words = [](const bf16 *from) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))); };
    const __m512i left = first ? words(first) : __m512i{}, right = second ? words(second) : __m512i{};
    return (Words)_mm512_or_si512(left, _mm512_slli_epi32(right, 16));
}

// A word for each two of 32 numbers.
inline Words pack_neighbours(Vector left, Vector right) { return (Words)_mm512_cvtne2ps_pbh((__m512)right, (__m512)left); }

// --- Weights [O, kernel, kernel, C] as panels: [panels][taps][words][PANEL] -----------------------------------------------

void pack(Gather, const float *weight, const Shape &shape, uint32_t *packed) {
    const int64_t words = shape.big().words(), taps = shape.taps();
#pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < shape.O / LANES; n++)
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t word = 0; word < words; word += LANES) {
                Words columns[LANES];
                for (int64_t lane = 0; lane < LANES; lane++) {
                    const float *from = weight + ((n * LANES + lane) * taps + tap) * shape.C + 2 * word;
                    columns[lane] = pack_neighbours(load(from), 2 * word + LANES < shape.C ? load(from + LANES) : Vector{});
                }
                transpose(columns);
                uint32_t *to = packed + ((n / 2 * taps + tap) * words + word) * PANEL + n % 2 * LANES;
                for (int64_t i = 0; i < LANES; i++) store(to + i * PANEL, columns[i]);
            }
}

void pack(Scatter, const float *weight, const Shape &shape, uint32_t *packed) {
    const int64_t words = shape.small().words(), taps = shape.taps();
#pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < shape.big().panels(); n++)
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t word = 0; word < words; word++)
                for (int64_t channel = n * PANEL; channel < (n + 1) * PANEL; channel += LANES) {
                    const float *first = weight + (2 * word * taps + tap) * shape.C + channel, *second = first + taps * shape.C;
                    const bool inside = channel < shape.C;
                    store(packed + ((n * taps + tap) * words + word) * PANEL + channel % PANEL,
                          inside ? pack_words((const bf16 *)nullptr, load(first), load(second)) : Words{});
                }
}

// --- gather and scatter ---------------------------------------------------------------------------------------------------

// Rows [first, end) of a block of pictures to [row][column][picture][words + PAD].
void copy_pictures(const bf16 *in, const Side &side, int64_t batch, int64_t block, int64_t first, int64_t end, uint32_t *copy) {
    const int64_t line = side.words() + PAD;
    for (int64_t row = first; row < end; row++)
        for (int64_t m = 0; m < std::min(PICTURES, batch - block * PICTURES); m++) {
            const bf16 *from = in + ((block * PICTURES + m) * side.height + row) * side.width * side.channels;
            uint32_t *to = copy + ((row - first) * side.width * PICTURES + m) * line;
            for (int64_t column = 0; column < side.width; column++, from += side.channels, to += PICTURES * line) {
                int64_t channel = 0;
                for (; channel + PANEL <= side.channels; channel += PANEL) _mm512_store_si512(to + channel / 2, _mm512_loadu_si512(from + channel));
                if (channel < side.channels) store(to + channel / 2, (Words)_mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + channel))));
            }
        }
}

// A panel of sums to pictures, at the pixel that is `pixel` in the first of them, from a channel on.
void write_pixels(const float *sums, int64_t pictures, bf16 *pixel, const Side &side, int64_t channel) {
    for (int64_t m = 0; m < pictures; m++, pixel += side.pixels() * side.channels, sums += PANEL) {
        const Vector left = load(sums), right = load(sums + LANES);
        if (side.channels % PANEL == 0) { // a whole cache line, which needn't be read first
            stream_store(reinterpret_cast<uint32_t *>(pixel + channel), pack_neighbours(left, right));
            continue;
        }
        store(pixel + channel, left);
        if (channel + LANES < side.channels) store(pixel + channel + LANES, right);
    }
}

template <class Direction> void convolve(const bf16 *in, const float *weight, bf16 *out, const Shape &shape) {
    const Side from = Direction::in(shape), to = Direction::out(shape);
    const int64_t kernel = shape.kernel(), words = from.words(), line = words + PAD, position = PICTURES * line;
    const auto first_row = [&](int64_t top) { return std::max<int64_t>(0, Direction::first(top)); };
    const auto end_row = [&](int64_t bottom) { return std::min(from.height, Direction::end(bottom)); };
    int64_t strip = to.height;
    const auto copied = [&] { return (Direction::end(strip) - Direction::first(0)) * from.width * position * int64_t(sizeof(uint32_t)); };
    while (strip > 2 && copied() > MOST_COPIED) strip = (strip + 1) / 2;
    // Where there are fewer pieces than threads, several share a piece: each makes the panels whose weights it has packed.
    const int64_t pieces = shape.blocks() * ((to.height + strip - 1) / strip);
    const int64_t groups = std::max<int64_t>(1, std::min(to.panels(), omp_get_max_threads() / pieces));
    omp_set_schedule(groups > 1 ? omp_sched_static : omp_sched_dynamic, groups > 1 ? 0 : 1);
    // Not in a tensor: from pages as small as those are, products take nearly twice the time.
    static thread_local Scratch scratch_packed;
    const int64_t panel = shape.taps() * words * PANEL;
    uint32_t *packed = scratch_packed.take<uint32_t>(to.panels() * panel);
    pack(Direction(), weight, shape, packed);
#pragma omp parallel
    {
        static thread_local Scratch scratch;
        const Unit unit;
#pragma omp for collapse(3) schedule(runtime)
        for (int64_t block = 0; block < shape.blocks(); block++)
            for (int64_t top = 0; top < to.height; top += strip)
                for (int64_t group = 0; group < groups; group++) {
                    const int64_t bottom = std::min(to.height, top + strip), first = first_row(top), end = end_row(bottom);
                    uint32_t *copy = scratch.take<uint32_t>((end - first) * from.width * position);
                    copy_pictures(in, from, shape.batch, block, first, end, copy);
                    const int64_t pictures = std::min(PICTURES, shape.batch - block * PICTURES);
                    for (int64_t n = group * to.panels() / groups; n < (group + 1) * to.panels() / groups; n++)
                        for (int64_t y = top; y < bottom; y++)
                            for (int64_t x = 0; x < to.width; x++) {
                                unit.clear_sums();
                                for (int64_t i = 0; i < kernel; i++) {
                                    const int64_t row = Direction::source(y, i);
                                    if (!exists(row, from.height)) continue;
                                    for (int64_t j = 0; j < kernel; j++) {
                                        const int64_t column = Direction::source(x, j);
                                        if (!exists(column, from.width)) continue;
                                        const uint32_t *A = copy + ((row - first) * from.width + column) * position;
                                        const uint32_t *B = packed + n * panel + (i * kernel + j) * words * PANEL;
                                        pictures > Unit::TILE ? unit.add_product(words, A, line, B, PANEL) : unit.add_product<true>(words, A, line, B, PANEL);
                                    }
                                }
                                alignas(64) float sums[SUMS];
                                unit.store_sums(sums, PANEL);
                                write_pixels(sums, pictures, out + ((block * PICTURES * to.height + y) * to.width + x) * to.channels, to, n * PANEL);
                            }
                }
        fence_streaming_stores();
    }
}

// --- The weights' gradient ------------------------------------------------------------------------------------------------

// Rows of both sides of blocks of pictures, paired to words: small as [block][O/PANEL][row][column][PANEL][PAIRS], of big some
// panels of channels as [block][panel][row][column][PAIRS][PANEL].
struct Copy {
    Side big, small;
    int64_t blocks, rows, big_panels; // rows of the small side
    uint32_t *pictures = nullptr;

    static constexpr int64_t TILES = PAIRS * PANEL; // words of a position and a panel
    int64_t big_rows() const { return 2 * rows + 2; }
    int64_t big_size() const { return big_panels * big_rows() * big.width * TILES; } // of a block
    int64_t small_size() const { return small.panels() * rows * small.width * TILES; }
    int64_t size() const { return blocks * (big_size() + small_size()); }
    // Rows count from the first copied one.
    uint32_t *big_at(int64_t block, int64_t panel, int64_t row, int64_t column) const {
        return pictures + block * big_size() + ((panel * big_rows() + row) * big.width + column) * TILES;
    }
    uint32_t *small_at(int64_t block, int64_t panel, int64_t row, int64_t column) const {
        return pictures + blocks * big_size() + block * small_size() + ((panel * rows + row) * small.width + column) * TILES;
    }
};

// A row of the big side of a block, in the panels from `first_panel` on; `from` is its first picture's, of `count`.
void copy_big_row(const bf16 *from, int64_t count, const Copy &copy, int64_t first_panel, int64_t block, int64_t row) {
    const Side &side = copy.big;
    const int64_t picture = side.pixels() * side.channels, end_panel = std::min(first_panel + copy.big_panels, side.panels());
    for (int64_t k = 0; k < PAIRS; k++)
        for (int64_t column = 0; column < side.width; column++)
            for (int64_t channel = first_panel * PANEL; channel < end_panel * PANEL; channel += LANES) {
                const bf16 *at = from + 2 * k * picture + column * side.channels + channel;
                const bool inside = channel < side.channels;
                store(copy.big_at(block, channel / PANEL - first_panel, row, column) + k * PANEL + channel % PANEL,
                      pair(inside && 2 * k < count ? at : nullptr, inside && 2 * k + 1 < count ? at + picture : nullptr));
            }
}

void copy_small_row(const bf16 *from, int64_t count, const Copy &copy, int64_t block, int64_t row) {
    const Side &side = copy.small;
    const int64_t picture = side.pixels() * side.channels;
    for (int64_t column = 0; column < side.width; column++)
        for (int64_t channel = 0; channel < side.channels; channel += LANES) {
            Words rows[LANES];
            for (int64_t k = 0; k < PAIRS; k++) {
                const bf16 *at = from + 2 * k * picture + column * side.channels + channel;
                if (channel % PANEL == 0) __builtin_prefetch(at + side.channels), __builtin_prefetch(at + picture + side.channels);
                rows[k] = pair(2 * k < count ? at : nullptr, 2 * k + 1 < count ? at + picture : nullptr);
            }
            transpose(rows);
            uint32_t *to = copy.small_at(block, channel / PANEL, row, column) + channel % PANEL * PAIRS;
            for (int64_t i = 0; i < LANES; i++) store(to + i * PAIRS, rows[i]);
        }
}

// Sums of a panel of each side: those of a tap are a matrix, whose rows are `line` apart, and those of taps `next` apart.
struct Sums {
    float *at;
    int64_t next, line;
};

// sums (+)= small^T big over a copy's pictures and rows, of a panel of each side. The first copied row of the big side is
// 2 top - 1.
void multiply(const Unit &unit, const Copy &copy, int64_t kernel, int64_t top, int64_t bottom, int64_t o, int64_t c, bool is_first, Sums sums) {
    for (int64_t i = 0; i < kernel; i++)
        for (int64_t j = 0; j < kernel; j++, sums.at += sums.next) {
            is_first ? unit.clear_sums() : unit.load_sums(sums.at, sums.line);
            for (int64_t block = 0; block < copy.blocks; block++)
                for (int64_t y = top; y < bottom; y++) {
                    if (!exists(Gather::source(y, i), copy.big.height)) continue;
                    for (int64_t x = 0; x < copy.small.width; x++) {
                        const int64_t column = Gather::source(x, j);
                        if (!exists(column, copy.big.width)) continue;
                        unit.add_product(PAIRS, copy.small_at(block, o, y - top, x), PAIRS, copy.big_at(block, c, 2 * (y - top) + i, column), PANEL);
                    }
                }
            unit.store_sums(sums.at, sums.line);
        }
}

// What is copied at a time: by all threads together, or by each. In pieces, of which a block of pictures has `strips`.
struct Layout : Copy {
    int64_t strips, pieces;

    Layout(const Shape &shape, bool together) : Copy{shape.big(), shape.small(), 1, shape.small().height, 1} {
        if (together) blocks = shape.blocks(), big_panels = big.panels();
        const int64_t most = (together ? MOST_COPIED_TOGETHER : MOST_COPIED) / int64_t(sizeof(uint32_t));
        for (int64_t *number : {&blocks, &rows})
            while (*number > 1 && size() > most) *number = (*number + 1) / 2;
        strips = (small.height + rows - 1) / rows;
        pieces = (shape.blocks() + blocks - 1) / blocks * strips;
    }
};

void weight_gradient(const bf16 *big, const bf16 *small, float *gradient, const Shape &shape) {
    const Side wide = shape.big(), narrow = shape.small();
    const int64_t taps = shape.taps(), sums_size = narrow.panels() * wide.panels() * taps * SUMS, threads = omp_get_max_threads();
    // Each thread has some of the pictures and sums of its own. Where those would be too large, or pieces too few, all share
    // the sums.
    const bool together = sums_size * threads * int64_t(sizeof(float)) > MOST_SUMS || Layout(shape, false).pieces < threads;
    const Layout layout(shape, together);
    const int64_t strips = layout.strips, pieces = layout.pieces;

    static thread_local Scratch shared_scratch, scratch_sums;
    uint32_t *shared = together ? shared_scratch.take<uint32_t>(layout.size()) : nullptr;
    const int64_t most_parts = together ? 1 : std::min(threads, pieces);
    const bool in_place = most_parts == 1 && shape.C % PANEL == 0;
    float *all_sums = in_place ? gradient : scratch_sums.take<float>(most_parts * sums_size);
#pragma omp parallel
    {
        static thread_local Scratch scratch;
        const Unit unit;
        const int64_t thread = together ? 0 : omp_get_thread_num(), step = together ? 1 : omp_get_num_threads(), parts = std::min(most_parts, step);
        float *sums = all_sums + thread * sums_size;
        const auto sums_of = [&](int64_t o, int64_t c) {
            if (in_place) return Sums{sums + o * PANEL * taps * shape.C + c * PANEL, shape.C, taps * shape.C};
            return Sums{sums + (c * narrow.panels() + o) * taps * SUMS, SUMS, PANEL};
        };
        for (int64_t piece = thread; piece < pieces; piece += step) {
            const int64_t start = piece / strips * layout.blocks, top = piece % strips * layout.rows, bottom = std::min(narrow.height, top + layout.rows);
            Copy copy = layout;
            copy.blocks = std::min(layout.blocks, shape.blocks() - start);
            copy.pictures = together ? shared : scratch.take<uint32_t>(layout.size());
            // Calls f(block, its first picture, pictures, row) for so many rows of all blocks.
            const auto for_rows = [&](int64_t rows, auto f) {
                for_each(together, copy.blocks * rows, 1, [&](int64_t each) {
                    const int64_t block = each / rows, picture = (start + block) * PICTURES;
                    f(block, picture, std::min(PICTURES, shape.batch - picture), each % rows);
                });
            };
            for_rows(bottom - top, [&](int64_t block, int64_t picture, int64_t count, int64_t row) {
                copy_small_row(small + (picture * narrow.height + top + row) * narrow.width * narrow.channels, count, copy, block, row);
            });
            for (int64_t c = 0; c < wide.panels(); c += copy.big_panels) {
                for_rows(2 * (bottom - top) + 2, [&](int64_t block, int64_t picture, int64_t count, int64_t row) {
                    const int64_t y = 2 * top - 1 + row;
                    if (exists(y, wide.height)) copy_big_row(big + (picture * wide.height + y) * wide.width * wide.channels, count, copy, c, block, row);
                });
                for_each(together, std::min(copy.big_panels, wide.panels() - c) * narrow.panels(), 1, [&](int64_t each) {
                    const int64_t panel = each / narrow.panels(), o = each % narrow.panels();
                    multiply(unit, copy, shape.kernel(), top, bottom, o, panel, piece == thread, sums_of(o, c + panel));
                });
            }
        }
        if (!in_place) {
#pragma omp barrier
#pragma omp for
            for (int64_t o = 0; o < shape.O; o++)
                for (int64_t tap = 0; tap < taps; tap++)
                    for (int64_t channel = 0; channel < shape.C; channel += LANES) {
                        const int64_t panels = channel / PANEL * narrow.panels() + o / PANEL;
                        const float *from = all_sums + (panels * taps + tap) * SUMS + o % PANEL * PANEL + channel % PANEL;
                        Vector sum = load(from);
                        for (int64_t part = 1; part < parts; part++) sum += load(from + part * sums_size);
                        store(gradient + (o * taps + tap) * shape.C + channel, sum);
                    }
        }
    }
}

} // namespace

extern "C" {
void direct_gather_bf16(const bf16 *big, const float *weight, bf16 *small, const Shape *shape) { convolve<Gather>(big, weight, small, *shape); }
void direct_scatter_bf16(const bf16 *small, const float *weight, bf16 *big, const Shape *shape) { convolve<Scatter>(small, weight, big, *shape); }
void direct_weight_gradient_bf16(const bf16 *big, const bf16 *small, float *gradient, const Shape *shape) {
    weight_gradient(big, small, gradient, *shape);
}
}

#endif
