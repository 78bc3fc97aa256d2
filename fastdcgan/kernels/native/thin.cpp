// Convolutions of kernel 4, stride 2, padding 1 between a picture of few channels and many feature maps: D's first
// layer, which is followed by LeakyReLU, and G's last.
//
// A window of 4 x 4 pixels with 3 channels is 48 numbers, and each of its rows is contiguous in memory. So a layer is a
// product of windows with a matrix of [48, maps], or of maps with [maps, 48], small enough to stay in the first cache.
//
// Layout: pictures and maps are NHWC. `C` channels of the picture, 1 to 8; `O` feature maps, a multiple of 32.
// LeakyReLU's slope is 1 where there is none.

#include "product.hpp"

namespace {

constexpr int64_t KERNEL = 4, LARGEST_C = 8;

struct Shape {
    int64_t batch, C, O, height, width; // of the picture; even

    int64_t rows() const { return height / 2; }
    int64_t columns() const { return width / 2; }
    int64_t window() const { return KERNEL * KERNEL * C; }
    int64_t padded_window() const { return (window() + PANEL - 1) / PANEL * PANEL; }
};

// A window's row. Most are whole, and as long as 4 pixels of 1 or 3 channels are: known lengths are copied in place,
// where a call would take longer than the copy.
inline void copy_row(void *to, const void *from, int64_t bytes) {
    switch (bytes) {
    case 8: std::memcpy(to, from, 8); break;
    case 16: std::memcpy(to, from, 16); break;
    case 24: std::memcpy(to, from, 24); break;
    case 48: std::memcpy(to, from, 48); break;
    default: std::memcpy(to, from, bytes);
    }
}

// The 4 x 4 pixels that one position of the maps sees; zeros beyond the edges.
template <class T> inline void window_at(const T *picture, const Shape &shape, int64_t row, int64_t column, T *window) {
    const int64_t top = 2 * row - 1, left = 2 * column - 1, in_row = KERNEL * shape.C;
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

inline Vector leaky(Vector v, float slope) { return v > 0 ? v : v * slope; }

// The weight [O, 4, 4, C] as panels: [O/32][window words][32].
template <class T> void pack_windows(const float *weight, const Shape &shape, T *packed) {
    for (int64_t o = 0; o < shape.O; o++)
        for (int64_t k = 0; k < shape.window(); k++) {
            const int64_t depth = shape.window() / IN_WORD<T>;
            T *word = packed + (((o / PANEL) * depth + k / IN_WORD<T>) * PANEL + o % PANEL) * IN_WORD<T>;
            word[k % IN_WORD<T>] = rounded<T>(weight[o * shape.window() + k]);
        }
}

// The same as panels of the window: [windows/32][O words][32], zeros beyond the window.
template <class T> void pack_maps(const float *weight, const Shape &shape, T *packed) {
    const int64_t depth = shape.O / IN_WORD<T>;
    std::memset(packed, 0, shape.padded_window() * shape.O * sizeof(T));
    for (int64_t o = 0; o < shape.O; o++)
        for (int64_t k = 0; k < shape.window(); k++) {
            T *word = packed + (((k / PANEL) * depth + o / IN_WORD<T>) * PANEL + k % PANEL) * IN_WORD<T>;
            word[o % IN_WORD<T>] = rounded<T>(weight[o * shape.window() + k]);
        }
}

// --- Picture to maps: a convolution and LeakyReLU, or a transposed convolution's gradient ----------------------------

template <class T> void gather(const T *picture, const float *weight, T *maps, const Shape &shape, float slope) {
    const int64_t depth = shape.window() / IN_WORD<T>, positions = shape.rows() * shape.columns();
    static Scratch kept_weights;
    T *packed = kept_weights.take<T>(shape.window() * shape.O);
    pack_windows(weight, shape, packed);
    const int64_t block = 64;
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < shape.batch; b++)
        for (int64_t start = 0; start < positions; start += block) {
            alignas(64) T windows[block * KERNEL * KERNEL * LARGEST_C];
            alignas(64) float made[ROWS * PANEL];
            const int64_t count = std::min(block, positions - start);
            const T *here = picture + b * shape.height * shape.width * shape.C;
            for (int64_t t = 0; t < count; t++)
                window_at(here, shape, (start + t) / shape.columns(), (start + t) % shape.columns(), windows + t * shape.window());
            for (int64_t n = 0; n < shape.O; n += PANEL)
                for (int64_t t = 0; t < count; t += ROWS) {
                    product<T, false>(depth, reinterpret_cast<uint32_t *>(windows + t * shape.window()), depth, 1,
                                      reinterpret_cast<uint32_t *>(packed) + n * depth, made, PANEL);
                    T *to = maps + (b * positions + start + t) * shape.O + n;
                    for (int64_t r = 0; r < std::min(ROWS, count - t); r++)
                        for (int64_t half = 0; half < PANEL; half += LANES)
                            store(to + r * shape.O + half, leaky(load(made + r * PANEL + half), slope));
                }
        }
}

// --- Maps to picture: a transposed convolution, or the gradient of a convolution and LeakyReLU -----------------------

// The gradient before LeakyReLU, from that after it and the activation; `active` may be null: then there was none.
template <class T> inline Vector before_leaky(const T *gradient, const T *active, int64_t at, float slope) {
    Vector g = load(gradient + at);
    return active ? (load(active + at) > 0 ? g : g * slope) : g;
}

template <class T>
void scatter(const T *maps, const T *active, const float *weight, T *picture, const Shape &shape, float slope) {
    const int64_t depth = shape.O / IN_WORD<T>, columns = shape.columns(), padded = shape.padded_window();
    const int64_t stride = (shape.width + 2) * shape.C; // of the sums: a picture with a border of one pixel
    static Scratch kept_weights;
    T *packed = kept_weights.take<T>(padded * shape.O);
    pack_maps(weight, shape, packed);
#pragma omp parallel
    {
        static thread_local Scratch kept, kept_maps, kept_made;
        float *sums = kept.take<float>((shape.height + 2) * stride + LANES);
        T *row_maps = kept_maps.take<T>((columns + ROWS) * shape.O);
        float *made = kept_made.take<float>((columns + ROWS) * padded);
#pragma omp for
        for (int64_t b = 0; b < shape.batch; b++) {
            std::memset(sums, 0, (shape.height + 2) * stride * sizeof(float));
            for (int64_t row = 0; row < shape.rows(); row++) {
                const int64_t from = (b * shape.rows() + row) * columns * shape.O;
                for (int64_t at = 0; at < columns * shape.O; at += LANES)
                    store(row_maps + at, before_leaky(maps, active, from + at, slope));
                for (int64_t n = 0; n < padded; n += PANEL)
                    for (int64_t t = 0; t < columns; t += ROWS)
                        product<T, false>(depth, reinterpret_cast<uint32_t *>(row_maps + t * shape.O), depth, 1,
                                          reinterpret_cast<uint32_t *>(packed) + n * depth, made + t * padded + n, padded);
                for (int64_t t = 0; t < columns; t++)
                    for (int64_t i = 0; i < KERNEL; i++) {
                        float *to = sums + (2 * row + i) * stride + 2 * t * shape.C;
                        const float *add = made + t * padded + i * KERNEL * shape.C;
                        for (int64_t k = 0; k < KERNEL * shape.C; k++) to[k] += add[k];
                    }
            }
            T *to = picture + b * shape.height * shape.width * shape.C;
            for (int64_t y = 0; y < shape.height; y++)
                for (int64_t k = 0; k < shape.width * shape.C; k++)
                    to[y * shape.width * shape.C + k] = rounded<T>(sums[(y + 1) * stride + shape.C + k]);
        }
    }
}

// --- Both to the weights' gradient -----------------------------------------------------------------------------------

template <class T>
void weight_gradient(const T *picture, const T *maps, const T *active, float *gradient, const Shape &shape, float slope) {
    const int64_t positions = shape.rows() * shape.columns(), padded = shape.padded_window(), O = shape.O;
    const int64_t block = 128 * IN_WORD<T>, depth = 128; // positions, and words of the sum, at a time
    const int64_t threads = omp_get_max_threads();
    static Scratch kept_sums;
    float *all_sums = kept_sums.take<float>(threads * O * padded); // [threads][window/32][O][32]
    std::memset(all_sums, 0, threads * O * padded * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch kept_windows, kept_maps;
        float *sums = all_sums + omp_get_thread_num() * O * padded;
        alignas(64) T seen[IN_WORD<T>][KERNEL * KERNEL * LARGEST_C] = {};
        uint32_t *windows = kept_windows.take<uint32_t>(depth * padded); // [window/32][words][32]
        uint32_t *weights = kept_maps.take<uint32_t>(depth * O);         // [O/8][words][8]
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < shape.batch; b++)
            for (int64_t start = 0; start < positions; start += block) {
                const T *here = picture + b * shape.height * shape.width * shape.C;
                for (int64_t k = 0; k < depth; k++) {
                    // The positions of one word; those beyond the last one count as nothing.
                    const int64_t t = start + k * IN_WORD<T>, count = std::min(IN_WORD<T>, std::max(int64_t(0), positions - t));
                    for (int64_t i = 0; i < count; i++)
                        window_at(here, shape, (t + i) / shape.columns(), (t + i) % shape.columns(), seen[i]);
                    for (int64_t i = count; i < IN_WORD<T>; i++) std::memset(seen[i], 0, sizeof seen[i]);
                    for (int64_t n = 0; n < padded; n += LANES)
                        store(windows + (n / PANEL * depth + k) * PANEL + n % PANEL,
                              words((const T *)nullptr, load(seen[0] + n), load(seen[IN_WORD<T> - 1] + n)));
                    for (int64_t o = 0; o < O; o += LANES) {
                        Vector weighted[IN_WORD<T>] = {};
                        for (int64_t i = 0; i < count; i++)
                            weighted[i] = before_leaky(maps, active, (b * positions + t + i) * O + o, slope);
                        alignas(64) uint32_t both[LANES];
                        store(both, words((const T *)nullptr, weighted[0], weighted[IN_WORD<T> - 1]));
                        for (int64_t half = 0; half < LANES; half += ROWS)
                            std::memcpy(weights + ((o + half) / ROWS * depth + k) * ROWS, both + half, ROWS * sizeof(uint32_t));
                    }
                }
                for (int64_t n = 0; n < padded; n += PANEL)
                    for (int64_t o = 0; o < O; o += ROWS)
                        product<T, true>(depth, weights + o * depth, 1, ROWS, windows + n * depth, sums + (n * O + o * PANEL), PANEL);
            }
    }
    for (int64_t o = 0; o < O; o++)
        for (int64_t k = 0; k < shape.window(); k++) {
            float sum = 0;
            for (int64_t thread = 0; thread < threads; thread++)
                sum += all_sums[thread * O * padded + k / PANEL * PANEL * O + o * PANEL + k % PANEL];
            gradient[o * shape.window() + k] = sum;
        }
}

} // namespace

#define EXPORT(NAME, T)                                                                                                \
    void gather_##NAME(const T *picture, const float *weight, T *maps, const Shape *shape, float slope) {              \
        gather<T>(picture, weight, maps, *shape, slope);                                                               \
    }                                                                                                                  \
    void scatter_##NAME(const T *maps, const T *active, const float *weight, T *picture, const Shape *shape,           \
                        float slope) {                                                                                 \
        scatter<T>(maps, active, weight, picture, *shape, slope);                                                      \
    }                                                                                                                  \
    void weight_gradient_##NAME(const T *picture, const T *maps, const T *active, float *gradient, const Shape *shape, \
                                float slope) {                                                                         \
        weight_gradient<T>(picture, maps, active, gradient, *shape, slope);                                            \
    }

extern "C" {
EXPORT(fp32, float)
#ifdef __AVX512BF16__
EXPORT(bf16, bf16)
#endif
}
