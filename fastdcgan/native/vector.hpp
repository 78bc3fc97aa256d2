// Sixteen numbers at a time, in float, from and to memory that holds float or bf16; and memory kept between calls.
//
// In an anonymous namespace, as each library is built from one file.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <immintrin.h>

namespace {

typedef float Vector __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));

constexpr int64_t LANES = 16;

struct bf16 {
    uint16_t bits;
};

// Anywhere in memory, whatever else lies there.
typedef Vector VectorAnywhere __attribute__((aligned(4), may_alias));
typedef Words WordsAnywhere __attribute__((aligned(4), may_alias));

inline Vector load(const float *from) { return *reinterpret_cast<const VectorAnywhere *>(from); }
inline Words load(const uint32_t *from) { return *reinterpret_cast<const WordsAnywhere *>(from); }
inline void store(float *to, Vector v) { *reinterpret_cast<VectorAnywhere *>(to) = v; }
inline void store(uint32_t *to, Words v) { *reinterpret_cast<WordsAnywhere *>(to) = v; }

#ifdef __AVX512BF16__
inline Vector load(const bf16 *from) {
    __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
}
inline __m256i narrowed(Vector v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }
inline void store(bf16 *to, Vector v) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), narrowed(v)); }
#endif

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
