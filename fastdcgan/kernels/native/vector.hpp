// Vectors of the processor's width (AVX2: 8 floats, AVX-512: 16), loaded from and stored to memory that holds float or bf16;
// scratch memory; and loops whose turns threads may share.
//
// In an anonymous namespace, as each library is built from one file. bf16 needs AVX512_BF16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>
#include <utility>

#define INLINED __attribute__((always_inline)) // of a lambda
#define INLINE INLINED inline

namespace {

#ifdef __AVX512F__
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

struct bf16 {
    uint16_t bits;
};

// Numbers in a word of 32 bits (see product.hpp).
template <class T> constexpr int64_t PER_WORD = 4 / sizeof(T);

// At any address that is a multiple of 4, and of any type.
typedef Vector UnalignedVector __attribute__((aligned(4), may_alias));
typedef Words UnalignedWords __attribute__((aligned(4), may_alias));

inline Vector load(const float *from) { return *reinterpret_cast<const UnalignedVector *>(from); }
inline Words load(const uint32_t *from) { return *reinterpret_cast<const UnalignedWords *>(from); }
inline void store(float *to, Vector v) { *reinterpret_cast<UnalignedVector *>(to) = v; }
inline void store(uint32_t *to, Words v) { *reinterpret_cast<UnalignedWords *>(to) = v; }

template <class T> T from_float(float number);
template <> inline float from_float<float>(float number) { return number; }

#ifdef __AVX512BF16__
template <> inline bf16 from_float<bf16>(float number) {
    const bf16 out = {uint16_t(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(number)), 0))};
    return out;
}

inline Vector load(const bf16 *from) {
    __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
}
inline __m256i to_bf16(Vector v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }
inline void store(bf16 *to, Vector v) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), to_bf16(v)); }

// bf16: each word holds a number of `first` and one of `second`, neighbours in the sum. float: `first` alone.
inline Words pack_words(const bf16 *, Vector first, Vector second) {
    return (Words)_mm512_or_si512(_mm512_cvtepu16_epi32(to_bf16(first)),
                                  _mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(second)), 16));
}
inline Vector multiply_add(const bf16 *, uint32_t a, Words b, Vector sum) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
}
#endif

inline Words pack_words(const float *, Vector first, Vector) { return (Words)first; }
inline Vector multiply_add(const float *, uint32_t a, Words b, Vector sum) {
    float number;
    std::memcpy(&number, &a, sizeof number);
    return sum + number * (Vector)b;
}

// A store that bypasses the caches, for results that are not read soon: the cache line is not read first. `to` must be
// aligned to the stored vector. fence_streaming_stores() before another thread reads it.
#ifdef __AVX512F__
inline void stream_store(float *to, Vector v) { _mm512_stream_ps(to, (__m512)v); }
inline void stream_store(uint32_t *to, Words v) { _mm512_stream_si512((__m512i *)to, (__m512i)v); }
#else
inline void stream_store(float *to, Vector v) { _mm256_stream_ps(to, (__m256)v); }
inline void stream_store(uint32_t *to, Words v) { _mm256_stream_si256((__m256i *)to, (__m256i)v); }
#endif
#ifdef __AVX512BF16__
inline void stream_store(bf16 *to, Vector v) { _mm256_stream_si256(reinterpret_cast<__m256i *>(to), to_bf16(v)); }
#endif
inline void fence_streaming_stores() { _mm_sfence(); }

// Rows to columns of LANES x LANES words: log2(LANES) times each two rows that are LANES / 2 apart become neighbours, and
// their words take turns.
template <int... I> INLINE void interleave(std::integer_sequence<int, I...>, Words (&rows)[LANES]) {
    Words out[LANES];
    for (int64_t row = 0; row < LANES / 2; row++) {
        out[2 * row] = __builtin_shuffle(rows[row], rows[row + LANES / 2], Words{(I % 2 ? LANES : 0) + I / 2 ...});
        out[2 * row + 1] = __builtin_shuffle(rows[row], rows[row + LANES / 2], Words{(I % 2 ? LANES : 0) + (I + LANES) / 2 ...});
    }
    for (int64_t row = 0; row < LANES; row++) rows[row] = out[row];
}
INLINE void transpose(Words (&rows)[LANES]) {
    for (int64_t distance = 1; distance < LANES; distance *= 2) interleave(std::make_integer_sequence<int, LANES>(), rows);
}

// Memory that is kept between calls, so that its pages are faulted in once. Its content is undefined. Always thread_local: two
// Python threads may call a kernel at once.
//
// Mapped, not from malloc, whose memory was in use before: its pages are small and lie scattered, and to touch all of them
// takes 1 % of a dcgan64 step more, and 2 to 5 % of a dcgan28 step.
struct Scratch {
    static constexpr size_t HUGE_PAGE = 2 << 20;

    void *mapping = nullptr;
    size_t mapped = 0, size = 0;
    ~Scratch() { unmap(); }

    template <class T> T *take(int64_t count) {
        const size_t wanted = count * sizeof(T);
        if (wanted > size) {
            unmap();
            size = (wanted + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
            mapped = size + HUGE_PAGE; // what is never touched takes no memory
            mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (mapping == MAP_FAILED) std::abort();
            if (wanted >= HUGE_PAGE / 8) madvise(aligned(), size, MADV_HUGEPAGE); // a hint: the processor looks up fewer addresses
        }
        return static_cast<T *>(aligned());
    }

  private:
    void *aligned() const {
        return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(mapping) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    }
    void unmap() {
        if (size) munmap(mapping, mapped);
        size = 0;
    }
};

// Calls f(0), f(step), ... below `count`: shared out among the threads, all of which must call this, or by each thread alone.
template <class F> inline void for_each(bool shared, int64_t count, int64_t step, F f) {
    if (shared) {
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i += step) f(i);
    } else {
        for (int64_t i = 0; i < count; i += step) f(i);
    }
}

} // namespace
