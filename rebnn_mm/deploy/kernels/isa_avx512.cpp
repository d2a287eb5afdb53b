// AVX-512 with VPOPCNTDQ and BW: Intel since Ice Lake, AMD since Zen 4.
#include "depthwise.h"
#include "mean.h"
#include "signs.h"
#include "pool.h"
#include "real_conv2d.h"
#include "tiles.h"
#include "transpose.h"
#include "unit.h"

#if defined(REBNN_X86)

#include <cpuid.h>
#include <immintrin.h>

namespace rebnn {
namespace {

struct Avx512 {
    static constexpr int kWidth = 16;
    static constexpr int kLanes = 16;
    static constexpr int kPixels = 4;
    static constexpr int kVectors = 2;
    static constexpr int kRealPixels = 6;
    static constexpr int kRealVectors = 4;
    static constexpr bool kWordPairs = true;
    static constexpr int kWordSize = 1;
    static constexpr bool kLaneMasks = true;

    using Vec = __m512;
    using Int = __m512i;

    static REBNN_INLINE __mmask16 first(int64_t n) { return __mmask16((1u << n) - 1); }
    static REBNN_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
    static REBNN_INLINE Vec load_partial(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
    static REBNN_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
    static REBNN_INLINE void store_partial(float* p, int64_t n, Vec a) { _mm512_mask_storeu_ps(p, first(n), a); }
    static REBNN_INLINE Vec broadcast(float a) { return _mm512_set1_ps(a); }
    static REBNN_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
    static REBNN_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
    static REBNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
    static REBNN_INLINE Vec prelu(Vec a, Vec slope) {
        const __mmask16 positive = _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ);
        return _mm512_mask_mov_ps(_mm512_mul_ps(a, slope), positive, a);
    }

    // the instructions give their second argument where one is NaN
    static REBNN_INLINE Vec at_least(Vec a, Vec low) { return _mm512_max_ps(low, a); }
    static REBNN_INLINE Vec at_most(Vec a, Vec high) { return _mm512_min_ps(high, a); }

    static REBNN_INLINE Vec max(Vec a, Vec b) {
        const __mmask16 larger = _mm512_cmp_ps_mask(b, a, _CMP_GT_OQ), nan = _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q);
        return _mm512_mask_mov_ps(a, _kor_mask16(larger, nan), b);
    }

    // the instruction gives its second argument where both are zeros
    static REBNN_INLINE Vec larger(Vec a, Vec b) { return _mm512_max_ps(b, a); }
    static REBNN_INLINE bool has_nan(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }

    static REBNN_INLINE __mmask16 is_positive(Vec a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GE_OQ); }
    static REBNN_INLINE uint32_t sign_bits(Vec a) { return is_positive(a); }
    static REBNN_INLINE Int zero() { return _mm512_setzero_si512(); }
    static REBNN_INLINE Int set_bit_if_sign(Int bits, Vec a, uint32_t bit) {
        return _mm512_mask_or_epi32(bits, is_positive(a), bits, _mm512_set1_epi32(int(bit)));
    }
    static REBNN_INLINE void store_int(uint32_t* p, Int a) { _mm512_storeu_si512(p, a); }

    static REBNN_INLINE void spread_word(uint32_t*, uint32_t) {}

    static REBNN_INLINE Vec result(const int32_t* corrections, const uint32_t* counts) {
        const Int twice = _mm512_slli_epi32(_mm512_loadu_si512(counts), 1);
        return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(corrections), twice));
    }
    // Interleaves single floats, then pairs, then twice the four lanes of 128 bits.
    static REBNN_INLINE void transpose(float* square) {
        Vec a[kWidth], b[kWidth];
        REBNN_UNROLL
        for (int i = 0; i < kWidth; i += 2) {
            const Vec even = load(square + i * kWidth), odd = load(square + (i + 1) * kWidth);
            a[i] = _mm512_unpacklo_ps(even, odd);
            a[i + 1] = _mm512_unpackhi_ps(even, odd);
        }
        REBNN_UNROLL
        for (int i = 0; i < kWidth; i += 4) {
            b[i] = unpack_low_pairs(a[i], a[i + 2]);
            b[i + 1] = unpack_high_pairs(a[i], a[i + 2]);
            b[i + 2] = unpack_low_pairs(a[i + 1], a[i + 3]);
            b[i + 3] = unpack_high_pairs(a[i + 1], a[i + 3]);
        }
        constexpr int kEvenLanes = 0x88, kOddLanes = 0xdd;
        REBNN_UNROLL
        for (int i = 0; i < 4; ++i) {
            const Vec top_even = _mm512_shuffle_f32x4(b[i], b[i + 4], kEvenLanes);
            const Vec top_odd = _mm512_shuffle_f32x4(b[i], b[i + 4], kOddLanes);
            const Vec bottom_even = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], kEvenLanes);
            const Vec bottom_odd = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], kOddLanes);
            store(square + i * kWidth, _mm512_shuffle_f32x4(top_even, bottom_even, kEvenLanes));
            store(square + (i + 4) * kWidth, _mm512_shuffle_f32x4(top_odd, bottom_odd, kEvenLanes));
            store(square + (i + 8) * kWidth, _mm512_shuffle_f32x4(top_even, bottom_even, kOddLanes));
            store(square + (i + 12) * kWidth, _mm512_shuffle_f32x4(top_odd, bottom_odd, kOddLanes));
        }
    }

    template <int M, int N>
    static REBNN_INLINE void count(const Conv& conv, const uint32_t* const* fields, const void* weights,
                                   uint32_t* counts) {
        conv.plan->word_pairs ? count_pairs<M, N>(conv, fields, weights, counts)
                              : count_words<M, N>(conv, fields, weights, counts);
    }

    // A depthwise layer's counts of M pixels in bytes: a word of bits is a mask of the channels that get one more.
    template <int M, int N>
    static REBNN_INLINE void count_lanes(const uint32_t* const* fields, const int64_t* offsets, const uint32_t* weights,
                                         int64_t taps, int64_t words, int64_t bit, uint32_t* counts) {
        const Int one = _mm512_set1_epi8(1);
        Int total[M];
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) total[m] = zero();
        for (int64_t at = 0; at < taps * words; at += words) {
            const int64_t offset = offsets[at];
            const uint32_t weight = weights[at];
            REBNN_UNROLL
            for (int m = 0; m < M; ++m) {
                const __mmask64 differ = (fields[m][offset] ^ weight) >> bit;
                total[m] = _mm512_mask_add_epi8(total[m], differ, total[m], one);
            }
        }
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int n = 0; n < N; ++n)
                _mm512_storeu_si512(counts + (m * N + n) * kLanes, _mm512_cvtepu8_epi32(sixteen_bytes<N>(total[m], n)));
        }
    }

protected:
    template <int N>
    static REBNN_INLINE __m128i sixteen_bytes(Int bytes, int n) {
        static_assert(N <= 2, "of the first 32 bytes");
        return n ? _mm512_extracti32x4_epi32(bytes, 1) : _mm512_castsi512_si128(bytes);
    }

    static REBNN_INLINE Vec unpack_low_pairs(Vec a, Vec b) {
        return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    }
    static REBNN_INLINE Vec unpack_high_pairs(Vec a, Vec b) {
        return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    }

    static REBNN_INLINE Int ones(Int x) { return _mm512_popcnt_epi32(x); }

    // xor, popcount, add: three instructions a word.
    template <int M, int N>
    static REBNN_INLINE void count_words(const Conv& conv, const uint32_t* const* fields, const void* weights,
                                         uint32_t* counts) {
        const auto* w = static_cast<const uint32_t*>(weights);
        const int64_t step = conv.plan->vector_bytes() / 4;
        Int total[M][N];
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int n = 0; n < N; ++n) total[m][n] = zero();
        }
        for (int64_t i = 0; i < conv.offset_count; ++i, w += kLanes) {
            const int64_t k = conv.offsets[i];
            Int word[N];
            REBNN_UNROLL
            for (int n = 0; n < N; ++n) word[n] = _mm512_loadu_si512(w + n * step);
            REBNN_UNROLL
            for (int m = 0; m < M; ++m) {
                const Int a = _mm512_set1_epi32(int(fields[m][k]));
                REBNN_UNROLL
                for (int n = 0; n < N; ++n)
                    total[m][n] = _mm512_add_epi32(total[m][n], ones(_mm512_xor_si512(a, word[n])));
            }
        }
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int n = 0; n < N; ++n) _mm512_storeu_si512(counts + (m * N + n) * kLanes, total[m][n]);
        }
    }

    // Two words x, y (each activation xor weight) and a running parity s go through a full adder: the new parity
    // s ^ x ^ y stays, and the carry, which is worth two, is counted: five instructions for two words instead of six.
    // The adder needs x and x ^ y only, and both are one xor of what is stored: the second word of a pair is kept as
    // the xor of the two, in activations and weights alike.
    template <int M, int N>
    static REBNN_INLINE void count_pairs(const Conv& conv, const uint32_t* const* fields, const void* weights,
                                         uint32_t* counts) {
        constexpr int kXor3 = 0x96;
        // majority(x, s, y) from x, s and the new parity p, as y = x ^ s ^ p
        constexpr int kCarry = 0xd4;
        const auto* w = static_cast<const uint32_t*>(weights);
        const int64_t step = conv.plan->vector_bytes() / 4;
        Int carries[M][N], parity[M][N];
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int n = 0; n < N; ++n) carries[m][n] = parity[m][n] = zero();
        }
        for (int64_t i = 0; i < conv.offset_count; i += 2, w += 2 * kLanes) {
            const int64_t k = conv.offsets[i];
            Int word[N], both[N];
            REBNN_UNROLL
            for (int n = 0; n < N; ++n) {
                word[n] = _mm512_loadu_si512(w + n * step);
                both[n] = _mm512_loadu_si512(w + n * step + kLanes);
            }
            REBNN_UNROLL
            for (int m = 0; m < M; ++m) {
                const Int a = _mm512_set1_epi32(int(fields[m][k])), ab = _mm512_set1_epi32(int(fields[m][k + 1]));
                REBNN_UNROLL
                for (int n = 0; n < N; ++n) {
                    const Int x = _mm512_xor_si512(a, word[n]), before = parity[m][n];
                    parity[m][n] = _mm512_ternarylogic_epi32(before, ab, both[n], kXor3);
                    const Int carry = _mm512_ternarylogic_epi32(x, before, parity[m][n], kCarry);
                    carries[m][n] = _mm512_add_epi32(carries[m][n], ones(carry));
                }
            }
        }
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int n = 0; n < N; ++n)
                _mm512_storeu_si512(counts + (m * N + n) * kLanes,
                                    _mm512_add_epi32(_mm512_slli_epi32(carries[m][n], 1), ones(parity[m][n])));
        }
    }
};

// Where all vector units are 512 bits wide, counting each word is faster than the adder, which waits for its own results
// (Zen 5: 50 us for 512 channels at 7x7, and 56).
struct Avx512Wide : Avx512 {
    static constexpr int kPixels = 8;
    static constexpr bool kWordPairs = false;

    template <int M, int N>
    static REBNN_INLINE void count(const Conv& conv, const uint32_t* const* fields, const void* weights,
                                   uint32_t* counts) {
        count_words<M, N>(conv, fields, weights, counts);
    }
};

bool supported() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vpopcntdq");
}

// AMD since Zen 5: family 26. Others have not been measured.
bool find_wide() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!supported() || !__builtin_cpu_is("amd") || !__get_cpuid(1, &a, &b, &c, &d)) return false;
    return (a >> 8 & 15) + (a >> 20 & 255) >= 26;
}

bool is_wide() {
    static const bool wide = find_wide();  // once: cpuid takes microseconds in a virtual machine
    return wide;
}

}  // namespace

const Kernel kAvx512 = {"avx512",
                        supported,
                        {Avx512::kLanes, /*nibbles=*/false, Avx512::kWordPairs},
                        Avx512::kVectors,
                        take_signs<Avx512>,
                        compute_block<Avx512>,
                        pool_pixels<Avx512>,
                        sum_pixels<Avx512>,
                        transpose_columns<Avx512>,
                        real_pixels<Avx512>,
                        depthwise_rows<Avx512>,
                        &kUnitSteps};

const Kernel kAvx512Wide = {"avx512_wide",
                            is_wide,
                            {Avx512Wide::kLanes, /*nibbles=*/false, Avx512Wide::kWordPairs},
                            Avx512Wide::kVectors,
                            take_signs<Avx512Wide>,
                            compute_block<Avx512Wide>,
                            pool_pixels<Avx512>,
                            sum_pixels<Avx512>,
                            transpose_columns<Avx512>,
                            real_pixels<Avx512>,
                            depthwise_rows<Avx512>,
                            &kUnitSteps};

}  // namespace rebnn

#endif  // REBNN_X86
