// From bit counts to finished floats, for any instruction set `Isa` (see isa_generic.cpp for what one offers).
#pragma once

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
    const uint32_t* fields[kMost];      // first packed word of the receptive field, in the group
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
            const uint32_t* field = conv.packed + row + x * step + group * plan.group_words();
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

// A depthwise layer's counts, N vectors of channels from `channel` on: bits of 32 channels are added up side by side, the
// i-th binary digit of all 32 sums in word i of `digits`.
template <class Isa, int N>
void count_depthwise(const Conv& conv, int64_t channel, Pixels<Isa>& pixels) {
    constexpr int kMostDigits = 24;  // as many as a plan's products() may have
    const Plan& plan = *conv.plan;
    const int64_t taps = plan.taps(), words = plan.words, lanes = N * Isa::kLanes;
    for (int64_t at = 0; at < lanes && channel + at < plan.c_out;) {
        const int64_t word = (channel + at) / kWordBits, bit = (channel + at) % kWordBits;
        const int64_t count = lanes - at < kWordBits - bit ? lanes - at : kWordBits - bit;
        const uint32_t* weights = plan.at<uint32_t>(plan.weights) + word;
        for (int64_t p = 0; p < pixels.count; ++p) {
            uint32_t digits[kMostDigits + 1] = {};
            int64_t known = 0;  // digits so far
            for (int64_t tap = 0; tap < taps; ++tap) {
                uint32_t carry = pixels.fields[p][conv.offsets[tap * words + word]] ^ weights[tap * words];
                if (tap >> known) ++known;
                for (int64_t i = 0; i <= known; ++i) {
                    const uint32_t next = digits[i] & carry;
                    digits[i] ^= carry;
                    carry = next;
                }
            }
            uint32_t* counts = pixels.counts + p * lanes + at;
            for (int64_t i = 0; i < count; ++i) counts[i] = digits[0] >> (bit + i) & 1;
            for (int64_t digit = 1; digit <= known; ++digit)
                for (int64_t i = 0; i < count; ++i) counts[i] += (digits[digit] >> (bit + i) & 1) << digit;
        }
        at += count;
    }
}

// The float steps; their order is the training layers', bit for bit. `Isa::kWidth` neighbouring channels share
// one pixel, or neighbouring pixels one channel, whose parameters are broadcast then.
template <class Isa>
struct Finish {
    using Vec = typename Isa::Vec;

    template <class At>
    REBNN_INLINE Finish(const Conv& conv, const At& at)
        : steps(conv.plan->steps),
          alpha(at(kAlphaRow)),
          bias(at(kBiasRow)),
          scale(at(kScaleRow)),
          offset(at(kOffsetRow)),
          before(at(kBeforeRow)),
          slope(at(kSlopeRow)),
          after(at(kAfterRow)),
          low(Isa::broadcast(conv.plan->clamp_low)),
          high(Isa::broadcast(conv.plan->clamp_high)),
          last_scale(at(kLastScaleRow)),
          last_offset(at(kLastOffsetRow)) {}

    template <class Load>
    REBNN_INLINE Vec operator()(Vec y, const float* residual, const Load& load) const {
        y = Isa::mul(y, alpha);
        if (steps & kBias) y = Isa::add(y, bias);
        if (steps & kNorm) y = Isa::fma(y, scale, offset);
        if (residual && !(steps & kResidualLast)) y = Isa::add(y, load(residual));
        if (steps & kBefore) y = Isa::add(y, before);
        if (steps & kSlope) y = Isa::prelu(y, slope);
        if (steps & kAfter) y = Isa::add(y, after);
        if (steps & kClamp) y = Isa::at_most(Isa::at_least(y, low), high);
        if (steps & kLastNorm) y = Isa::fma(y, last_scale, last_offset);
        if (residual && steps & kResidualLast) y = Isa::add(y, load(residual));
        return y;
    }

    const int32_t steps;
    const Vec alpha, bias, scale, offset, before, slope, after, low, high, last_scale, last_offset;
};

// The steps of the next layer in front of its sign.
template <class Isa>
struct Sign {
    using Vec = typename Isa::Vec;

    template <class At>
    REBNN_INLINE Sign(const Conv& conv, const At& at)
        : steps(conv.plan->steps), shift(at(kSignShiftRow)), scale(at(kSignScaleRow)), offset(at(kSignOffsetRow)) {}

    REBNN_INLINE uint32_t operator()(Vec y) const {
        if (steps & kSignShift) y = Isa::add(y, shift);
        if (steps & kSignNorm) y = Isa::fma(y, scale, offset);
        return Isa::sign_bits(y);
    }

    const int32_t steps;
    const Vec shift, scale, offset;
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

// One vector of `channels` channels, `at` channels behind the target's first, of every pixel. Everything that the loop
// needs is in local variables: stores of floats might change what the references refer to, for all the compiler knows.
template <class Isa, bool kFloats, bool kSigns, class Load, class Store>
REBNN_INLINE void finish_channels(const Conv& conv, const Pixels<Isa>& pixels, const Target& target, int64_t at,
                                  int64_t channels, const Load& load, const Store& store) {
    const Plan& plan = *conv.plan;
    const auto row = [&](Row which) { return Isa::load(plan.row(which) + target.padded_channel + at); };
    const Finish<Isa> finish(conv, row);
    const Sign<Isa> sign(conv, row);
    const int64_t count = pixels.count, stride = target.stride, c_out = plan.c_out;
    const int64_t channel = target.channel + at, sign_words = plan.sign_words();
    const uint32_t* counts = pixels.counts + at;
    const uint32_t valid = channels < kWordBits ? (1u << channels) - 1 : ~0u;
    uint32_t* signs = kSigns ? conv.signs + target.first_pixel * sign_words : nullptr;
    float* out = kFloats ? conv.out + target.out + at : nullptr;
    const float* residual = conv.residual ? conv.residual + target.out + at : nullptr;
    const int64_t residual_step = residual ? c_out : 0;
    for (int64_t p = 0; p < count; ++p, counts += stride, residual += residual_step) {
        const auto y = finish(Isa::result(pixels.corrections[p] + target.within + at, counts), residual, load);
        if constexpr (kFloats) {
            store(out, y);
            out += c_out;
        }
        if constexpr (kSigns) {
            set_bits(signs, channel, sign(y) & valid);
            signs += sign_words;
        }
    }
}

template <class Isa, bool kFloats, bool kSigns>
void finish_nhwc(const Conv& conv, const Pixels<Isa>& pixels, const Target& target) {
    using Vec = typename Isa::Vec;
    for (int64_t at = 0; at < target.stride && at < target.channels; at += Isa::kWidth) {
        const int64_t left = target.channels - at;
        if (left >= Isa::kWidth) {
            finish_channels<Isa, kFloats, kSigns>(
                conv, pixels, target, at, Isa::kWidth, [](const float* from) { return Isa::load(from); },
                [](float* to, Vec y) { Isa::store(to, y); });
        } else {
            finish_channels<Isa, kFloats, kSigns>(
                conv, pixels, target, at, left, [&](const float* from) { return Isa::load_partial(from, left); },
                [&](float* to, Vec y) { Isa::store_partial(to, left, y); });
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
template <class Isa>
void finish_nchw(const Conv& conv, const Pixels<Isa>& pixels, const Target& target) {
    constexpr int kWidth = Isa::kWidth;
    const Plan& plan = *conv.plan;
    const int64_t plane = conv.out_h * conv.out_w;
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
                const Finish<Isa> finish(conv, [&](Row which) { return Isa::broadcast(plan.row(which)[channel]); });
                const int64_t out = target.out + (at + c) * plane + p;
                const auto load = [&](const float* from) { return Isa::load_partial(from, left); };
                const float* residual = conv.residual ? conv.residual + out : nullptr;
                Isa::store_partial(conv.out + out, left, finish(Isa::load(square + c * kWidth), residual, load));
            }
        }
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
    if (!conv.signs) {
        conv.out_channels_last ? finish_nhwc<Isa, true, false>(conv, pixels, target)
                               : finish_nchw(conv, pixels, target);
    } else if (conv.out) {
        finish_nhwc<Isa, true, true>(conv, pixels, target);
    } else {
        finish_nhwc<Isa, false, true>(conv, pixels, target);
    }
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
