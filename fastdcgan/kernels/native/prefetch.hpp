// Memory that is brought into the caches before it is needed, part by part, while the processor multiplies: products leave the
// memory idle, and the transforms around them wait for it.
#pragma once

#include "vector.hpp"

namespace {

// Bytes from which on what is read again and again comes from memory, not from the L3 cache.
constexpr int64_t MOST_CACHED = 8 << 20;

class Prefetch {
  public:
    // Numbers that will be read, or, if they are not const, written. None if `end` is not after `first`.
    template <class T> Prefetch(T *first, T *end)
        : at(reinterpret_cast<const char *>(first)), end(reinterpret_cast<const char *>(end)), written(!std::is_const<T>::value) {}

    void split(int64_t parts) { lines = ((end - at) / LINE + parts - 1) / parts; }
    INLINE void next_part() {
        for (int64_t i = 0; i < lines && at < end; i++, at += LINE) written ? __builtin_prefetch(at, 1, 2) : __builtin_prefetch(at, 0, 2);
    }

  private:
    static constexpr int64_t LINE = 64; // bytes of a cache line

    const char *at, *end;
    bool written;
    int64_t lines = 0; // of a part
};

} // namespace
