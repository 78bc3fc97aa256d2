// BatchNorm in training and the ReLU or LeakyReLU after it, forward and backward, each in two passes over the pixels.
//
// Forward:   c = x - mean        y = gamma c / deviation + beta        out = y > 0 ? y : slope y
// Backward:  h = y > 0 ? g : slope g        dbeta = sum(h)        dgamma = sum(h c) / deviation
//            dx = gamma / deviation (h - mean(h) - c mean(h c) / deviation^2)
//
// The first pass computes a channel's sums, the second writes the result. Only x and the statistics are saved for the
// backward pass: it computes y again from them, by the same instructions, so that its sign is the same.
//
// Sums: float within a block of rows, double over the blocks, so that few rounding errors add up. The variance takes one
// pass: a block's x are shifted by the mean of the block before it (the first block's by its own, in one pass more). Means
// of neighbouring blocks differ by no more than the data vary, so there is no cancellation however far from zero they are.
// A thread has the same rows each time, and the threads' sums are added in their order: the bits depend on the number of
// threads alone.
//
// Results are larger than the caches: they are written with streaming stores, to memory aligned to 64 bytes, as PyTorch's.
//
// Several batches may follow one another, each normalised by itself, and gradients of weight and bias added up over them.
//
// Where several processes share a batch, each pass is two calls (forward_sums, forward_from; backward_sums, backward_from),
// and the processes add up their sums in between. With one process forward and backward do both at once.
//
// Layout: NHWC ("channels last"), that is `rows` pixels of C channels, float or bf16; all else is float.

#include "vector.hpp"

#include <algorithm>
#include <cmath>
#include <omp.h>
#include <type_traits>

namespace {

struct Setting {
    int64_t batches, rows, C; // rows of a batch; C is a multiple of LANES
    int64_t count;            // rows of all processes: 2 at least
    double momentum, epsilon;
    float slope; // of the activation below zero
};

// Rows whose sums are taken in float. With up to 64 channels at a time a block stays in the L1 cache.
constexpr int64_t BLOCK = 64;

// The blocks of rows that one thread works on.
struct ThreadBlocks {
    int64_t first, last; // blocks
    int64_t rows;

    explicit ThreadBlocks(int64_t rows) : rows(rows) {
        int64_t blocks = (rows + BLOCK - 1) / BLOCK, threads = omp_get_num_threads(), thread = omp_get_thread_num();
        first = blocks * thread / threads;
        last = blocks * (thread + 1) / threads;
    }
    int64_t begin(int64_t block) const { return block * BLOCK; }
    int64_t end(int64_t block) const { return std::min(rows, (block + 1) * BLOCK); }
};

// Calls `visit` for all channels, up to four vectors at a time: as many sums as fit into registers hide their latency.
template <class Visit> inline void for_channels(int64_t C, Visit visit) {
    int64_t channel = 0;
    for (; channel + 4 * LANES <= C; channel += 4 * LANES) visit(channel, std::integral_constant<int, 4>());
    for (; channel + 2 * LANES <= C; channel += 2 * LANES) visit(channel, std::integral_constant<int, 2>());
    for (; channel < C; channel += LANES) visit(channel, std::integral_constant<int, 1>());
}

inline Vector select_positive(Vector y, Vector then, Vector otherwise) { return y > 0 ? then : otherwise; }

// The statistics and parameters of 16 channels, one in each lane.
struct Channels {
    Vector mean, scale, bias;

    Channels() = default;
    Channels(const float *mean, const float *invstd, const float *weight, const float *bias, int64_t channel)
        : mean(load(mean + channel)), scale(load(weight + channel) * load(invstd + channel)), bias(load(bias + channel)) {}
    Vector pre_activation(Vector centred) const { return centred * scale + bias; }
    Vector activation_gradient(Vector centred, Vector g, float slope) const {
        return select_positive(pre_activation(centred), g, g * slope);
    }
};

inline void add(const float *from, double *to, int64_t C) {
    for (int64_t c = 0; c < C; c++) to[c] += from[c];
}

// Adds up the threads' sums[2][C] in the threads' order.
void reduce_threads(const double *sums, double *total, int64_t C) {
#pragma omp barrier
#pragma omp for
    for (int64_t c = 0; c < 2 * C; c++) {
        double sum = 0;
        for (int thread = 0; thread < omp_get_num_threads(); thread++) sum += sums[thread * 2 * C + c];
        total[c] = sum;
    }
}

// --- Forward --------------------------------------------------------------------------------------------------------

// The sums of x - shift and of its square over the rows of one block.
template <int N, class T>
inline void block_sums(const T *x, int64_t rows, int64_t C, const float *shift, float *sum, float *squares) {
    Vector shifts[N], s[N] = {}, q[N] = {};
    for (int n = 0; n < N; n++) shifts[n] = load(shift + n * LANES);
    for (int64_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            Vector d = load(x + row * C + n * LANES) - shifts[n];
            s[n] += d;
            q[n] += d * d;
        }
    for (int n = 0; n < N; n++) store(sum + n * LANES, s[n]), store(squares + n * LANES, q[n]);
}

// The sums of x and of its square over a thread's rows.
template <class T> void thread_sums(const T *x, const ThreadBlocks &blocks, int64_t C, double *sum, double *squares) {
    static thread_local Scratch scratch;
    float *shift = scratch.take<float>(3 * C), *s = shift + C, *q = s + C;
    std::fill(sum, sum + C, 0), std::fill(squares, squares + C, 0);
    if (blocks.first == blocks.last) return;
    const auto sum_up = [&](int64_t block) {
        for_channels(C, [&](int64_t channel, auto vectors) {
            const int64_t begin = blocks.begin(block);
            block_sums<vectors.value>(x + begin * C + channel, blocks.end(block) - begin, C, shift + channel, s + channel, q + channel);
        });
        return double(blocks.end(block) - blocks.begin(block));
    };
    for (int64_t channel = 0; channel < C; channel += LANES)
        store(shift + channel, load(x + blocks.begin(blocks.first) * C + channel));
    const double rows = sum_up(blocks.first);
    for (int64_t c = 0; c < C; c++) shift[c] += s[c] / rows;
    for (int64_t block = blocks.first; block < blocks.last; block++) {
        const double rows = sum_up(block);
        for (int64_t c = 0; c < C; c++) {
            const double old_shift = shift[c], by = s[c];
            sum[c] += rows * old_shift + by;
            squares[c] += rows * old_shift * old_shift + 2 * old_shift * by + q[c];
            shift[c] = old_shift + by / rows;
        }
    }
}

// The sums of x and of its square over all rows, to total[2][C].
template <class T> void reduce_sums(const T *x, const ThreadBlocks &blocks, int64_t C, double *sums, double *total) {
    double *own_sums = sums + omp_get_thread_num() * 2 * C;
    thread_sums(x, blocks, C, own_sums, own_sums + C);
    reduce_threads(sums, total, C);
}

// Mean, 1 / deviation and running statistics, from the sums over the whole batch.
void statistics(const double *total, float *running_mean, float *running_variance, float *mean, float *invstd, const Setting &setting) {
    const double count = setting.count;
#pragma omp for
    for (int64_t c = 0; c < setting.C; c++) {
        const double sum = total[c], about_mean = std::max(0.0, total[setting.C + c] - sum / count * sum);
        mean[c] = sum / count;
        invstd[c] = 1 / std::sqrt(about_mean / count + setting.epsilon);
        running_mean[c] += setting.momentum * (sum / count - running_mean[c]);
        running_variance[c] += setting.momentum * (about_mean / (count - 1) - running_variance[c]);
    }
}

template <class T>
void write_output(const T *x, const ThreadBlocks &blocks, const float *weight, const float *bias, T *out, const float *mean,
                  const float *invstd, const Setting &setting) {
    const int64_t C = setting.C;
    // From the last block to the first: what was read last is still in the cache.
    for (int64_t block = blocks.last - 1; block >= blocks.first; block--)
        for_channels(C, [&](int64_t channel, auto vectors) {
            constexpr int N = vectors.value;
            Channels of[N];
            for (int n = 0; n < N; n++) of[n] = Channels(mean, invstd, weight, bias, channel + n * LANES);
            for (int64_t row = blocks.begin(block); row < blocks.end(block); row++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) {
                    const int64_t at = row * C + channel + n * LANES;
                    const Vector y = of[n].pre_activation(load(x + at) - of[n].mean);
                    stream_store(out + at, select_positive(y, y, y * setting.slope));
                }
        });
    fence_streaming_stores();
}

template <class T> void forward_sums(const T *x, double *total, const Setting &setting) {
    static thread_local Scratch scratch;
    double *sums = scratch.take<double>(omp_get_max_threads() * 2 * setting.C); // [threads][2][C]
#pragma omp parallel
    reduce_sums(x, ThreadBlocks(setting.rows), setting.C, sums, total);
}

template <class T>
void forward_from(const T *x, const double *total, const float *weight, const float *bias, float *running_mean, float *running_variance,
                  T *out, float *mean, float *invstd, const Setting &setting) {
#pragma omp parallel
    {
        statistics(total, running_mean, running_variance, mean, invstd, setting);
        write_output(x, ThreadBlocks(setting.rows), weight, bias, out, mean, invstd, setting);
    }
}

template <class T>
void forward(const T *x, const float *weight, const float *bias, float *running_mean, float *running_variance, T *out, float *mean,
             float *invstd, const Setting &setting) {
    static thread_local Scratch scratch;
    double *total = scratch.take<double>((omp_get_max_threads() + 1) * 2 * setting.C), *sums = total + 2 * setting.C;
#pragma omp parallel
    {
        const ThreadBlocks blocks(setting.rows);
        reduce_sums(x, blocks, setting.C, sums, total);
        statistics(total, running_mean, running_variance, mean, invstd, setting);
        write_output(x, blocks, weight, bias, out, mean, invstd, setting);
    }
}

// --- Backward -------------------------------------------------------------------------------------------------------

// The sums of h and of h c over all rows, to total[2][C]; and this process's gradients of weight and bias, which are added to
// those of the batches before.
template <class T>
void reduce_gradient_sums(const T *x, const T *grad_out, const ThreadBlocks &blocks, const float *weight, const float *bias,
                          const float *mean, const float *invstd, double *sums, double *total, float *grad_weight,
                          float *grad_bias, bool is_first, const Setting &setting) {
    const int64_t C = setting.C;
    static thread_local Scratch scratch;
    float *s = scratch.take<float>(2 * C), *t = s + C;
    double *own_sums = sums + omp_get_thread_num() * 2 * C;
    std::fill(own_sums, own_sums + 2 * C, 0);
    for (int64_t block = blocks.first; block < blocks.last; block++) {
        for_channels(C, [&](int64_t channel, auto vectors) {
            constexpr int N = vectors.value;
            Channels of[N];
            for (int n = 0; n < N; n++) of[n] = Channels(mean, invstd, weight, bias, channel + n * LANES);
            Vector sum[N] = {}, dot[N] = {};
            for (int64_t row = blocks.begin(block); row < blocks.end(block); row++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) {
                    const int64_t at = row * C + channel + n * LANES;
                    const Vector centred = load(x + at) - of[n].mean;
                    const Vector h = of[n].activation_gradient(centred, load(grad_out + at), setting.slope);
                    sum[n] += h;
                    dot[n] += h * centred;
                }
            for (int n = 0; n < N; n++) {
                store(s + channel + n * LANES, sum[n]);
                store(t + channel + n * LANES, dot[n]);
            }
        });
        add(s, own_sums, 2 * C);
    }
    reduce_threads(sums, total, C);
#pragma omp for
    for (int64_t c = 0; c < C; c++) {
        if (grad_weight) grad_weight[c] = float(total[C + c] * invstd[c]) + (is_first ? 0 : grad_weight[c]);
        if (grad_bias) grad_bias[c] = float(total[c]) + (is_first ? 0 : grad_bias[c]);
    }
}

template <class T>
void write_input_gradient(const T *x, const T *grad_out, const ThreadBlocks &blocks, const double *total, const float *weight,
                          const float *bias, const float *mean, const float *invstd, float *constants, T *grad_in,
                          const Setting &setting) {
    const int64_t C = setting.C;
    float *constant = constants, *linear = constants + C;
#pragma omp for
    for (int64_t c = 0; c < C; c++) {
        const double to = invstd[c], scale = weight[c] * to;
        constant[c] = scale * total[c] / setting.count;
        linear[c] = scale * to * to * total[C + c] / setting.count;
    }
    for (int64_t block = blocks.last - 1; block >= blocks.first; block--)
        for_channels(C, [&](int64_t channel, auto vectors) {
            constexpr int N = vectors.value;
            Channels of[N];
            Vector a[N], b[N];
            for (int n = 0; n < N; n++) {
                of[n] = Channels(mean, invstd, weight, bias, channel + n * LANES);
                a[n] = load(constant + channel + n * LANES), b[n] = load(linear + channel + n * LANES);
            }
            for (int64_t row = blocks.begin(block); row < blocks.end(block); row++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) {
                    const int64_t at = row * C + channel + n * LANES;
                    const Vector centred = load(x + at) - of[n].mean;
                    const Vector h = of[n].activation_gradient(centred, load(grad_out + at), setting.slope);
                    stream_store(grad_in + at, h * of[n].scale - (a[n] + centred * b[n]));
                }
        });
    fence_streaming_stores();
}

template <class T>
void backward_sums(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean, const float *invstd,
                   double *total, float *grad_weight, float *grad_bias, bool is_first, const Setting &setting) {
    static thread_local Scratch scratch;
    double *sums = scratch.take<double>(omp_get_max_threads() * 2 * setting.C); // [threads][2][C]
#pragma omp parallel
    reduce_gradient_sums(x, grad_out, ThreadBlocks(setting.rows), weight, bias, mean, invstd, sums, total, grad_weight, grad_bias,
                         is_first, setting);
}

template <class T>
void backward_from(const T *x, const T *grad_out, const double *total, const float *weight, const float *bias, const float *mean,
                   const float *invstd, T *grad_in, const Setting &setting) {
    static thread_local Scratch scratch;
    float *constants = scratch.take<float>(2 * setting.C);
#pragma omp parallel
    write_input_gradient(x, grad_out, ThreadBlocks(setting.rows), total, weight, bias, mean, invstd, constants, grad_in, setting);
}

template <class T>
void backward(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean, const float *invstd,
              T *grad_in, float *grad_weight, float *grad_bias, bool is_first, const Setting &setting) {
    static thread_local Scratch scratch, scratch_constants;
    double *total = scratch.take<double>((omp_get_max_threads() + 1) * 2 * setting.C), *sums = total + 2 * setting.C;
    float *constants = scratch_constants.take<float>(2 * setting.C);
#pragma omp parallel
    {
        const ThreadBlocks blocks(setting.rows);
        reduce_gradient_sums(x, grad_out, blocks, weight, bias, mean, invstd, sums, total, grad_weight, grad_bias, is_first, setting);
        write_input_gradient(x, grad_out, blocks, total, weight, bias, mean, invstd, constants, grad_in, setting);
    }
}

} // namespace

// For batch n, whose pixels begin at `at`.
#define EACH_BATCH for (int64_t n = 0, at = 0, C = setting->C; n < setting->batches; n++, at += setting->rows * C)

#define EXPORT(NAME, T)                                                                                                \
    void normalise_forward_##NAME(const T *x, const float *weight, const float *bias, float *running_mean, float *running_variance, \
                                  T *out, float *mean, float *invstd, const Setting *setting) {                       \
        EACH_BATCH forward<T>(x + at, weight, bias, running_mean, running_variance, out + at, mean + n * C, invstd + n * C, *setting); \
    }                                                                                                                  \
    void normalise_backward_##NAME(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean, \
                                   const float *invstd, T *grad_in, float *grad_weight, float *grad_bias,             \
                                   const Setting *setting) {                                                           \
        EACH_BATCH backward<T>(x + at, grad_out + at, weight, bias, mean + n * C, invstd + n * C, grad_in + at, grad_weight, \
                               grad_bias, n == 0, *setting);                                                           \
    }                                                                                                                  \
    void normalise_forward_sums_##NAME(const T *x, double *total, const Setting *setting) {                           \
        EACH_BATCH forward_sums<T>(x + at, total + n * 2 * C, *setting);                                              \
    }                                                                                                                  \
    void normalise_forward_from_##NAME(const T *x, const double *total, const float *weight, const float *bias, float *running_mean, \
                                       float *running_variance, T *out, float *mean, float *invstd, const Setting *setting) { \
        EACH_BATCH forward_from<T>(x + at, total + n * 2 * C, weight, bias, running_mean, running_variance, out + at, mean + n * C, \
                                   invstd + n * C, *setting);                                                          \
    }                                                                                                                  \
    void normalise_backward_sums_##NAME(const T *x, const T *grad_out, const float *weight, const float *bias, const float *mean, \
                                        const float *invstd, double *total, float *grad_weight, float *grad_bias,     \
                                        const Setting *setting) {                                                      \
        EACH_BATCH backward_sums<T>(x + at, grad_out + at, weight, bias, mean + n * C, invstd + n * C, total + n * 2 * C, \
                                    grad_weight, grad_bias, n == 0, *setting);                                         \
    }                                                                                                                  \
    void normalise_backward_from_##NAME(const T *x, const T *grad_out, const double *total, const float *weight, const float *bias, \
                                        const float *mean, const float *invstd, T *grad_in, const Setting *setting) { \
        EACH_BATCH backward_from<T>(x + at, grad_out + at, total + n * 2 * C, weight, bias, mean + n * C, invstd + n * C, \
                                    grad_in + at, *setting);                                                           \
    }

extern "C" {
EXPORT(fp32, float)
#ifdef __AVX512BF16__
EXPORT(bf16, bf16)
#endif
}
