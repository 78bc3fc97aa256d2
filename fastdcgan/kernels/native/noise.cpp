// Noise: numbers of a table of 65,536, looked up by sixteen random bits each.
//
// The bits are those of NumPy's PCG64, seeded by NumPy's SeedSequence: both keep their streams (NEP 19). Sources: O'Neill 2014,
// "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation", 6.3 (XSL-RR), and
// O'Neill 2015, "Developing a seed_seq Alternative". Through NumPy, to seed took longer than all numbers of a batch of 128.

#include <cstdint>

namespace {

typedef unsigned __int128 uint128;

// A hash of each word, other at each call.
struct Hash {
    uint32_t constant, multiplier;

    uint32_t operator()(uint32_t word) {
        word ^= constant;
        constant *= multiplier;
        word *= constant;
        return word ^ word >> 16;
    }
};

inline uint32_t mix(uint32_t x, uint32_t y) {
    const uint32_t mixed = 0xCA01F9DD * x - 0x4973F715 * y;
    return mixed ^ mixed >> 16;
}

// np.random.SeedSequence(words).generate_state(4, np.uint64), of at least four words.
void generate_state(const uint32_t *words, int count, uint64_t *state) {
    Hash enter{0x43B0D7E5, 0x931E8875}, leave{0x8B51F9DD, 0x58F38DED};
    uint32_t pool[4];
    for (int i = 0; i < 4; i++) pool[i] = enter(words[i]);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            if (from != to) pool[to] = mix(pool[to], enter(pool[from]));
    for (int from = 4; from < count; from++)
        for (int to = 0; to < 4; to++) pool[to] = mix(pool[to], enter(words[from]));
    for (int i = 0; i < 4; i++) {
        const uint64_t low = leave(pool[2 * i % 4]);
        state[i] = low | uint64_t(leave(pool[(2 * i + 1) % 4])) << 32;
    }
}

// np.random.PCG64, by the four numbers above.
class Pcg64 {
    static constexpr uint128 MULTIPLIER = uint128(0x2360ED051FC65DA4) << 64 | 0x4385DF649FCCF645;
    uint128 increment, state;

  public:
    explicit Pcg64(const uint64_t *seed) : increment((uint128(seed[2]) << 64 | seed[3]) << 1 | 1) {
        state = increment + (uint128(seed[0]) << 64 | seed[1]);
        state = state * MULTIPLIER + increment;
    }
    uint64_t next() {
        state = state * MULTIPLIER + increment;
        const uint64_t high = state >> 64, folded = high ^ uint64_t(state);
        const int by = high >> 58;
        return folded >> by | folded << (-by & 63);
    }
};

} // namespace

// `count` numbers to `out`. A position of up to 32 bits is one word, as NumPy takes integers apart.
extern "C" void noise_fp32(uint64_t seed, uint64_t stream, uint64_t position, const float *table, int64_t count, float *out) {
    const uint32_t words[] = {uint32_t(seed), uint32_t(seed >> 32), uint32_t(stream), uint32_t(position), uint32_t(position >> 32)};
    uint64_t state[4];
    generate_state(words, position >> 32 ? 5 : 4, state);
    Pcg64 generator(state);
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const uint64_t bits = generator.next();
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) out[i + n] = table[bits >> 16 * n & 0xFFFF];
    }
    for (uint64_t bits = generator.next(); i < count; i++, bits >>= 16) out[i] = table[bits & 0xFFFF];
}
