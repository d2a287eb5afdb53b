// AVX2 has no popcount. A byte shuffle looks up 32 table entries at once instead: for a nibble `a` of the activation
// the table's row is popcount(a ^ w) for all 16 w, and 32 output channels index it with a nibble of their weights.
// Nibbles lie in bytes of their own, so that nothing is left to do but load, shuffle and add.
#include "depthwise.h"
#include "mean.h"
#include "signs.h"
#include "pool.h"
#include "real_conv2d.h"
#include "tiles.h"
#include "transpose.h"
#include "unit.h"

#if defined(REBNN_X86)

#include <immintrin.h>

namespace rebnn {
namespace {

// kNibbleCounts.row[a][w] = popcount(a ^ w)
struct NibbleCounts {
    alignas(64) uint8_t row[16][16];
    constexpr NibbleCounts() : row() {
        for (int a = 0; a < 16; ++a)
            for (int w = 0; w < 16; ++w)
                for (int bits = a ^ w; bits; bits >>= 1) row[a][w] = uint8_t(row[a][w] + (bits & 1));
    }
};
constexpr NibbleCounts kNibbleCounts;

struct Avx2 {
    static constexpr int kWidth = 8;
    static constexpr int kLanes = 32;
    static constexpr int kPixels = 4;
    static constexpr int kVectors = 2;
    static constexpr int kRealPixels = 6;
    static constexpr int kRealVectors = 2;
    static constexpr bool kWordPairs = false;
    static constexpr int kWordSize = 2;
    static constexpr bool kLaneMasks = false;
    // A byte holds up to 255: the 8 nibbles of a word count up to 32.
    static constexpr int kWordsInBytes = 7;
    // 16 bits hold up to 65535
    static constexpr int kFlushesInShorts = 65535 / (kWordsInBytes * 32);

    using Vec = __m256;
    using Int = __m256i;

    static REBNN_INLINE Int first(int64_t n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static REBNN_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
    static REBNN_INLINE Vec load_partial(const float* p, int64_t n) {
        return n == kWidth ? load(p) : _mm256_maskload_ps(p, first(n));
    }
    static REBNN_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
    static REBNN_INLINE void store_partial(float* p, int64_t n, Vec a) {
        n == kWidth ? store(p, a) : _mm256_maskstore_ps(p, first(n), a);
    }
    static REBNN_INLINE Vec broadcast(float a) { return _mm256_set1_ps(a); }
    static REBNN_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
    static REBNN_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
    static REBNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
    static REBNN_INLINE Vec prelu(Vec a, Vec slope) {
        return _mm256_blendv_ps(mul(a, slope), a, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ));
    }

    // the instructions give their second argument where one is NaN
    static REBNN_INLINE Vec at_least(Vec a, Vec low) { return _mm256_max_ps(low, a); }
    static REBNN_INLINE Vec at_most(Vec a, Vec high) { return _mm256_min_ps(high, a); }

    static REBNN_INLINE Vec max(Vec a, Vec b) {
        const Vec larger = _mm256_cmp_ps(b, a, _CMP_GT_OQ), nan = _mm256_cmp_ps(b, b, _CMP_UNORD_Q);
        return _mm256_blendv_ps(a, b, _mm256_or_ps(larger, nan));
    }

    // the instruction gives its second argument where both are zeros
    static REBNN_INLINE Vec larger(Vec a, Vec b) { return _mm256_max_ps(b, a); }
    static REBNN_INLINE bool has_nan(Vec a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }

    static REBNN_INLINE Vec is_positive(Vec a) { return _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GE_OQ); }
    static REBNN_INLINE uint32_t sign_bits(Vec a) { return uint32_t(_mm256_movemask_ps(is_positive(a))); }
    static REBNN_INLINE Int zero() { return _mm256_setzero_si256(); }
    static REBNN_INLINE Int set_bit_if_sign(Int bits, Vec a, uint32_t bit) {
        const Int chosen = _mm256_and_si256(_mm256_castps_si256(is_positive(a)), _mm256_set1_epi32(int(bit)));
        return _mm256_or_si256(bits, chosen);
    }
    static REBNN_INLINE Int load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static REBNN_INLINE void store_int(void* p, Int a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }

    // Each nibble in the upper half of its own byte: the offset of its row in the table.
    static REBNN_INLINE void spread_word(uint32_t* p, uint32_t word) {
        const __m128i mask = _mm_set1_epi8(char(0xf0)), bits = _mm_cvtsi32_si128(int(word));
        const __m128i low = _mm_and_si128(_mm_slli_epi16(bits, 4), mask), high = _mm_and_si128(bits, mask);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi8(low, high));
    }

    static REBNN_INLINE Vec result(const int32_t* corrections, const uint32_t* counts) {
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(load_int(corrections), _mm256_slli_epi32(load_int(counts), 1)));
    }
    // Interleaves single floats, then pairs, then the two lanes of 128 bits.
    static REBNN_INLINE void transpose(float* square) {
        Vec a[kWidth], b[kWidth];
        REBNN_UNROLL
        for (int i = 0; i < kWidth; i += 2) {
            const Vec even = load(square + i * kWidth), odd = load(square + (i + 1) * kWidth);
            a[i] = _mm256_unpacklo_ps(even, odd);
            a[i + 1] = _mm256_unpackhi_ps(even, odd);
        }
        REBNN_UNROLL
        for (int i = 0; i < kWidth; i += 4) {
            b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
            b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
            b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
            b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
        }
        REBNN_UNROLL
        for (int i = 0; i < 4; ++i) {
            store(square + i * kWidth, _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
            store(square + (i + 4) * kWidth, _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
        }
    }

    template <int M, int N>
    static REBNN_INLINE void count(const Conv& conv, const uint32_t* const* fields, const void* weights,
                                   uint32_t* counts) {
        const auto* w = static_cast<const uint8_t*>(weights);
        const int64_t step = conv.plan->vector_bytes();
        Int bytes[M][N];
        Sums<M, N> sums;
        clear(bytes);
        int pending = 0;
        for (int64_t word = 0; word < conv.offset_count; ++word) {
            const int64_t k = conv.offsets[word];
            REBNN_UNROLL
            for (int i = 0; i < 8; ++i, w += kLanes) {
                Int weight[N];
                REBNN_UNROLL
                for (int n = 0; n < N; ++n) weight[n] = load_int(w + n * step);
                REBNN_UNROLL
                for (int m = 0; m < M; ++m) {
                    const Int row = table_row(reinterpret_cast<const uint8_t*>(fields[m] + k)[i]);
                    REBNN_UNROLL
                    for (int n = 0; n < N; ++n) {
                        bytes[m][n] = _mm256_add_epi8(bytes[m][n], _mm256_shuffle_epi8(row, weight[n]));
                        REBNN_PIN(bytes[m][n]);
                    }
                }
            }
            if (++pending == kWordsInBytes) {
                sums.add(bytes);
                clear(bytes);
                pending = 0;
            }
        }
        sums.add(bytes);
        sums.finish(counts);
    }

private:
    static REBNN_INLINE Int table_row(uint8_t offset) {
        const uint8_t* row = &kNibbleCounts.row[0][0] + offset;
        return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
    }

    template <int M, int N>
    static REBNN_INLINE void clear(Int (&bytes)[M][N]) {
        REBNN_UNROLL
        for (int m = 0; m < M; ++m) {
            REBNN_UNROLL
            for (int n = 0; n < N; ++n) bytes[m][n] = zero();
        }
    }

    // Counts outgrow bytes after a few words, and 16 bits after some thousand.
    template <int M, int N>
    struct Sums {
        alignas(32) uint16_t shorts[M][N][kLanes];
        alignas(32) int32_t wide[M][N][kLanes];
        int flushes = 0;
        bool any_wide = false;

        REBNN_INLINE void add(const Int (&bytes)[M][N]) {
            if (flushes == kFlushesInShorts) spill();
            for (int m = 0; m < M; ++m)
                for (int n = 0; n < N; ++n) {
                    Int low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes[m][n]));
                    Int high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(bytes[m][n], 1));
                    if (flushes) {
                        low = _mm256_add_epi16(low, load_int(shorts[m][n]));
                        high = _mm256_add_epi16(high, load_int(shorts[m][n] + 16));
                    }
                    store_int(shorts[m][n], low);
                    store_int(shorts[m][n] + 16, high);
                }
            ++flushes;
        }

        void spill() {
            for (int m = 0; m < M; ++m)
                for (int n = 0; n < N; ++n)
                    for (int lane = 0; lane < kLanes; ++lane)
                        wide[m][n][lane] = (any_wide ? wide[m][n][lane] : 0) + shorts[m][n][lane];
            any_wide = true;
            flushes = 0;
        }

        REBNN_INLINE void finish(uint32_t* counts) const {
            for (int m = 0; m < M; ++m)
                for (int n = 0; n < N; ++n)
                    for (int at = 0; at < kLanes; at += kWidth, counts += kWidth) {
                        const auto* from = reinterpret_cast<const __m128i*>(shorts[m][n] + at);
                        Int sum = _mm256_cvtepu16_epi32(_mm_load_si128(from));
                        if (any_wide) sum = _mm256_add_epi32(sum, load_int(wide[m][n] + at));
                        store_int(counts, sum);
                    }
        }
    };
};

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const Kernel kAvx2 = {"avx2",
                      supported,
                      {Avx2::kLanes, /*nibbles=*/true, Avx2::kWordPairs},
                      Avx2::kVectors,
                      take_signs<Avx2>,
                      compute_block<Avx2>,
                      pool_pixels<Avx2>,
                      sum_pixels<Avx2>,
                      transpose_columns<Avx2>,
                      real_pixels<Avx2>,
                      depthwise_rows<Avx2>,
                      &kUnitSteps};

}  // namespace rebnn

#endif  // REBNN_X86
