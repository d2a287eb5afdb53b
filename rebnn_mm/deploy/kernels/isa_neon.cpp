// ARM NEON, 64 bit: a byte popcount and pairwise widening additions.
#include "depthwise.h"
#include "mean.h"
#include "signs.h"
#include "pool.h"
#include "real_conv2d.h"
#include "tiles.h"
#include "transpose.h"
#include "unit.h"

#if defined(REBNN_NEON)

#include <arm_neon.h>

namespace rebnn {
namespace {

struct Neon {
    static constexpr int kWidth = 4;
    static constexpr int kLanes = 16;
    static constexpr int kPixels = 4;
    static constexpr int kVectors = 1;
    static constexpr int kRealPixels = 6;
    static constexpr int kRealVectors = 4;
    static constexpr bool kWordPairs = false;
    static constexpr int kWordSize = 1;
    static constexpr bool kLaneMasks = false;
    static constexpr int kParts = kLanes / kWidth;
    // a byte counts up to 8 for each word: 31 words fit
    static constexpr int kWordsInBytes = 31;

    using Vec = float32x4_t;
    using Int = uint32x4_t;

    static REBNN_INLINE Vec load(const float* p) { return vld1q_f32(p); }
    static REBNN_INLINE Vec load_partial(const float* p, int64_t n) {
        float v[kWidth] = {};
        for (int64_t i = 0; i < n; ++i) v[i] = p[i];
        return vld1q_f32(v);
    }
    static REBNN_INLINE void store(float* p, Vec a) { vst1q_f32(p, a); }
    static REBNN_INLINE void store_partial(float* p, int64_t n, Vec a) {
        float v[kWidth];
        vst1q_f32(v, a);
        for (int64_t i = 0; i < n; ++i) p[i] = v[i];
    }
    static REBNN_INLINE Vec broadcast(float a) { return vdupq_n_f32(a); }
    static REBNN_INLINE Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
    static REBNN_INLINE Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
    static REBNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
    static REBNN_INLINE Vec prelu(Vec a, Vec slope) {
        return vbslq_f32(vcgtq_f32(a, vdupq_n_f32(0)), a, vmulq_f32(a, slope));
    }

    static REBNN_INLINE Vec at_least(Vec a, Vec low) { return vbslq_f32(vcgtq_f32(low, a), low, a); }
    static REBNN_INLINE Vec at_most(Vec a, Vec high) { return vbslq_f32(vcltq_f32(high, a), high, a); }

    static REBNN_INLINE Vec max(Vec a, Vec b) {
        const uint32x4_t larger = vcgtq_f32(b, a), ordered = vceqq_f32(b, b);
        return vbslq_f32(vornq_u32(larger, ordered), b, a);
    }
    static REBNN_INLINE Vec larger(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(b, a), b, a); }
    static REBNN_INLINE bool has_nan(Vec a) { return vminvq_u32(vceqq_f32(a, a)) == 0; }

    static REBNN_INLINE uint32_t sign_bits(Vec a) {
        const uint32_t bit[kWidth] = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(vcgeq_f32(a, vdupq_n_f32(0)), vld1q_u32(bit)));
    }
    static REBNN_INLINE Int zero() { return vdupq_n_u32(0); }
    static REBNN_INLINE Int set_bit_if_sign(Int bits, Vec a, uint32_t bit) {
        return vorrq_u32(bits, vandq_u32(vcgeq_f32(a, vdupq_n_f32(0)), vdupq_n_u32(bit)));
    }
    static REBNN_INLINE void store_int(uint32_t* p, Int a) { vst1q_u32(p, a); }

    static REBNN_INLINE void spread_word(uint32_t*, uint32_t) {}

    static REBNN_INLINE Vec result(const int32_t* corrections, const uint32_t* counts) {
        const int32x4_t twice = vreinterpretq_s32_u32(vshlq_n_u32(vld1q_u32(counts), 1));
        return vcvtq_f32_s32(vsubq_s32(vld1q_s32(corrections), twice));
    }
    static REBNN_INLINE void transpose(float* square) { transpose_square<kWidth>(square); }

    template <int M, int N>
    static REBNN_INLINE void count(const Conv& conv, const uint32_t* const* fields, const void* weights,
                                   uint32_t* counts) {
        static_assert(N == 1, "one vector at a time");
        const auto* w = static_cast<const uint32_t*>(weights);
        Int total[M][kParts];
        uint8x16_t bytes[M][kParts];
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int part = 0; part < kParts; ++part) {
                total[m][part] = zero();
                bytes[m][part] = vdupq_n_u8(0);
            }
        }
        int pending = 0;
        for (int64_t i = 0; i < conv.offset_count; ++i, w += kLanes) {
            Int word[kParts];
            REBNN_UNROLL
            for (int part = 0; part < kParts; ++part) word[part] = vld1q_u32(w + part * kWidth);
            REBNN_UNROLL
            for (int m = 0; m < M; ++m) {
                const Int a = vdupq_n_u32(fields[m][conv.offsets[i]]);
                REBNN_UNROLL
                for (int part = 0; part < kParts; ++part) {
                    const uint8x16_t ones = vcntq_u8(vreinterpretq_u8_u32(veorq_u32(a, word[part])));
                    bytes[m][part] = vaddq_u8(bytes[m][part], ones);
                }
            }
            if (++pending == kWordsInBytes) {
                flush(bytes, total);
                pending = 0;
            }
        }
        flush(bytes, total);
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int part = 0; part < kParts; ++part) vst1q_u32(counts + m * kLanes + part * kWidth, total[m][part]);
        }
    }

private:
    template <int M>
    static REBNN_INLINE void flush(uint8x16_t (&bytes)[M][kParts], Int (&total)[M][kParts]) {
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int part = 0; part < kParts; ++part) {
                total[m][part] = vpadalq_u16(total[m][part], vpaddlq_u8(bytes[m][part]));
                bytes[m][part] = vdupq_n_u8(0);
            }
        }
    }
};

bool always() { return true; }

}  // namespace

const Kernel kNeon = {"neon",
                      always,
                      {Neon::kLanes, /*nibbles=*/false, Neon::kWordPairs},
                      Neon::kVectors,
                      take_signs<Neon>,
                      compute_block<Neon>,
                      pool_pixels<Neon>,
                      sum_pixels<Neon>,
                      transpose_columns<Neon>,
                      real_pixels<Neon>,
                      depthwise_rows<Neon>,
                      &kUnitSteps};

}  // namespace rebnn

#endif  // REBNN_NEON
