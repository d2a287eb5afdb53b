// Plain C++ for any processor; also the description of what an `Isa` offers to signs.h and tiles.h.

#include <cmath>
#include <cstring>

#include "depthwise.h"
#include "mean.h"
#include "signs.h"
#include "pool.h"
#include "real_conv2d.h"
#include "tiles.h"
#include "transpose.h"
#include "unit.h"

namespace rebnn {
namespace {

struct Generic {
    static constexpr int kWidth = 4;    // floats of a Vec, 32-bit integers of an Int
    static constexpr int kLanes = 16;   // output channels of a weight vector, Layout::lanes
    static constexpr int kPixels = 2;   // largest tile: pixels ...
    static constexpr int kVectors = 1;  // ... times vectors
    static constexpr int kRealPixels = 2;  // largest tile of a real-valued convolution: pixels ...
    static constexpr int kRealVectors = 4;  // ... times vectors, at least 2
    static constexpr bool kWordPairs = false;  // Layout::word_pairs
    static constexpr int kWordSize = 1;        // Plan::word_size
    static constexpr bool kLaneMasks = false;  // whether there is count_lanes, see isa_avx512.cpp

    struct Vec {
        float v[kWidth];
    };
    struct Int {
        uint32_t v[kWidth];
    };

    template <class F>
    static REBNN_INLINE Vec each(F f) {
        Vec out;
        for (int i = 0; i < kWidth; ++i) out.v[i] = f(i);
        return out;
    }

    static Vec load(const float* p) { return each([&](int i) { return p[i]; }); }
    static Vec load_partial(const float* p, int64_t n) { return each([&](int i) { return i < n ? p[i] : 0.f; }); }
    static void store(float* p, Vec a) { std::memcpy(p, a.v, sizeof(a.v)); }
    static void store_partial(float* p, int64_t n, Vec a) { std::memcpy(p, a.v, size_t(n) * sizeof(float)); }
    static Vec broadcast(float a) { return each([&](int) { return a; }); }
    static Vec add(Vec a, Vec b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
    static Vec mul(Vec a, Vec b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
    static Vec fma(Vec a, Vec b, Vec c) { return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
    // torch's: y > 0 ? y : y * slope
    static Vec prelu(Vec a, Vec slope) {
        return each([&](int i) { return a.v[i] > 0 ? a.v[i] : a.v[i] * slope.v[i]; });
    }

    // torch's clamp: NaN stays
    static Vec at_least(Vec a, Vec low) { return each([&](int i) { return low.v[i] > a.v[i] ? low.v[i] : a.v[i]; }); }
    static Vec at_most(Vec a, Vec high) { return each([&](int i) { return high.v[i] < a.v[i] ? high.v[i] : a.v[i]; }); }

    // torch's: the first of equals stays, and NaN wins
    static Vec max(Vec a, Vec b) {
        return each([&](int i) { return b.v[i] > a.v[i] || b.v[i] != b.v[i] ? b.v[i] : a.v[i]; });
    }

    // The same of numbers; where one is NaN it may give either.
    static Vec larger(Vec a, Vec b) { return each([&](int i) { return b.v[i] > a.v[i] ? b.v[i] : a.v[i]; }); }
    static bool has_nan(Vec a) {
        bool found = false;
        for (int i = 0; i < kWidth; ++i) found |= a.v[i] != a.v[i];
        return found;
    }

    // Bit i is a[i] >= 0, so -0.0 counts as positive and NaN as negative.
    static uint32_t sign_bits(Vec a) {
        uint32_t bits = 0;
        for (int i = 0; i < kWidth; ++i) bits |= uint32_t(a.v[i] >= 0) << i;
        return bits;
    }
    static Int zero() { return Int{}; }
    static Int set_bit_if_sign(Int bits, Vec a, uint32_t bit) {
        for (int i = 0; i < kWidth; ++i) bits.v[i] |= a.v[i] >= 0 ? bit : 0;
        return bits;
    }
    static void store_int(uint32_t* p, Int a) { std::memcpy(p, a.v, sizeof(a.v)); }

    // 32 signs as a kernel with kWordSize 2 reads them.
    static void spread_word(uint32_t*, uint32_t) {}

    // The integer convolution, correction - 2 count, as floats.
    static Vec result(const int32_t* corrections, const uint32_t* counts) {
        return each([&](int i) { return float(corrections[i] - 2 * int32_t(counts[i])); });
    }
    // kWidth rows of kWidth floats, in place.
    static void transpose(float* square) { transpose_square<kWidth>(square); }

    // counts[m][n * kLanes + lane] = set bits of (field xor weight) over the whole receptive field of pixel m.
    template <int M, int N>
    static REBNN_INLINE void count(const Conv& conv, const uint32_t* const* fields, const void* weights,
                                   uint32_t* counts) {
        static_assert(N == 1, "one vector at a time");
        uint32_t total[M][kLanes] = {}, bytes[M][kLanes] = {};
        const auto* w = static_cast<const uint32_t*>(weights);
        int pending = 0;
        for (int64_t i = 0; i < conv.offset_count; ++i, w += kLanes) {
            for (int m = 0; m < M; ++m) {
                const uint32_t a = fields[m][conv.offsets[i]];
                for (int lane = 0; lane < kLanes; ++lane) bytes[m][lane] += byte_counts(a ^ w[lane]);
            }
            if (++pending == 31) {  // 8 bits a word: a 32nd could overflow a byte
                flush(total, bytes);
                pending = 0;
            }
        }
        flush(total, bytes);
        std::memcpy(counts, total, sizeof(total));
    }

private:
    // Set bits of each byte, in that byte.
    static REBNN_INLINE uint32_t byte_counts(uint32_t x) {
        x -= (x >> 1) & 0x55555555u;
        x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
        return (x + (x >> 4)) & 0x0f0f0f0fu;
    }

    template <int M>
    static REBNN_INLINE void flush(uint32_t (&total)[M][kLanes], uint32_t (&bytes)[M][kLanes]) {
        for (int m = 0; m < M; ++m)
            for (int lane = 0; lane < kLanes; ++lane) {
                const uint32_t pairs = (bytes[m][lane] & 0x00ff00ffu) + ((bytes[m][lane] >> 8) & 0x00ff00ffu);
                total[m][lane] += (pairs & 0xffffu) + (pairs >> 16);
                bytes[m][lane] = 0;
            }
    }
};

bool always() { return true; }

}  // namespace

const Kernel kGeneric = {"generic",
                         always,
                         {Generic::kLanes, /*nibbles=*/false, Generic::kWordPairs},
                         Generic::kVectors,
                         take_signs<Generic>,
                         compute_block<Generic>,
                         pool_pixels<Generic>,
                         sum_pixels<Generic>,
                         transpose_columns<Generic>,
                         real_pixels<Generic>,
                         depthwise_rows<Generic>,
                         &kUnitSteps};

}  // namespace rebnn
