// BatchNorm by a batch's own statistics and the ReLU or LeakyReLU after it, each way in two passes over the pixels.
//
// Forward:   c = x - mean        y = gamma c / deviation + beta        out = y > 0 ? y : slope y
// Backward:  h = y > 0 ? g : slope g        dbeta = sum(h)        dgamma = sum(h c) / deviation
//            dx = gamma / deviation (h - mean(h) - c mean(h c) / deviation^2)
//
// The first pass makes a channel's sums, the second writes. Only x and the statistics are kept for the way back: y is
// computed again from them, by the same instructions, so that its sign is the same.
//
// Sums: float within a block of rows, double from block to block, so that few roundings add up. The variance takes one
// pass: a block's x are summed about the mean of the block before (the first block's about its own, in one pass more).
// Means of neighbouring blocks differ by no more than the data vary, so nothing cancels however far from zero they lie.
// A thread has the same rows each time and the threads' sums are added in their order: the same number of threads, the
// same bits.
//
// Results are larger than the caches: they are written past them. Their memory is aligned to 64 bytes, as PyTorch's is.
//
// Where several processes share a batch, each way is two calls: between the two the processes add up their sums. A batch of
// one process takes both at once.
//
// Layout: NHWC ("channels last"), that is `rows` pixels of C channels, float or bf16; all else is float.

#include "vector.hpp"

#include <algorithm>
#include <cmath>
#include <omp.h>
#include <type_traits>

namespace {

struct Setting {
    int64_t rows, C; // C is a multiple of LANES
    int64_t count;   // rows of all processes: 2 at least
    double momentum, epsilon;
    float slope; // of the activation below zero
};

// Rows whose sums are taken in float. With up to 64 channels at a time a block stays in the first cache.
constexpr int64_t BLOCK = 64;

// What one thread works on.
struct Share {
    int64_t first, last; // blocks
    int64_t rows;

    explicit Share(int64_t rows) : rows(rows) {
        int64_t blocks = (rows + BLOCK - 1) / BLOCK, threads = omp_get_num_threads(), thread = omp_get_thread_num();
        first = blocks * thread / threads;
        last = blocks * (thread + 1) / threads;
    }
    int64_t begin(int64_t block) const { return block * BLOCK; }
    int64_t end(int64_t block) const { return std::min(rows, (block + 1) * BLOCK); }
};

// All channels, four vectors at a time: their sums fit the registers and wait for each other no more than need be.
template <class Visit> inline void for_channels(int64_t C, Visit visit) {
    int64_t channel = 0;
    for (; channel + 4 * LANES <= C; channel += 4 * LANES) visit(channel, std::integral_constant<int, 4>());
    for (; channel + 2 * LANES <= C; channel += 2 * LANES) visit(channel, std::integral_constant<int, 2>());
    for (; channel < C; channel += LANES) visit(channel, std::integral_constant<int, 1>());
}

// One channel in each lane.
struct Channels {
    Vector mean, scale, bias;

    Channels() = default;
    Channels(const float *mean, const float *inverse, const float *weight, const float *bias, int64_t channel)
        : mean(load(mean + channel)), scale(load(weight + channel) * load(inverse + channel)), bias(load(bias + channel)) {}
    Vector normalised(Vector centred) const { return centred * scale + bias; }
};

inline Vector where_positive(Vector y, Vector then, Vector otherwise) { return y > 0 ? then : otherwise; }

inline void add(const float *from, double *to, int64_t C) {
    for (int64_t c = 0; c < C; c++) to[c] += from[c];
}

// Each thread's sums[2][C] to those of all, in the threads' order.
void add_up_threads(const double *sums, double *total, int64_t C) {
#pragma omp barrier
#pragma omp for
    for (int64_t c = 0; c < 2 * C; c++) {
        double sum = 0;
        for (int thread = 0; thread < omp_get_num_threads(); thread++) sum += sums[thread * 2 * C + c];
        total[c] = sum;
    }
}

// --- Forward --------------------------------------------------------------------------------------------------------

// The sums of x - shift and of its square, for one block.
template <int N, class T>
inline void sums_about(const T *x, int64_t rows, int64_t C, const float *shift, float *sum, float *squares) {
    Vector about[N], s[N] = {}, q[N] = {};
    for (int n = 0; n < N; n++) about[n] = load(shift + n * LANES);
    for (int64_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            Vector d = load(x + row * C + n * LANES) - about[n];
            s[n] += d;
            q[n] += d * d;
        }
    for (int n = 0; n < N; n++) store(sum + n * LANES, s[n]), store(squares + n * LANES, q[n]);
}

// A thread's sums of x and of its square.
template <class T> void moments(const T *x, const Share &share, int64_t C, double *sum, double *squares) {
    static thread_local Scratch kept;
    float *shift = kept.take<float>(3 * C), *s = shift + C, *q = s + C;
    std::fill(sum, sum + C, 0), std::fill(squares, squares + C, 0);
    if (share.first == share.last) return;
    const auto sum_up = [&](int64_t block) {
        for_channels(C, [&](int64_t channel, auto vectors) {
            const int64_t begin = share.begin(block);
            sums_about<vectors.value>(x + begin * C + channel, share.end(block) - begin, C, shift + channel, s + channel, q + channel);
        });
        return double(share.end(block) - share.begin(block));
    };
    for (int64_t channel = 0; channel < C; channel += LANES)
        store(shift + channel, load(x + share.begin(share.first) * C + channel));
    const double rows = sum_up(share.first);
    for (int64_t c = 0; c < C; c++) shift[c] += s[c] / rows;
    for (int64_t block = share.first; block < share.last; block++) {
        const double rows = sum_up(block);
        for (int64_t c = 0; c < C; c++) {
            const double about = shift[c], by = s[c];
            sum[c] += rows * about + by;
            squares[c] += rows * about * about + 2 * about * by + q[c];
            shift[c] = about + by / rows;
        }
    }
}

// All threads' sums of x and of its square, to total[2][C].
template <class T> void add_up_moments(const T *x, const Share &share, int64_t C, double *sums, double *total) {
    double *mine = sums + omp_get_thread_num() * 2 * C;
    moments(x, share, C, mine, mine + C);
    add_up_threads(sums, total, C);
}

// What follows from the sums over the whole batch.
void statistics(const double *total, float *running_mean, float *running_variance, float *mean, float *inverse, const Setting &setting) {
    const double count = setting.count;
#pragma omp for
    for (int64_t c = 0; c < setting.C; c++) {
        const double sum = total[c], about_mean = std::max(0.0, total[setting.C + c] - sum / count * sum);
        mean[c] = sum / count;
        inverse[c] = 1 / std::sqrt(about_mean / count + setting.epsilon);
        running_mean[c] += setting.momentum * (sum / count - running_mean[c]);
        running_variance[c] += setting.momentum * (about_mean / (count - 1) - running_variance[c]);
    }
}

template <class T>
void write_out(const T *x, const Share &share, const float *weight, const float *bias, T *out, const float *mean, const float *inverse,
               const Setting &setting) {
    const int64_t C = setting.C;
    // Backwards: what was read last is still in the cache.
    for (int64_t block = share.last - 1; block >= share.first; block--)
        for_channels(C, [&](int64_t channel, auto vectors) {
            constexpr int N = vectors.value;
            Channels of[N];
            for (int n = 0; n < N; n++) of[n] = Channels(mean, inverse, weight, bias, channel + n * LANES);
            for (int64_t row = share.begin(block); row < share.end(block); row++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) {
                    const int64_t at = row * C + channel + n * LANES;
                    const Vector y = of[n].normalised(load(x + at) - of[n].mean);
                    stream(out + at, where_positive(y, y, y * setting.slope));
                }
        });
    settle();
}

template <class T> void forward_sums(const T *x, double *total, const Setting &setting) {
    static thread_local Scratch kept;
    double *sums = kept.take<double>(omp_get_max_threads() * 2 * setting.C); // [threads][2][C]
#pragma omp parallel
    add_up_moments(x, Share(setting.rows), setting.C, sums, total);
}

template <class T>
void forward_from(const T *x, const double *total, const float *weight, const float *bias, float *running_mean, float *running_variance,
                  T *out, float *mean, float *inverse, const Setting &setting) {
#pragma omp parallel
    {
        statistics(total, running_mean, running_variance, mean, inverse, setting);
        write_out(x, Share(setting.rows), weight, bias, out, mean, inverse, setting);
    }
}

template <class T>
void forward(const T *x, const float *weight, const float *bias, float *running_mean, float *running_variance, T *out, float *mean,
             float *inverse, const Setting &setting) {
    static thread_local Scratch kept;
    double *total = kept.take<double>((omp_get_max_threads() + 1) * 2 * setting.C), *sums = total + 2 * setting.C;
#pragma omp parallel
    {
        const Share share(setting.rows);
        add_up_moments(x, share, setting.C, sums, total);
        statistics(total, running_mean, running_variance, mean, inverse, setting);
        write_out(x, share, weight, bias, out, mean, inverse, setting);
    }
}

// --- Backward -------------------------------------------------------------------------------------------------------

// All threads' sums of h and of h c, to total[2][C]; and the gradients of this process, which follow from its own.
template <class T>
void add_up_gradients(const T *x, const T *grad_out, const Share &share, const float *weight, const float *bias, const float *mean,
                      const float *inverse, double *sums, double *total, float *grad_weight, float *grad_bias,
                      const Setting &setting) {
    const int64_t C = setting.C;
    static thread_local Scratch kept;
    float *s = kept.take<float>(2 * C), *t = s + C;
    double *mine = sums + omp_get_thread_num() * 2 * C;
    std::fill(mine, mine + 2 * C, 0);
    for (int64_t block = share.first; block < share.last; block++) {
        for_channels(C, [&](int64_t channel, auto vectors) {
            constexpr int N = vectors.value;
            Channels of[N];
            for (int n = 0; n < N; n++) of[n] = Channels(mean, inverse, weight, bias, channel + n * LANES);
            Vector sum[N] = {}, with_x[N] = {};
            for (int64_t row = share.begin(block); row < share.end(block); row++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) {
                    const int64_t at = row * C + channel + n * LANES;
                    const Vector centred = load(x + at) - of[n].mean, g = load(grad_out + at);
                    const Vector h = where_positive(of[n].normalised(centred), g, g * setting.slope);
                    sum[n] += h;
                    with_x[n] += h * centred;
                }
            for (int n = 0; n < N; n++) {
                store(s + channel + n * LANES, sum[n]);
                store(t + channel + n * LANES, with_x[n]);
            }
        });
        add(s, mine, 2 * C);
    }
    add_up_threads(sums, total, C);
#pragma omp for
    for (int64_t c = 0; c < C; c++) {
        if (grad_weight) grad_weight[c] = total[C + c] * inverse[c];
        if (grad_bias) grad_bias[c] = total[c];
    }
}

template <class T>
void write_grad(const T *x, const T *grad_out, const Share &share, const double *total, const float *weight, const float *bias,
                const float *mean, const float *inverse, float *constants, T *grad_in, const Setting &setting) {
    const int64_t C = setting.C;
    float *constant = constants, *linear = constants + C;
#pragma omp for
    for (int64_t c = 0; c < C; c++) {
        const double to = inverse[c], scale = weight[c] * to;
        constant[c] = scale * total[c] / setting.count;
        linear[c] = scale * to * to * total[C + c] / setting.count;
    }
    for (int64_t block = share.last - 1; block >= share.first; block--)
        for_channels(C, [&](int64_t channel, auto vectors) {
            constexpr int N = vectors.value;
            Channels of[N];
            Vector a[N], b[N];
            for (int n = 0; n < N; n++) {
                of[n] = Channels(mean, inverse, weight, bias, channel + n * LANES);
                a[n] = load(constant + channel + n * LANES), b[n] = load(linear + channel + n * LANES);
            }
            for (int64_t row = share.begin(block); row < share.end(block); row++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) {
                    const int64_t at = row * C + channel + n * LANES;
                    const Vector centred = load(x + at) - of[n].mean, g = load(grad_out + at);
                    const Vector h = where_positive(of[n].normalised(centred), g, g * setting.slope);
                    stream(grad_in + at, h * of[n].scale - (a[n] + centred * b[n]));
                }
        });
    settle();
}

template <class T>
void backward_sums(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean, const float *inverse,
                   double *total, float *grad_weight, float *grad_bias, const Setting &setting) {
    static thread_local Scratch kept;
    double *sums = kept.take<double>(omp_get_max_threads() * 2 * setting.C); // [threads][2][C]
#pragma omp parallel
    add_up_gradients(x, grad_out, Share(setting.rows), weight, bias, mean, inverse, sums, total, grad_weight, grad_bias, setting);
}

template <class T>
void backward_from(const T *x, const T *grad_out, const double *total, const float *weight, const float *bias, const float *mean,
                   const float *inverse, T *grad_in, const Setting &setting) {
    static thread_local Scratch kept;
    float *constants = kept.take<float>(2 * setting.C);
#pragma omp parallel
    write_grad(x, grad_out, Share(setting.rows), total, weight, bias, mean, inverse, constants, grad_in, setting);
}

template <class T>
void backward(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean, const float *inverse,
              T *grad_in, float *grad_weight, float *grad_bias, const Setting &setting) {
    static thread_local Scratch kept, kept_constants;
    double *total = kept.take<double>((omp_get_max_threads() + 1) * 2 * setting.C), *sums = total + 2 * setting.C;
    float *constants = kept_constants.take<float>(2 * setting.C);
#pragma omp parallel
    {
        const Share share(setting.rows);
        add_up_gradients(x, grad_out, share, weight, bias, mean, inverse, sums, total, grad_weight, grad_bias, setting);
        write_grad(x, grad_out, share, total, weight, bias, mean, inverse, constants, grad_in, setting);
    }
}

} // namespace

#define EXPORT(NAME, T)                                                                                                \
    void forward_##NAME(const T *x, const float *weight, const float *bias, float *running_mean, float *running_variance, \
                        T *out, float *mean, float *inverse, const Setting *setting) {                                 \
        forward<T>(x, weight, bias, running_mean, running_variance, out, mean, inverse, *setting);                     \
    }                                                                                                                  \
    void backward_##NAME(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean,     \
                         const float *inverse, T *grad_in, float *grad_weight, float *grad_bias,                       \
                         const Setting *setting) {                                                                     \
        backward<T>(x, grad_out, weight, bias, mean, inverse, grad_in, grad_weight, grad_bias, *setting);              \
    }                                                                                                                  \
    void forward_sums_##NAME(const T *x, double *total, const Setting *setting) { forward_sums<T>(x, total, *setting); } \
    void forward_from_##NAME(const T *x, const double *total, const float *weight, const float *bias, float *running_mean, \
                             float *running_variance, T *out, float *mean, float *inverse, const Setting *setting) {   \
        forward_from<T>(x, total, weight, bias, running_mean, running_variance, out, mean, inverse, *setting);         \
    }                                                                                                                  \
    void backward_sums_##NAME(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean, \
                              const float *inverse, double *total, float *grad_weight, float *grad_bias,               \
                              const Setting *setting) {                                                                \
        backward_sums<T>(x, grad_out, weight, bias, mean, inverse, total, grad_weight, grad_bias, *setting);           \
    }                                                                                                                  \
    void backward_from_##NAME(const T *x, const T *grad_out, const double *total, const float *weight, const float *bias, \
                              const float *mean, const float *inverse, T *grad_in, const Setting *setting) {           \
        backward_from<T>(x, grad_out, total, weight, bias, mean, inverse, grad_in, *setting);                          \
    }

extern "C" {
EXPORT(fp32, float)
#ifdef __AVX512BF16__
EXPORT(bf16, bf16)
#endif
}
