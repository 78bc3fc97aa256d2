// Sixteen numbers at a time, in float, from and to memory that holds float or bf16; and memory kept between calls.
//
// In an anonymous namespace, as each library is built from one file. bf16 only where the processor multiplies it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <immintrin.h>
#include <omp.h>

namespace {

typedef float Vector __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));

constexpr int64_t LANES = 16;

struct bf16 {
    uint16_t bits;
};

template <class T> constexpr int64_t IN_WORD = 4 / sizeof(T);

// Anywhere in memory, whatever else lies there.
typedef Vector VectorAnywhere __attribute__((aligned(4), may_alias));
typedef Words WordsAnywhere __attribute__((aligned(4), may_alias));

inline Vector load(const float *from) { return *reinterpret_cast<const VectorAnywhere *>(from); }
inline Words load(const uint32_t *from) { return *reinterpret_cast<const WordsAnywhere *>(from); }
inline void store(float *to, Vector v) { *reinterpret_cast<VectorAnywhere *>(to) = v; }
inline void store(uint32_t *to, Words v) { *reinterpret_cast<WordsAnywhere *>(to) = v; }

template <class T> T rounded(float number);
template <> inline float rounded<float>(float number) { return number; }

#ifdef __AVX512BF16__
template <> inline bf16 rounded<bf16>(float number) {
    const bf16 out = {uint16_t(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(number)), 0))};
    return out;
}

inline Vector load(const bf16 *from) {
    __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
}
inline __m256i narrowed(Vector v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }
inline void store(bf16 *to, Vector v) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), narrowed(v)); }

// first and second are neighbours in the sum
inline Words words(const bf16 *, Vector first, Vector second) {
    return (Words)_mm512_or_si512(_mm512_cvtepu16_epi32(narrowed(first)),
                                  _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrowed(second)), 16));
}
inline Vector multiply_add(const bf16 *, uint32_t a, Words b, Vector sum) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
}
#endif

inline Words words(const float *, Vector first, Vector) { return (Words)first; }
inline Vector multiply_add(const float *, uint32_t a, Words b, Vector sum) {
    float number;
    std::memcpy(&number, &a, sizeof number);
    return sum + number * (Vector)b;
}

// To memory past the caches, which then need not read it first; `to` is aligned to the vector as it is stored. For what
// is not read soon. Before another thread may read it, settle().
#ifdef __AVX512F__
inline void stream(float *to, Vector v) { _mm512_stream_ps(to, (__m512)v); }
#else
inline void stream(float *to, Vector v) { store(to, v); }
#endif
#ifdef __AVX512BF16__
inline void stream(bf16 *to, Vector v) { _mm256_stream_si256(reinterpret_cast<__m256i *>(to), narrowed(v)); }
#endif
inline void settle() { _mm_sfence(); }

// Kept between calls, so that its pages are faulted in once.
struct Scratch {
    void *memory = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(memory); }

    template <class T> T *take(int64_t count) {
        size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
        if (bytes > size) {
            std::free(memory);
            memory = std::aligned_alloc(4096, bytes);
            if (!memory) std::abort();
            size = bytes;
        }
        return static_cast<T *>(memory);
    }
};

} // namespace
