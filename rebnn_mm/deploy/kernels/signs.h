// Signs of the input as bits, for any instruction set `Isa` (see isa_generic.cpp for what one offers).
#pragma once

#include <cstring>

#include "kernel.h"

namespace rebnn {
namespace {

// Where pixel `index` (counted through the batch) lies in the bordered buffer.
struct PixelCursor {
    PixelCursor(const Conv& conv, int64_t index) : conv(conv) {
        x = index % conv.w;
        y = index / conv.w % conv.h;
        image = index / conv.w / conv.h;
        locate();
    }

    void next() {
        out += conv.plan->pixel_words();
        if (++x < conv.w) return;
        x = 0;
        if (++y == conv.h) {
            y = 0;
            ++image;
        }
        locate();
    }

    const Conv& conv;
    int64_t image, y, x;
    uint32_t* out;

private:
    void locate() {
        const int64_t row = image * conv.padded_h + y + conv.plan->padding_h;
        out = conv.input_signs + (row * conv.padded_w + x + conv.plan->padding_w) * conv.plan->pixel_words();
    }
};

// A word of signs as the kernel reads it.
template <class Isa>
REBNN_INLINE void store_word(const Plan& plan, uint32_t* p, uint32_t word) {
    if (Isa::kWordSize == 1 || plan.word_size == 1) {
        *p = word;
    } else {
        Isa::spread_word(p, word);
    }
}

// What happens to the input before its sign; a null pointer leaves the step out.
struct InputParameters {
    explicit InputParameters(const Plan& plan)
        : shift(plan.at<float>(plan.shift)),
          scale(plan.at<float>(plan.input_scale)),
          offset(plan.at<float>(plan.input_offset)) {}
    const float *shift, *scale, *offset;
};

template <class Isa, bool kShift, bool kNorm>
struct SignsOfFloats {
    // The signs of kWordBits neighbouring channels from `channel` on.
    static REBNN_INLINE uint32_t whole_word(const float* x, const InputParameters& input, int64_t channel) {
        uint32_t bits = 0;
        REBNN_UNROLL
        for (int64_t i = 0; i < kWordBits; i += Isa::kWidth) {
            const int64_t at = channel + i;
            auto v = Isa::load(x + at);
            if (kShift) v = Isa::add(v, Isa::load(input.shift + at));
            if (kNorm) v = Isa::fma(v, Isa::load(input.scale + at), Isa::load(input.offset + at));
            bits |= Isa::sign_bits(v) << i;
        }
        return bits;
    }

    // The same of `count` < kWordBits channels; the other bits are 0.
    static uint32_t part_of_word(const float* x, const InputParameters& input, int64_t channel, int64_t count) {
        uint32_t bits = 0;
        for (int64_t i = 0; i < count; i += Isa::kWidth) {
            const int64_t left = count - i < Isa::kWidth ? count - i : Isa::kWidth, at = channel + i;
            auto v = Isa::load_partial(x + at, left);
            if (kShift) v = Isa::add(v, Isa::load_partial(input.shift + at, left));
            if (kNorm)
                v = Isa::fma(v, Isa::load_partial(input.scale + at, left), Isa::load_partial(input.offset + at, left));
            bits |= (Isa::sign_bits(v) & ((1u << left) - 1)) << i;
        }
        return bits;
    }

    static REBNN_INLINE uint32_t word(const float* x, const InputParameters& input, int64_t channel, int64_t count) {
        return count >= kWordBits ? whole_word(x, input, channel) : part_of_word(x, input, channel, count);
    }

    static void nhwc(const Conv& conv, int64_t first, int64_t last) {
        const Plan& plan = *conv.plan;
        const InputParameters input(plan);
        const int64_t groups = plan.groups, in_group = plan.in_group;
        // the second word of a pair becomes the xor of both, if Layout::word_pairs says so
        const uint32_t pairs = Isa::kWordPairs && plan.word_pairs ? ~0u : 0;
        PixelCursor pixel(conv, first);
        const float* x = conv.x + first * conv.x_pixel;
        for (int64_t p = first; p < last; ++p, pixel.next(), x += conv.x_pixel) {
            uint32_t* out = pixel.out;
            for (int64_t group = 0; group < groups; ++group) {
                const int64_t begin = group * in_group, end = begin + in_group;
                int64_t c = begin;
                for (; c + 2 * kWordBits <= end; c += 2 * kWordBits, out += 2 * plan.word_size) {
                    const uint32_t one = whole_word(x, input, c), two = whole_word(x, input, c + kWordBits);
                    store_word<Isa>(plan, out, one);
                    store_word<Isa>(plan, out + plan.word_size, two ^ (one & pairs));
                }
                for (uint32_t previous = 0; c < end; c += kWordBits, out += plan.word_size) {
                    const uint32_t bits = word(x, input, c, end - c);
                    store_word<Isa>(plan, out, bits ^ (previous & pairs));
                    previous = bits;
                }
            }
        }
    }

    // One word of channels for `count` <= kWidth neighbouring pixels, whose channels lie `plane` floats apart.
    static void pixel_words(const float* x, int64_t plane, const InputParameters& input, int64_t channel,
                            int64_t channels, int64_t count, uint32_t* words) {
        auto bits = Isa::zero();
        for (int64_t c = 0; c < channels; ++c) {
            auto v = count == Isa::kWidth ? Isa::load(x + c * plane) : Isa::load_partial(x + c * plane, count);
            if (kShift) v = Isa::add(v, Isa::broadcast(input.shift[channel + c]));
            if (kNorm)
                v = Isa::fma(v, Isa::broadcast(input.scale[channel + c]), Isa::broadcast(input.offset[channel + c]));
            bits = Isa::set_bit_if_sign(bits, v, 1u << c);
        }
        Isa::store_int(words, bits);
    }

    static void nchw(const Conv& conv, int64_t first, int64_t last) {
        const Plan& plan = *conv.plan;
        const InputParameters input(plan);
        const uint32_t pairs = Isa::kWordPairs && plan.word_pairs ? ~0u : 0;
        const int64_t plane = conv.h * conv.w;
        for (int64_t p = first; p < last;) {
            const PixelCursor start(conv, p);
            const int64_t in_plane = p % plane;
            int64_t count = last - p < Isa::kWidth ? last - p : Isa::kWidth;
            if (count > plane - in_plane) count = plane - in_plane;
            for (int64_t group = 0; group < plan.groups; ++group) {
                uint32_t words[Isa::kWidth], previous[Isa::kWidth] = {};
                for (int64_t word = 0; word < plan.words; ++word) {
                    const int64_t channel = group * plan.in_group + word * kWordBits;
                    const int64_t left = plan.in_group - word * kWordBits;
                    const float* x = conv.x + (start.image * plan.c_in + channel) * plane + in_plane;
                    pixel_words(x, plane, input, channel, left < kWordBits ? left : kWordBits, count, words);
                    PixelCursor pixel = start;
                    for (int64_t i = 0; i < count; ++i, pixel.next()) {
                        store_word<Isa>(plan, pixel.out + (group * plan.words + word) * plan.word_size,
                                        words[i] ^ (word % 2 ? previous[i] & pairs : 0));
                        previous[i] = words[i];
                    }
                }
            }
            p += count;
        }
    }
};

// Whole words that the kernel reads as they come: the pixels of a row at once.
inline void copy_words(const Conv& conv, int64_t first, int64_t last) {
    const int64_t words = conv.plan->words;
    for (int64_t p = first, count; p < last; p += count) {
        const PixelCursor pixel(conv, p);
        count = last - p < conv.w - pixel.x ? last - p : conv.w - pixel.x;
        std::memcpy(pixel.out, conv.x_signs + p * words, size_t(count * words) * 4);
    }
}

// Signs that come as bits, into the layout of the kernel.
template <class Isa>
void copy_signs(const Conv& conv, int64_t first, int64_t last) {
    const Plan& plan = *conv.plan;
    const bool changed = (Isa::kWordPairs && plan.word_pairs) || plan.word_size != 1;
    if (plan.groups == 1 && plan.c_in % kWordBits == 0 && !changed) return copy_words(conv, first, last);
    const uint32_t pairs = Isa::kWordPairs && plan.word_pairs ? ~0u : 0;
    const int64_t pixel_words = (plan.c_in + kWordBits - 1) / kWordBits;
    PixelCursor pixel(conv, first);
    const uint32_t* in = conv.x_signs + first * pixel_words;
    for (int64_t p = first; p < last; ++p, pixel.next(), in += pixel_words) {
        uint32_t* out = pixel.out;
        for (int64_t group = 0; group < plan.groups; ++group) {
            uint32_t previous = 0;
            for (int64_t word = 0; word < plan.words; ++word, out += plan.word_size) {
                const int64_t start = group * plan.in_group + word * kWordBits;
                const int64_t left = plan.in_group - word * kWordBits;
                const int64_t at = start / kWordBits, shift = start % kWordBits;
                uint32_t bits = in[at] >> shift;
                if (shift && at + 1 < pixel_words) bits |= in[at + 1] << (kWordBits - shift);
                if (left < kWordBits) bits &= (1u << left) - 1;
                store_word<Isa>(plan, out, bits ^ (word % 2 ? previous & pairs : 0));
                previous = bits;
            }
        }
    }
}

template <class Isa, bool kShift, bool kNorm>
void signs_of_floats(const Conv& conv, int64_t first, int64_t last) {
    using Signs = SignsOfFloats<Isa, kShift, kNorm>;
    conv.x_channels_last ? Signs::nhwc(conv, first, last) : Signs::nchw(conv, first, last);
}

template <class Isa>
void take_signs(const Conv& conv, int64_t first, int64_t last) {
    const bool shift = conv.plan->shift != 0, norm = conv.plan->input_scale != 0;
    if (conv.x_signs) {
        copy_signs<Isa>(conv, first, last);
    } else if (shift && norm) {
        signs_of_floats<Isa, true, true>(conv, first, last);
    } else if (shift) {
        signs_of_floats<Isa, true, false>(conv, first, last);
    } else if (norm) {
        signs_of_floats<Isa, false, true>(conv, first, last);
    } else {
        signs_of_floats<Isa, false, false>(conv, first, last);
    }
}

}  // namespace
}  // namespace rebnn
