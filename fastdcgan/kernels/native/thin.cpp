// Image layers: D's first, with its LeakyReLU, and G's last. Convolutions of kernel 4, stride 2, padding 1 between a picture
// of few channels and many feature maps.
//
// A window of 4 x 4 pixels with 3 channels is 48 numbers, and each of its rows is contiguous in memory. So a layer is a
// product of windows with a matrix [48, maps], or of maps with a matrix [maps, 48]. Both fit into the L1 cache.
//
// gather makes maps from a picture, scatter makes a picture from maps.
//
// Layout: pictures and maps are NHWC. `C` channels of the picture, 1 to 8; `O` feature maps, a multiple of 32.
// LeakyReLU's slope is 1 where there is none.

#include "prefetch.hpp"
#include "product.hpp"

namespace {

constexpr int64_t KERNEL = 4, LARGEST_C = 8;

struct Shape {
    int64_t batch, C, O, height, width; // of the picture; even

    int64_t rows() const { return height / 2; }
    int64_t columns() const { return width / 2; }
    int64_t window() const { return KERNEL * KERNEL * C; }
    int64_t padded_window() const { return round_up(window(), PANEL); }
    // Words of a window in which it is a whole number of a product's steps.
    template <class T> int64_t window_words() const { return round_up(window() / PER_WORD<T>, Multiplier<T>::DEPTH); }
};

// Copies a window's row. Most are 4 pixels of 1 or 3 channels: the compiler inlines a memcpy of a constant length, where a
// call would take longer than the copy.
inline void copy_row(void *to, const void *from, int64_t bytes) {
    switch (bytes) {
    case 8: std::memcpy(to, from, 8); break;
    case 16: std::memcpy(to, from, 16); break;
    case 24: std::memcpy(to, from, 24); break;
    case 48: std::memcpy(to, from, 48); break;
    default: std::memcpy(to, from, bytes);
    }
}

// Adds to a window's row. As above: of 1 or 3 channels by a constant length.
inline void add_row(float *__restrict to, const float *__restrict add, int64_t count) {
    const auto add_numbers = [&](int64_t count) INLINED {
        for (int64_t k = 0; k < count; k++) to[k] += add[k];
    };
    count == KERNEL ? add_numbers(KERNEL) : count == 3 * KERNEL ? add_numbers(3 * KERNEL) : add_numbers(count);
}

// A position of the maps. Counted on, not divided for: a division takes as long as a window's copy.
struct Position {
    int64_t row, column;

    Position(const Shape &shape, int64_t number) : row(number / shape.columns()), column(number % shape.columns()) {}
    void next(const Shape &shape) {
        if (++column == shape.columns()) column = 0, row++;
    }
};

// Copies the 4 x 4 pixels that one position of the maps depends on; zeros beyond the edges.
template <class T> inline void copy_window(const T *picture, const Shape &shape, Position position, T *window) {
    const int64_t top = 2 * position.row - 1, left = 2 * position.column - 1, in_row = KERNEL * shape.C;
    if (top >= 0 && left >= 0 && top + KERNEL <= shape.height && left + KERNEL <= shape.width) { // as most are
        for (int64_t i = 0; i < KERNEL; i++)
            copy_row(window + i * in_row, picture + ((top + i) * shape.width + left) * shape.C, in_row * sizeof(T));
        return;
    }
    for (int64_t i = 0; i < KERNEL; i++) {
        T *to = window + i * in_row;
        const int64_t y = top + i;
        if (y < 0 || y >= shape.height) {
            std::memset(to, 0, in_row * sizeof(T));
            continue;
        }
        const int64_t before = left < 0 ? 1 : 0, after = left + KERNEL > shape.width ? left + KERNEL - shape.width : 0;
        if (before) std::memset(to, 0, shape.C * sizeof(T));
        if (after) std::memset(to + (KERNEL - after) * shape.C, 0, after * shape.C * sizeof(T));
        copy_row(to + before * shape.C, picture + (y * shape.width + left + before) * shape.C,
                 (KERNEL - before - after) * shape.C * sizeof(T));
    }
}

// The memory of the maps at `count` positions from this one on, counted over all pictures, as far as there are so many. None if
// they are in the caches.
template <class T> Prefetch prefetch_positions(T *maps, const Shape &shape, int64_t position, int64_t count) {
    const int64_t all = shape.batch * shape.rows() * shape.columns();
    if (!maps || all * shape.O * int64_t(sizeof(T)) < MOST_CACHED) return {maps, maps};
    return {maps + std::min(position, all) * shape.O, maps + std::min(position + count, all) * shape.O};
}

inline Vector leaky_relu(Vector v, float slope) { return v > 0 ? v : v * slope; }

// The weight [O, 4, 4, C] as panels: [O/PANEL][window words][PANEL], zeros beyond the window.
template <class T> void pack_windows(const float *weight, const Shape &shape, T *packed) {
    const int64_t depth = shape.window_words<T>();
    std::memset(packed, 0, depth * PER_WORD<T> * shape.O * sizeof(T));
    for (int64_t o = 0; o < shape.O; o++)
        for (int64_t k = 0; k < shape.window(); k++) {
            T *word = packed + (((o / PANEL) * depth + k / PER_WORD<T>) * PANEL + o % PANEL) * PER_WORD<T>;
            word[k % PER_WORD<T>] = from_float<T>(weight[o * shape.window() + k]);
        }
}

// The same as panels of the window: [window/PANEL][O words][PANEL], zeros beyond the window.
template <class T> void pack_maps(const float *weight, const Shape &shape, T *packed) {
    const int64_t depth = shape.O / PER_WORD<T>;
    std::memset(packed, 0, shape.padded_window() * shape.O * sizeof(T));
    for (int64_t o = 0; o < shape.O; o++)
        for (int64_t k = 0; k < shape.window(); k++) {
            T *word = packed + (((k / PANEL) * depth + o / PER_WORD<T>) * PANEL + k % PANEL) * PER_WORD<T>;
            word[o % PER_WORD<T>] = from_float<T>(weight[o * shape.window() + k]);
        }
}

// --- Picture to maps: a convolution and LeakyReLU, or a transposed convolution's gradient ----------------------------

template <class T> void gather(const T *picture, const float *weight, T *maps, const Shape &shape, float slope) {
    const int64_t depth = shape.window_words<T>(), length = depth * PER_WORD<T>, positions = shape.rows() * shape.columns();
    static thread_local Scratch scratch_weights;
    T *packed = scratch_weights.take<T>(length * shape.O);
    pack_windows(weight, shape, packed);
    constexpr int64_t ROWS = Multiplier<T>::ROWS, block = 8 * ::ROWS;
    static_assert(block % ROWS == 0);
#pragma omp parallel
    {
        const Multiplier<T> multiplier;
        alignas(64) T windows[block * KERNEL * KERNEL * LARGEST_C] = {}; // zeros beyond a window
        alignas(64) float products[ROWS * PANEL];
#pragma omp for collapse(2)
        for (int64_t b = 0; b < shape.batch; b++)
            for (int64_t start = 0; start < positions; start += block) {
                const int64_t count = std::min(block, positions - start);
                const T *here = picture + b * shape.height * shape.width * shape.C;
                Position position(shape, start);
                for (int64_t t = 0; t < count; t++, position.next(shape)) copy_window(here, shape, position, windows + t * length);
                Prefetch next = prefetch_positions(maps, shape, b * positions + start + count, block);
                next.split(shape.O / PANEL * ((count + ROWS - 1) / ROWS));
                for (int64_t n = 0; n < shape.O; n += PANEL)
                    for (int64_t t = 0; t < count; t += ROWS) {
                        next.next_part();
                        multiplier.template multiply<false>(depth, reinterpret_cast<uint32_t *>(windows + t * length), depth,
                                                            reinterpret_cast<uint32_t *>(packed) + n * depth, PANEL, products, PANEL);
                        T *to = maps + (b * positions + start + t) * shape.O + n;
                        for (int64_t r = 0; r < std::min(ROWS, count - t); r++)
                            for (int64_t half = 0; half < PANEL; half += LANES)
                                store(to + r * shape.O + half, leaky_relu(load(products + r * PANEL + half), slope));
                    }
            }
    }
}

// --- Maps to picture: a transposed convolution, or the gradient of a convolution and LeakyReLU -----------------------

// The gradient of LeakyReLU's input, from that of its output and the output itself. Without `activation` there is none.
template <class T> inline Vector leaky_relu_backward(const T *gradient, const T *activation, int64_t at, float slope) {
    Vector g = load(gradient + at);
    return activation ? (load(activation + at) > 0 ? g : g * slope) : g;
}

template <class T>
void scatter(const T *maps, const T *activation, const float *weight, T *picture, const Shape &shape, float slope) {
    const int64_t depth = shape.O / PER_WORD<T>, columns = shape.columns(), padded = shape.padded_window();
    const int64_t stride = (shape.width + 2) * shape.C; // of a row of the sums, which have a border of one pixel
    static thread_local Scratch scratch_weights;
    T *packed = scratch_weights.take<T>(padded * shape.O);
    pack_maps(weight, shape, packed);
    constexpr int64_t ROWS = Multiplier<T>::ROWS;
#pragma omp parallel
    {
        const Multiplier<T> multiplier;
        static thread_local Scratch scratch, scratch_maps, scratch_products;
        float *sums = scratch.take<float>((shape.height + 2) * stride + LANES);
        T *row_maps = scratch_maps.take<T>((columns + ROWS) * shape.O);
        float *products = scratch_products.take<float>((columns + ROWS) * padded);
#pragma omp for
        for (int64_t b = 0; b < shape.batch; b++) {
            std::memset(sums, 0, (shape.height + 2) * stride * sizeof(float));
            for (int64_t row = 0; row < shape.rows(); row++) {
                const int64_t from = (b * shape.rows() + row) * columns * shape.O;
                for (int64_t at = 0; at < columns * shape.O; at += LANES)
                    store(row_maps + at, leaky_relu_backward(maps, activation, from + at, slope));
                const int64_t next_row = (b * shape.rows() + row + 1) * columns;
                Prefetch next_maps = prefetch_positions(maps, shape, next_row, columns);
                Prefetch next_activation = prefetch_positions(activation, shape, next_row, columns);
                next_maps.split(padded / PANEL * ((columns + ROWS - 1) / ROWS));
                next_activation.split(padded / PANEL * ((columns + ROWS - 1) / ROWS));
                for (int64_t n = 0; n < padded; n += PANEL)
                    for (int64_t t = 0; t < columns; t += ROWS) {
                        next_maps.next_part();
                        next_activation.next_part();
                        multiplier.template multiply<false>(depth, reinterpret_cast<uint32_t *>(row_maps + t * shape.O), depth,
                                                            reinterpret_cast<uint32_t *>(packed) + n * depth, PANEL, products + t * padded + n, padded);
                    }
                for (int64_t t = 0; t < columns; t++)
                    for (int64_t i = 0; i < KERNEL; i++)
                        add_row(sums + (2 * row + i) * stride + 2 * t * shape.C, products + t * padded + i * KERNEL * shape.C, KERNEL * shape.C);
            }
            T *to = picture + b * shape.height * shape.width * shape.C;
            for (int64_t y = 0; y < shape.height; y++)
                for (int64_t k = 0; k < shape.width * shape.C; k++)
                    to[y * shape.width * shape.C + k] = from_float<T>(sums[(y + 1) * stride + shape.C + k]);
        }
    }
}

// --- Gradient of the weights -----------------------------------------------------------------------------------------

// Rows to columns: from [rows][columns] to [columns][turned_row], both multiples of LANES.
inline void turn(const uint32_t *from, int64_t rows, int64_t columns, uint32_t *to, int64_t turned_row) {
    for (int64_t row = 0; row < rows; row += LANES)
        for (int64_t column = 0; column < columns; column += LANES) {
            Words square[LANES];
            for (int64_t i = 0; i < LANES; i++) square[i] = load(from + (row + i) * columns + column);
            transpose(square);
            for (int64_t i = 0; i < LANES; i++) store(to + (column + i) * turned_row + row, square[i]);
        }
}

template <class T>
void weight_gradient(const T *picture, const T *maps, const T *activation, float *gradient, const Shape &shape, float slope) {
    const int64_t positions = shape.rows() * shape.columns(), O = shape.O;
    constexpr int64_t ROWS = Multiplier<T>::ROWS, DEPTH = Multiplier<T>::DEPTH;
    const int64_t rows = round_up(shape.window(), ROWS), row = round_up(rows, LANES);
    constexpr int64_t depth = 128, block = depth * PER_WORD<T>; // words of the sum, and positions, at a time
    constexpr int64_t turned_row = depth + LANES; // at a power of two they would map to the same sets of the L1 cache
    const int64_t threads = omp_get_max_threads();
    static thread_local Scratch scratch_sums;
    float *all_sums = scratch_sums.take<float>(threads * rows * O); // [threads][window][O]
    std::memset(all_sums, 0, threads * rows * O * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        const Multiplier<T> multiplier;
        static thread_local Scratch scratch_windows, scratch_turned, scratch_maps;
        float *sums = all_sums + omp_get_thread_num() * rows * O;
        alignas(64) T word_windows[PER_WORD<T>][KERNEL * KERNEL * LARGEST_C + LANES] = {};
        uint32_t *windows = scratch_windows.take<uint32_t>(depth * row); // [words][window]
        uint32_t *gradients = scratch_maps.take<uint32_t>(depth * O);    // [words][O]
        uint32_t *turned = multiplier.READS_COLUMNS ? nullptr : scratch_turned.take<uint32_t>(row * turned_row); // [window][words]
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < shape.batch; b++)
            for (int64_t start = 0; start < positions; start += block) {
                const T *here = picture + b * shape.height * shape.width * shape.C;
                const int64_t words = round_up((std::min(block, positions - start) + PER_WORD<T> - 1) / PER_WORD<T>, DEPTH);
                Position position(shape, start);
                for (int64_t k = 0; k < words; k++) {
                    // The positions of one word; beyond the last one zeros.
                    const int64_t t = start + k * PER_WORD<T>, count = std::clamp<int64_t>(positions - t, 0, PER_WORD<T>);
                    for (int64_t i = 0; i < count; i++, position.next(shape))
                        copy_window(here, shape, position, PER_WORD<T> == 1 ? reinterpret_cast<T *>(windows + k * row) : word_windows[i]);
                    for (int64_t i = count; i < PER_WORD<T>; i++) std::memset(word_windows[i], 0, sizeof word_windows[i]);
                    for (int64_t m = 0; m < row && PER_WORD<T> > 1; m += LANES)
                        store(windows + k * row + m,
                              pack_words((const T *)nullptr, load(word_windows[0] + m), load(word_windows[PER_WORD<T> - 1] + m)));
                    for (int64_t o = 0; o < O; o += LANES) {
                        Vector values[PER_WORD<T>] = {};
                        for (int64_t i = 0; i < count; i++)
                            values[i] = leaky_relu_backward(maps, activation, (b * positions + t + i) * O + o, slope);
                        store(gradients + k * O + o, pack_words((const T *)nullptr, values[0], values[PER_WORD<T> - 1]));
                    }
                }
                if (!multiplier.READS_COLUMNS) turn(windows, words, row, turned, turned_row);
                const int64_t next = b * positions + std::min(start + block, positions);
                Prefetch next_maps = prefetch_positions(maps, shape, next, block), next_activation = prefetch_positions(activation, shape, next, block);
                next_maps.split(O / PANEL * (rows / ROWS));
                next_activation.split(O / PANEL * (rows / ROWS));
                for (int64_t o = 0; o < O; o += PANEL)
                    for (int64_t m = 0; m < rows; m += ROWS) {
                        next_maps.next_part();
                        next_activation.next_part();
                        if constexpr (Multiplier<T>::READS_COLUMNS)
                            multiplier.template multiply<true, true>(words, windows + m, row, gradients + o, O, sums + m * O + o, O);
                        else
                            multiplier.template multiply<true>(words, turned + m * turned_row, turned_row, gradients + o, O, sums + m * O + o, O);
                    }
            }
    }
    for (int64_t o = 0; o < O; o++)
        for (int64_t k = 0; k < shape.window(); k++) {
            float sum = 0;
            for (int64_t thread = 0; thread < threads; thread++) sum += all_sums[(thread * rows + k) * O + o];
            gradient[o * shape.window() + k] = sum;
        }
}

} // namespace

#define EXPORT(NAME, T)                                                                                                \
    void thin_gather_##NAME(const T *picture, const float *weight, T *maps, const Shape *shape, float slope) {              \
        gather<T>(picture, weight, maps, *shape, slope);                                                               \
    }                                                                                                                  \
    void thin_scatter_##NAME(const T *maps, const T *activation, const float *weight, T *picture, const Shape *shape,           \
                        float slope) {                                                                                 \
        scatter<T>(maps, activation, weight, picture, *shape, slope);                                                      \
    }                                                                                                                  \
    void thin_weight_gradient_##NAME(const T *picture, const T *maps, const T *activation, float *gradient, const Shape *shape, \
                                float slope) {                                                                         \
        weight_gradient<T>(picture, maps, activation, gradient, *shape, slope);                                            \
    }

extern "C" {
EXPORT(fp32, float)
#ifdef __AVX512BF16__
EXPORT(bf16, bf16)
#endif
}
