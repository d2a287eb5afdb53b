// From bit counts to finished floats, for any instruction set `Isa` (see isa_generic.cpp for what one offers).
#pragma once

#include <cstring>

#include "kernel.h"

// Pins a vector to a register here. Without it gcc sums what it unrolled in another order, with more values alive than
// there are registers (measured with AVX2: 1.2 times slower).
#if defined(__GNUC__) && defined(__x86_64__)
#define REBNN_PIN(vector) __asm__("" : "+v"(vector))
#endif

#if defined(__GNUC__)
#define REBNN_PREFETCH(address, write) __builtin_prefetch(address, write)
#else
#define REBNN_PREFETCH(address, write) ((void)(address))
#endif

namespace rebnn {
namespace {

// Some output pixels, one after the other through the batch, and their bit counts on the way to floats: few enough
// to stay in the first-level cache.
template <class Isa>
struct Pixels {
    static constexpr int64_t kMost = 48;

    int64_t count = 0;
    const uint32_t* fields[kMost];      // first word of the receptive field, in the group
    const int32_t* corrections[kMost];  // at the group's first channel
    alignas(64) uint32_t counts[kMost * Isa::kVectors * Isa::kLanes];

    // The pixels [first, last) of the batch's output.
    void locate(const Conv& conv, int64_t group, int64_t first, int64_t last) {
        const Plan& plan = *conv.plan;
        const int64_t channel = group * plan.out_padded;
        const int64_t step = plan.stride_w * plan.pixel_words();
        int64_t x = first % conv.out_w, y = first / conv.out_w % conv.out_h, image = first / conv.out_w / conv.out_h;
        for (count = 0; count < last - first; x = 0, ++y) {
            if (y == conv.out_h) {
                y = 0;
                ++image;
            }
            const int64_t row = (image * conv.padded_h + y * plan.stride_h) * conv.padded_w * plan.pixel_words();
            const uint32_t* field = conv.input_signs + row + x * step + group * plan.group_words();
            const int32_t* corrections_of_row =
                conv.corrections + conv.row_class[y] * conv.column_classes * plan.channels() + channel;
            for (; x < conv.out_w && count < last - first; ++x, ++count, field += step) {
                fields[count] = field;
                corrections[count] = corrections_of_row + conv.column_class[x] * plan.channels();
            }
        }
    }
};

// Bit counts of pixels [first, count) times N vectors, in tiles of M pixels and one smaller.
template <class Isa, int M, int N>
void count_tiles(const Conv& conv, const void* weights, Pixels<Isa>& pixels, int64_t first) {
    for (; pixels.count - first >= M; first += M)
        Isa::template count<M, N>(conv, pixels.fields + first, weights, pixels.counts + first * N * Isa::kLanes);
    if constexpr (M > 1) {
        if (first < pixels.count) count_tiles<Isa, M - 1, N>(conv, weights, pixels, first);
    }
}

// A depthwise layer's counts of less than 256 taps where lanes have masks; the channels lie in one word.
template <class Isa, int N>
void count_by_masks(const Conv& conv, int64_t channel, Pixels<Isa>& pixels) {
    static_assert(N * Isa::kLanes <= kWordBits, "a word has the bits of all lanes");
    constexpr int kAtOnce = 4;
    const Plan& plan = *conv.plan;
    const int64_t taps = plan.taps(), words = plan.words, word = channel / kWordBits, bit = channel % kWordBits;
    const uint32_t* weights = plan.at<uint32_t>(plan.weights) + word;
    const int64_t* offsets = conv.offsets + word;
    int64_t p = 0;
    for (; p + kAtOnce <= pixels.count; p += kAtOnce)
        Isa::template count_lanes<kAtOnce, N>(pixels.fields + p, offsets, weights, taps, words, bit,
                                              pixels.counts + p * N * Isa::kLanes);
    for (; p < pixels.count; ++p)
        Isa::template count_lanes<1, N>(pixels.fields + p, offsets, weights, taps, words, bit,
                                        pixels.counts + p * N * Isa::kLanes);
}

// The same without such masks. The bits of 32 channels are added up side by side: bit c of digits[i][p] is the i-th
// binary digit of the sum of channel c at pixel p.
template <class Isa, int N>
void count_by_digits(const Conv& conv, int64_t channel, Pixels<Isa>& pixels) {
    constexpr int kMostDigits = 25;  // of a plan's products(), which are at most 2^24
    constexpr int64_t kPixels = Pixels<Isa>::kMost;
    const Plan& plan = *conv.plan;
    const int64_t taps = plan.taps(), words = plan.words, count = pixels.count, lanes = N * Isa::kLanes;
    alignas(64) uint32_t digits[kMostDigits][kPixels], carry[kPixels] = {};
    for (int64_t at = 0, step; at < lanes && channel + at < plan.c_out; at += step) {
        const int64_t word = (channel + at) / kWordBits, bit = (channel + at) % kWordBits;
        step = lanes - at < kWordBits - bit ? lanes - at : kWordBits - bit;
        const uint32_t* weights = plan.at<uint32_t>(plan.weights) + word;
        int64_t known = 0;  // digits that the sum so far may have
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t offset = conv.offsets[tap * words + word];
            const uint32_t weight = weights[tap * words];
            for (int64_t p = 0; p < count; ++p) carry[p] = pixels.fields[p][offset] ^ weight;
            if ((tap + 1) >> known) std::memset(digits[known++], 0, sizeof(digits[0]));
            for (int64_t i = 0; i < known; ++i)
                for (int64_t p = 0; p < kPixels; ++p) {
                    const uint32_t next = digits[i][p] & carry[p];
                    digits[i][p] ^= carry[p];
                    carry[p] = next;
                }
        }
        for (int64_t p = 0; p < count; ++p) {
            uint32_t* counts = pixels.counts + p * lanes + at;
            for (int64_t lane = 0; lane < step; ++lane) counts[lane] = digits[0][p] >> (bit + lane) & 1;
            for (int64_t i = 1; i < known; ++i)
                for (int64_t lane = 0; lane < step; ++lane) counts[lane] += (digits[i][p] >> (bit + lane) & 1) << i;
        }
    }
}

// A depthwise layer's counts, N vectors of channels from `channel` on.
template <class Isa, int N>
void count_depthwise(const Conv& conv, int64_t channel, Pixels<Isa>& pixels) {
    if constexpr (Isa::kLaneMasks) {
        if (conv.plan->taps() < 256) return count_by_masks<Isa, N>(conv, channel, pixels);
    }
    count_by_digits<Isa, N>(conv, channel, pixels);
}

enum class Residual { kNone, kFirst, kLast };  // last: behind all other steps

// The float steps; their order is the training layers', bit for bit. `Isa::kWidth` neighbouring channels share
// one pixel, or neighbouring pixels one channel, whose parameters are broadcast then. A branch for each step would cost
// more than the step (measured: 2 times slower), so steps come in the parts of enum Part, and a step that a part has and
// the plan has not changes no bit: its parameters are neutral, see plan.cpp.
template <class Isa, int kParts, Residual kResidual>
struct Finish {
    using Vec = typename Isa::Vec;

    template <class At>
    REBNN_INLINE Finish(const Plan& plan, const At& at)
        : alpha(at(kAlphaRow)),
          bias(at(kBiasRow)),
          scale(at(kScaleRow)),
          offset(at(kOffsetRow)),
          before(at(kBeforeRow)),
          slope(at(kSlopeRow)),
          after(at(kAfterRow)),
          low(Isa::broadcast(plan.clamp_low)),
          high(Isa::broadcast(plan.clamp_high)),
          last_scale(at(kLastScaleRow)),
          last_offset(at(kLastOffsetRow)),
          sign_shift(at(kSignShiftRow)),
          sign_scale(at(kSignScaleRow)),
          sign_offset(at(kSignOffsetRow)) {}

    template <class Load>
    REBNN_INLINE Vec operator()(Vec y, const float* residual, const Load& load) const {
        y = Isa::fma(Isa::add(Isa::mul(y, alpha), bias), scale, offset);
        if constexpr (kResidual == Residual::kFirst) y = Isa::add(y, load(residual));
        if constexpr (kParts & kActivation) y = Isa::add(Isa::prelu(Isa::add(y, before), slope), after);
        if constexpr (kParts & kTail) {
            y = Isa::at_most(Isa::at_least(y, low), high);
            y = Isa::fma(y, last_scale, last_offset);
        }
        if constexpr (kResidual == Residual::kLast) y = Isa::add(y, load(residual));
        return y;
    }

    REBNN_INLINE uint32_t signs(Vec y) const {
        return Isa::sign_bits(Isa::fma(Isa::add(y, sign_shift), sign_scale, sign_offset));
    }

    const Vec alpha, bias, scale, offset, before, slope, after, low, high, last_scale, last_offset;
    const Vec sign_shift, sign_scale, sign_offset;
};

// Set `bits` from bit `at` of a pixel's signs on.
REBNN_INLINE void set_bits(uint32_t* words, int64_t at, uint32_t bits) {
    const int64_t shift = at % kWordBits;
    words += at / kWordBits;
    *words |= bits << shift;
    // the group's first channel may lie anywhere in a word
    if (shift && bits >> (kWordBits - shift)) words[1] |= bits >> (kWordBits - shift);
}

// Whose results the counts of some pixels are, and where the first pixel's first channel lies in the output.
struct Target {
    int64_t within;          // first channel, in its group
    int64_t padded_channel;  // first channel, in the plan's rows
    int64_t channels;        // valid ones from there on
    int64_t stride;          // channels of a pixel in Pixels::counts
    int64_t first_pixel;
    int64_t channel;         // first channel
    int64_t out;             // where it lies in the output
};

// Put the signs of the channels [at, at + channels) where they belong among a pixel's 64. `channels` is less than kWidth
// only for the last ones.
template <class Isa>
REBNN_INLINE void keep_signs(uint64_t* signs, int64_t at, int64_t channels, uint32_t bits) {
    if (channels < Isa::kWidth) bits &= (1u << channels) - 1;
    if constexpr (Isa::kWidth % 8 == 0 && kLittleEndian) {
        std::memcpy(reinterpret_cast<char*>(signs) + at / 8, &bits, Isa::kWidth / 8);  // one store
    } else {
        *signs |= uint64_t(bits) << at;
    }
}

// One vector of `channels` channels, `at` channels behind the target's first, of every pixel. Everything that the loop
// needs is in local variables: stores of floats might change what the references refer to, for all the compiler knows.
template <class Isa, int kParts, Residual kResidual, bool kFloats, bool kSigns, class Load, class Store>
REBNN_INLINE void finish_channels(const Conv& conv, const Pixels<Isa>& pixels, const Target& target, int64_t at,
                                  int64_t channels, uint64_t* signs, const Load& load, const Store& store) {
    const Plan& plan = *conv.plan;
    const float* rows = plan.row(kAlphaRow) + target.padded_channel + at;
    const int64_t row = plan.channels();
    const Finish<Isa, kParts, kResidual> finish(
        plan, [=](Row which) REBNN_INLINE_LAMBDA { return Isa::load(rows + which * row); });
    const int64_t count = pixels.count, stride = target.stride, c_out = plan.c_out;
    const int64_t within = target.within + at;
    const uint32_t* counts = pixels.counts + at;
    float* out = kFloats ? conv.out + target.out + at : nullptr;
    const float* residual = kResidual == Residual::kNone ? nullptr : conv.residual + target.out + at;
    for (int64_t p = 0; p < count; ++p, counts += stride) {
        const auto y = finish(Isa::result(pixels.corrections[p] + within, counts), residual, load);
        if constexpr (kResidual != Residual::kNone) residual += c_out;
        if constexpr (kFloats) {
            store(out, y);
            out += c_out;
        }
        if constexpr (kSigns) keep_signs<Isa>(signs + p, at, channels, finish.signs(y));
    }
}

template <class Isa, int kParts, Residual kResidual, bool kFloats, bool kSigns>
void finish_nhwc(const Conv& conv, const Pixels<Isa>& pixels, const Target& target) {
    using Vec = typename Isa::Vec;
    static_assert(Isa::kVectors * Isa::kLanes <= 64, "signs of a pixel's channels are collected in 64 bits");
    uint64_t signs[kSigns ? Pixels<Isa>::kMost : 1] = {};
    for (int64_t at = 0; at < target.stride && at < target.channels; at += Isa::kWidth) {
        const int64_t left = target.channels - at;
        if (left >= Isa::kWidth) {
            finish_channels<Isa, kParts, kResidual, kFloats, kSigns>(
                conv, pixels, target, at, Isa::kWidth, signs, [](const float* from) REBNN_INLINE_LAMBDA { return Isa::load(from); },
                [](float* to, Vec y) REBNN_INLINE_LAMBDA { Isa::store(to, y); });
        } else {
            finish_channels<Isa, kParts, kResidual, kFloats, kSigns>(
                conv, pixels, target, at, left, signs, [&](const float* from) { return Isa::load_partial(from, left); },
                [&](float* to, Vec y) { Isa::store_partial(to, left, y); });
        }
    }
    if constexpr (kSigns) {
        const int64_t words = conv.plan->sign_words();
        uint32_t* out = conv.signs + target.first_pixel * words;
        if (target.channel % kWordBits == 0 && target.stride == kWordBits) {  // whole words of its own
            out += target.channel / kWordBits;
            for (int64_t p = 0; p < pixels.count; ++p, out += words) *out = uint32_t(signs[p]);
            return;
        }
        for (int64_t p = 0; p < pixels.count; ++p, out += words) {
            set_bits(out, target.channel, uint32_t(signs[p]));
            if (signs[p] >> kWordBits) set_bits(out, target.channel + kWordBits, uint32_t(signs[p] >> kWordBits));
        }
    }
}

// Ask for the lines that `finish_nhwc` will touch before the counting starts, which takes as long as they need to come
// from a far cache or memory.
inline void prefetch_nhwc(const Conv& conv, int64_t out, int64_t pixels, int64_t channels) {
    constexpr int64_t kLine = 16;  // floats in a cache line
    for (int64_t p = 0; p < pixels; ++p, out += conv.plan->c_out)
        for (int64_t at = 0; at < channels; at += kLine) {
            if (conv.out) REBNN_PREFETCH(conv.out + out + at, 1);
            if (conv.residual) REBNN_PREFETCH(conv.residual + out + at, 0);
        }
}

// All pixels belong to one image.
template <class Isa, int kParts, Residual kResidual>
void finish_nchw(const Conv& conv, const Pixels<Isa>& pixels, const Target& target) {
    constexpr int kWidth = Isa::kWidth;
    const Plan& plan = *conv.plan;
    const int64_t plane = conv.out_h * conv.out_w, row = plan.channels();
    for (int64_t at = 0; at < target.stride && at < target.channels; at += kWidth) {
        for (int64_t p = 0; p < pixels.count; p += kWidth) {
            const int64_t left = pixels.count - p < kWidth ? pixels.count - p : kWidth;
            alignas(64) float square[kWidth * kWidth] = {};
            for (int64_t i = 0; i < left; ++i)
                Isa::store(square + i * kWidth, Isa::result(pixels.corrections[p + i] + target.within + at,
                                                            pixels.counts + (p + i) * target.stride + at));
            Isa::transpose(square);
            for (int64_t c = 0; c < kWidth && at + c < target.channels; ++c) {
                const int64_t channel = target.padded_channel + at + c;
                const float* rows = plan.row(kAlphaRow) + channel;
                const Finish<Isa, kParts, kResidual> finish(
                    plan, [=](Row which) REBNN_INLINE_LAMBDA { return Isa::broadcast(rows[which * row]); });
                const int64_t out = target.out + (at + c) * plane + p;
                const auto load = [&](const float* from) { return Isa::load_partial(from, left); };
                const float* residual = kResidual == Residual::kNone ? nullptr : conv.residual + out;
                Isa::store_partial(conv.out + out, left, finish(Isa::load(square + c * kWidth), residual, load));
            }
        }
    }
}

template <class Isa, int kParts, Residual kResidual>
void finish_with(const Conv& conv, const Pixels<Isa>& pixels, const Target& target) {
    if (!conv.out_channels_last) {
        finish_nchw<Isa, kParts, kResidual>(conv, pixels, target);
    } else if (!conv.signs) {
        finish_nhwc<Isa, kParts, kResidual, true, false>(conv, pixels, target);
    } else if (conv.out) {
        finish_nhwc<Isa, kParts, kResidual, true, true>(conv, pixels, target);
    } else {
        finish_nhwc<Isa, kParts, kResidual, false, true>(conv, pixels, target);
    }
}

// The finished floats and signs of some pixels, by the loop that has the plan's parts.
template <class Isa>
void finish(const Conv& conv, const Pixels<Isa>& pixels, const Target& target) {
    using Function = void (*)(const Conv&, const Pixels<Isa>&, const Target&);
    constexpr Residual kNone = Residual::kNone, kFirst = Residual::kFirst;
    constexpr Function kWithout[] = {finish_with<Isa, 0, kNone>, finish_with<Isa, 1, kNone>,
                                     finish_with<Isa, 2, kNone>, finish_with<Isa, 3, kNone>};
    constexpr Function kWith[] = {finish_with<Isa, 0, kFirst>, finish_with<Isa, 1, kFirst>,
                                  finish_with<Isa, 2, kFirst>, finish_with<Isa, 3, kFirst>};
    static_assert((kActivation | kTail) == 3, "two parts");
    const Plan& plan = *conv.plan;
    if (!conv.residual) {
        kWithout[plan.parts](conv, pixels, target);
    } else if (plan.residual_last) {
        finish_with<Isa, 3, Residual::kLast>(conv, pixels, target);
    } else {
        kWith[plan.parts](conv, pixels, target);
    }
}

// N vectors of some pixels, whose first is `first`.
template <class Isa, int N>
void compute_vectors(const Conv& conv, Pixels<Isa>& pixels, int64_t group, int64_t vector, int64_t first) {
    const Plan& plan = *conv.plan;
    const int64_t plane = conv.out_h * conv.out_w;
    Target target;
    target.within = vector * Isa::kLanes;
    target.padded_channel = group * plan.out_padded + target.within;
    target.channels = plan.out_group - target.within;
    target.stride = N * Isa::kLanes;
    target.first_pixel = first;
    target.channel = group * plan.out_group + target.within;
    target.out = conv.out_channels_last ? first * plan.c_out + target.channel
                                        : (first / plane * plan.c_out + target.channel) * plane + first % plane;
    if (conv.out_channels_last) prefetch_nhwc(conv, target.out, pixels.count, target.stride);
    if (plan.depthwise) {
        count_depthwise<Isa, N>(conv, target.within, pixels);
    } else {
        const char* weights = plan.at<char>(plan.weights) + (group * plan.vectors() + vector) * plan.vector_bytes();
        count_tiles<Isa, Isa::kPixels, N>(conv, weights, pixels, 0);
    }
    finish(conv, pixels, target);
}

// The signs that a block will set. It has words of its own: either all groups, or vectors that fill whole words.
inline void clear_signs(const Conv& conv, const Block& block) {
    const Plan& plan = *conv.plan;
    const int64_t words = plan.sign_words(), lanes = plan.lanes;
    int64_t first = 0, last = words;
    if (plan.groups == 1) {
        first = block.first_vector * lanes / kWordBits;
        if (block.last_vector * lanes < plan.c_out) last = block.last_vector * lanes / kWordBits;
    }
    for (int64_t p = block.first_pixel; p < block.last_pixel; ++p)
        for (int64_t word = first; word < last; ++word) conv.signs[p * words + word] = 0;
}

template <class Isa>
void compute_block(const Conv& conv, const Block& block) {
    const int64_t plane = conv.out_h * conv.out_w;
    if (conv.signs) clear_signs(conv, block);
    Pixels<Isa> pixels;
    for (int64_t first = block.first_pixel, next; first < block.last_pixel; first = next) {
        next = first + Pixels<Isa>::kMost;
        if (next > block.last_pixel) next = block.last_pixel;
        // in NCHW an image's pixels are not followed by the next one's
        const int64_t image_end = (first / plane + 1) * plane;
        if (!conv.out_channels_last && next > image_end) next = image_end;
        for (int64_t group = block.first_group; group < block.last_group; ++group) {
            pixels.locate(conv, group, first, next);
            int64_t vector = block.first_vector;
            for (; vector + Isa::kVectors <= block.last_vector; vector += Isa::kVectors)
                compute_vectors<Isa, Isa::kVectors>(conv, pixels, group, vector, first);
            for (; vector < block.last_vector; ++vector) compute_vectors<Isa, 1>(conv, pixels, group, vector, first);
        }
    }
}

// Isa::transpose in plain C++.
template <int kWidth>
REBNN_INLINE void transpose_square(float* square) {
    for (int i = 0; i < kWidth; ++i)
        for (int j = 0; j < i; ++j) {
            const float value = square[i * kWidth + j];
            square[i * kWidth + j] = square[j * kWidth + i];
            square[j * kWidth + i] = value;
        }
}

}  // namespace
}  // namespace rebnn
