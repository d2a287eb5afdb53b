// AVX2 has no popcount. A byte shuffle looks up 32 four-bit table entries at once instead: for a nibble `a` of the
// activation the table row is popcount(a ^ w) for all 16 w, and 32 output channels index it with their own nibble.
#include "pack.h"
#include "tiles.h"

#if defined(REBNN_X86)

#include <immintrin.h>

namespace rebnn {
namespace {

// kNibbleCounts.row[a][w] = popcount(a ^ w)
struct NibbleCounts {
    alignas(64) uint8_t row[16][16];
    constexpr NibbleCounts() : row() {
        for (int a = 0; a < 16; ++a)
            for (int w = 0; w < 16; ++w) row[a][w] = uint8_t((a ^ w) % 2 + (a ^ w) / 2 % 2 + (a ^ w) / 4 % 2 + (a ^ w) / 8);
    }
};
constexpr NibbleCounts kNibbleCounts;

struct Avx2 {
    static constexpr int kWidth = 8;
    static constexpr int kLanes = 32;
    static constexpr int kPixels = 4;
    static constexpr int kVectors = 2;
    static constexpr bool kWordPairs = false;
    // A byte holds up to 255: two nibbles of 4 bits for each of 4 bytes of a word make 32, seven times.
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

    static REBNN_INLINE Vec is_positive(Vec a) { return _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GE_OQ); }
    static REBNN_INLINE uint32_t sign_bits(Vec a) { return uint32_t(_mm256_movemask_ps(is_positive(a))); }
    static REBNN_INLINE Int zero() { return _mm256_setzero_si256(); }
    static REBNN_INLINE Int set_bit_if_sign(Int bits, Vec a, uint32_t bit) {
        const Int chosen = _mm256_and_si256(_mm256_castps_si256(is_positive(a)), _mm256_set1_epi32(int(bit)));
        return _mm256_or_si256(bits, chosen);
    }
    static REBNN_INLINE Int load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static REBNN_INLINE void store_int(void* p, Int a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }

    static REBNN_INLINE Vec result(const int32_t* corrections, Int counts) {
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(load_int(corrections), _mm256_slli_epi32(counts, 1)));
    }

    template <int M, int N>
    static REBNN_INLINE void count(const Conv& conv, const uint32_t* const (&fields)[M], const void* weights,
                                   Int (&counts)[M][N * kLanes / kWidth]) {
        const auto* w = static_cast<const uint8_t*>(weights);
        const int64_t step = conv.plan->vector_bytes();
        const Int low_nibble = _mm256_set1_epi8(15);
        Int bytes[M][N];
        Sums<M, N> sums;
        clear(bytes);
        int pending = 0;
        for (int64_t run = 0; run < conv.run_count; ++run)
            for (int64_t k = conv.runs[run], end = k + conv.run_words; k < end; ++k, w += 4 * kLanes) {
                REBNN_UNROLL
                for (int byte = 0; byte < 4; ++byte) {
                    Int low[N], high[N];
                    REBNN_UNROLL
                    for (int n = 0; n < N; ++n) {
                        const Int both = load_int(w + n * step + byte * kLanes);
                        low[n] = _mm256_and_si256(both, low_nibble);
                        high[n] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_nibble);
                    }
                    REBNN_UNROLL
                    for (int m = 0; m < M; ++m) {
                        const uint32_t a = fields[m][k] >> (8 * byte);
                        const Int low_counts = table_row(a & 15), high_counts = table_row(a >> 4 & 15);
                        REBNN_UNROLL
                        for (int n = 0; n < N; ++n) {
                            bytes[m][n] = _mm256_add_epi8(bytes[m][n], _mm256_shuffle_epi8(low_counts, low[n]));
                            bytes[m][n] = _mm256_add_epi8(bytes[m][n], _mm256_shuffle_epi8(high_counts, high[n]));
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
    static REBNN_INLINE Int table_row(uint32_t nibble) {
        return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kNibbleCounts.row[nibble])));
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

        REBNN_INLINE void finish(Int (&counts)[M][N * kLanes / kWidth]) const {
            for (int m = 0; m < M; ++m)
                for (int n = 0; n < N; ++n)
                    for (int part = 0; part < kLanes / kWidth; ++part) {
                        const auto* at = reinterpret_cast<const __m128i*>(shorts[m][n] + part * kWidth);
                        Int sum = _mm256_cvtepu16_epi32(_mm_load_si128(at));
                        if (any_wide) sum = _mm256_add_epi32(sum, load_int(wide[m][n] + part * kWidth));
                        counts[m][n * (kLanes / kWidth) + part] = sum;
                    }
        }
    };
};

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const Kernel kAvx2 = {"avx2",
                      supported,
                      {Avx2::kLanes, /*byte_lanes=*/true, Avx2::kWordPairs},
                      Avx2::kVectors,
                      pack_pixels<Avx2>,
                      compute_block<Avx2>};

}  // namespace rebnn

#endif  // REBNN_X86
