// What a layer needs at run time, in one relocatable block of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rebnn_kernels.h"

// Files are compiled for different instruction sets. An inline function that is not inlined could be linked from a
// file whose instructions this processor lacks, so shared ones always are.
#if defined(_MSC_VER)
#define REBNN_INLINE __forceinline
#else
#define REBNN_INLINE inline __attribute__((always_inline))
#endif

#if defined(__GNUC__)
#define REBNN_INLINE_LAMBDA __attribute__((always_inline))
#else
#define REBNN_INLINE_LAMBDA
#endif

// Accumulators must stay in registers, so loops over them are unrolled by the compiler, not left to its judgement.
#if defined(__clang__)
#define REBNN_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define REBNN_UNROLL _Pragma("GCC unroll 16")
#else
#define REBNN_UNROLL
#endif

namespace rebnn {

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
constexpr bool kLittleEndian = true;
#else
constexpr bool kLittleEndian = false;  // or not known
#endif

constexpr int64_t kWordBits = 32;
constexpr int64_t kAlignment = 64;

static constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// How an instruction set wants its weights. Output channels lie in the lanes of a vector.
struct Layout {
    int64_t lanes;     // output channels in one vector: the unit that a group's channels are padded to
    bool nibbles;      // a lane holds 4 bits of the reduction in a byte (look-up kernels) instead of 32
    bool word_pairs;   // if words come in pairs, the second is replaced by the xor of both (carry-save kernels)
};

// What a plan may have beside alpha, bias and the first norm, as bits: PReLU with its shifts; clamp and the last norm.
enum Part : int32_t { kActivation = 1, kTail = 2 };

// Rows of the per-channel parameters, each `channels()` floats long.
enum Row {
    kAlphaRow,
    kBiasRow,
    kScaleRow,
    kOffsetRow,
    kBeforeRow,
    kSlopeRow,
    kAfterRow,
    kLastScaleRow,
    kLastOffsetRow,
    kSignShiftRow,
    kSignScaleRow,
    kSignOffsetRow,
    kRows
};

// Header of a plan; offsets are in bytes from its start, 0 where there is nothing.
struct Plan {
    uint32_t magic;
    int32_t kernel;    // index into all_kernels()
    int32_t parts;     // of enum Part
    bool residual_last;
    float clamp_low, clamp_high;
    int64_t c_in, c_out, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
    // One input and one output channel to a group: the plan treats them as one group of all channels then, whose bits
    // are added up for each channel of its own instead of over a word.
    bool depthwise;
    uint32_t key;        // of everything above and below but the contents
    int64_t in_group;    // input channels of a group
    int64_t out_group;   // output channels of a group
    int64_t words;       // 32-bit words that hold in_group bits; the rest of the last one is 0
    int64_t word_pairs;  // whether words are stored as Layout::word_pairs says: their number must be even
    int64_t word_size;   // uint32_t that a word takes: 2 if its nibbles are spread over bytes
    int64_t lanes;       // of Layout
    int64_t out_padded;  // out_group rounded up to whole vectors
    int64_t bytes;
    // weights: [group][vector][tap][word][lane], or [group][vector][tap][word][nibble of the word][lane]; depthwise:
    // [tap][word]
    int64_t weights, tap_sums, rows, shift, input_scale, input_offset;

    // of the canonical bits that the plan is made of
    REBNN_INLINE int64_t bits_bytes() const { return (c_out * products() + 7) / 8; }
    REBNN_INLINE int64_t taps() const { return kernel_h * kernel_w; }
    // products in the sum of one output
    REBNN_INLINE int64_t products() const { return depthwise ? taps() : in_group * taps(); }
    REBNN_INLINE int64_t group_words() const { return words * word_size; }
    REBNN_INLINE int64_t pixel_words() const { return groups * group_words(); }
    REBNN_INLINE int64_t channels() const { return groups * out_padded; }
    // words of an output pixel's signs
    REBNN_INLINE int64_t sign_words() const { return (c_out + kWordBits - 1) / kWordBits; }
    REBNN_INLINE int64_t vectors() const { return out_padded / lanes; }
    REBNN_INLINE int64_t vector_bytes() const { return taps() * words * word_size * lanes * 4; }

    template <class T>
    REBNN_INLINE const T* at(int64_t offset) const {
        return offset ? reinterpret_cast<const T*>(reinterpret_cast<const char*>(this) + offset) : nullptr;
    }
    REBNN_INLINE const float* row(Row which) const { return at<float>(rows) + which * channels(); }
    // sum of the signs of one tap's weights, [tap][group][out_padded]: what a padded pixel adds
    REBNN_INLINE const int32_t* sums() const { return at<int32_t>(tap_sums); }
};

constexpr uint32_t kPlanMagic = 0x334e4252;  // "RBN3"

// Fill in everything but the contents; false if a size is out of range.
bool plan_header(const Layout& layout, const rebnn_conv2d_spec& spec, Plan* plan);

// Write weights and parameters behind `plan`, whose header is filled in.
void plan_contents(const Layout& layout, const rebnn_conv2d_spec& spec, Plan* plan);

}  // namespace rebnn
