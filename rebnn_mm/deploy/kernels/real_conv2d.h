// A real-valued convolution with norm and clamp, for any instruction set `Isa` (see isa_generic.cpp).
#pragma once

#include "kernel.h"

namespace rebnn {
namespace {

// P pixels times N vectors of channels; the first pixel's window starts at x, its neighbours' `step` floats further each.
template <class Isa, int P, int N>
struct RealTile {
    using Vec = typename Isa::Vec;

    // Add the products of `count` neighbouring floats of each window; returns the weights behind them.
    static REBNN_INLINE const float* add(Vec (&sum)[P][N], const float* x, int64_t step, int64_t count,
                                         const float* weight) {
        for (int64_t k = 0; k < count; ++k, weight += kRealBlock) {
            Vec w[N];
            REBNN_UNROLL
            for (int v = 0; v < N; ++v) w[v] = Isa::load(weight + v * Isa::kWidth);
            REBNN_UNROLL
            for (int p = 0; p < P; ++p) {
                const Vec value = Isa::broadcast(x[p * step + k]);
                REBNN_UNROLL
                for (int v = 0; v < N; ++v) sum[p][v] = Isa::fma(value, w[v], sum[p][v]);
            }
        }
        return weight;
    }

    static REBNN_INLINE void clear(Vec (&sum)[P][N]) {
        REBNN_UNROLL
        for (int p = 0; p < P; ++p) {
            REBNN_UNROLL
            for (int v = 0; v < N; ++v) sum[p][v] = Isa::broadcast(0.f);
        }
    }

    // Products are added by fma, taps row by row, channels innermost.
    static REBNN_INLINE void all(const RealConv& conv, Vec (&sum)[P][N], const float* x, int64_t step,
                                 const float* weight) {
        clear(sum);
        const int64_t run = conv.kernel_w * conv.c_in, row = conv.padded_w * conv.c_in;
        for (int64_t ky = 0; ky < conv.kernel_h; ++ky, x += row) weight = add(sum, x, step, run, weight);
    }

    // The same of a 1x1 kernel, in chunks of channels that are added up each by itself.
    static void chunks(const RealConv& conv, Vec (&sum)[P][N], const float* x, int64_t step, const float* weight) {
        Vec total[P][N];
        for (int64_t c = 0; c < conv.c_in; c += conv.chunk) {
            clear(sum);
            weight = add(sum, x + c, step, c + conv.chunk < conv.c_in ? conv.chunk : conv.c_in - c, weight);
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < N; ++v) total[p][v] = c ? Isa::add(total[p][v], sum[p][v]) : sum[p][v];
        }
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < N; ++v) sum[p][v] = total[p][v];
    }

    // `last` channels of the last vector are there; `out` is the first pixel's first channel.
    static REBNN_INLINE void run(const RealConv& conv, const float* x, int64_t step, const float* weight,
                                 int64_t channel, int64_t last, float* out) {
        Vec sum[P][N];
        if (conv.chunk < conv.c_in) {
            chunks(conv, sum, x, step, weight);
        } else {
            all(conv, sum, x, step, weight);
        }
        const Vec low = Isa::broadcast(conv.clamp_low), high = Isa::broadcast(conv.clamp_high);
        REBNN_UNROLL
        for (int v = 0; v < N; ++v) {
            const int64_t at = channel + v * Isa::kWidth;
            const bool whole = v + 1 < N || last == Isa::kWidth;
            if (!conv.scale) {
                REBNN_UNROLL
                for (int p = 0; p < P; ++p) {
                    float* to = out + p * conv.c_out + v * Isa::kWidth;
                    whole ? Isa::store(to, sum[p][v]) : Isa::store_partial(to, last, sum[p][v]);
                }
                continue;
            }
            const Vec scale = whole ? Isa::load(conv.scale + at) : Isa::load_partial(conv.scale + at, last);
            const Vec offset = whole ? Isa::load(conv.offset + at) : Isa::load_partial(conv.offset + at, last);
            REBNN_UNROLL
            for (int p = 0; p < P; ++p) {
                float* to = out + p * conv.c_out + v * Isa::kWidth;
                const Vec y = Isa::at_most(Isa::at_least(Isa::fma(sum[p][v], scale, offset), low), high);
                whole ? Isa::store(to, y) : Isa::store_partial(to, last, y);
            }
        }
    }
};

// `count` neighbouring pixels in tiles of P and one smaller.
template <class Isa, int P, int N>
void real_tiles(const RealConv& conv, const float* x, int64_t step, int64_t count, const float* weight, int64_t channel,
                int64_t last, float* out) {
    for (; count >= P; count -= P, x += P * step, out += P * conv.c_out)
        RealTile<Isa, P, N>::run(conv, x, step, weight, channel, last, out);
    if constexpr (P > 1) {
        if (count) real_tiles<Isa, P - 1, N>(conv, x, step, count, weight, channel, last, out);
    }
}

// Output pixels [first, last) of an output row and the channels of a block, to `out`: the row's first pixel. `x` is the
// first float of the row's first window.
template <class Isa>
void real_pixels(const RealConv& conv, const float* x, int64_t first, int64_t last, int64_t block, float* out) {
    const int64_t step = conv.stride * conv.c_in;
    const float* weights = conv.weight + block * kRealBlock * conv.kernel_h * conv.kernel_w * conv.c_in;
    const int64_t begin = block * kRealBlock, end = begin + kRealBlock < conv.c_out ? begin + kRealBlock : conv.c_out;
    x += first * step;
    for (int64_t channel = begin, vectors; channel < end; channel += vectors * Isa::kWidth) {
        const int64_t left = (end - channel + Isa::kWidth - 1) / Isa::kWidth;
        vectors = left >= Isa::kRealVectors ? Isa::kRealVectors : left >= 2 ? 2 : 1;
        const int64_t rest = end - channel - (vectors - 1) * Isa::kWidth;
        const int64_t partial = rest < Isa::kWidth ? rest : Isa::kWidth;
        float* to = out + first * conv.c_out + channel;
        const auto tiles = vectors == Isa::kRealVectors ? real_tiles<Isa, Isa::kRealPixels, Isa::kRealVectors>
                           : vectors == 2               ? real_tiles<Isa, Isa::kRealPixels, 2>
                                                        : real_tiles<Isa, Isa::kRealPixels, 1>;
        tiles(conv, x, step, last - first, weights + channel - begin, channel, partial, to);
    }
}

}  // namespace
}  // namespace rebnn
