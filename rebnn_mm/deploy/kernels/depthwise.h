// A real-valued depthwise convolution with norm and clamp, for any instruction set `Isa` (see isa_generic.cpp).
#pragma once

#include "kernel.h"

namespace rebnn {
namespace {

// Taps [first, last) of a kernel that lie inside `in` positions, for the window that starts at `start`.
struct Taps {
    REBNN_INLINE Taps(int64_t start, int64_t in, int64_t kernel, int64_t dilation) : first(0), last(kernel) {
        while (first < kernel && start + first * dilation < 0) ++first;
        while (last > first && start + (last - 1) * dilation >= in) --last;
    }
    int64_t first, last;
};

// One vector of channels at P neighbouring output pixels, the first of whose windows starts at column `left`.
// Products are added by fma in the order of the taps, rows first; taps in the padding are left out.
template <class Isa, int P, class Load, class Store>
REBNN_INLINE void depthwise_pixels(const Depthwise& d, const float* image, int64_t top, int64_t left, const Taps& rows,
                                   const Taps& columns, int64_t channel, float* out, const Load& load,
                                   const Store& store) {
    typename Isa::Vec sum[P];
    REBNN_UNROLL
    for (int p = 0; p < P; ++p) sum[p] = d.start ? load(d.start + channel) : Isa::broadcast(0.f);
    for (int64_t ky = rows.first; ky < rows.last; ++ky) {
        const float* row = image + ((top + ky * d.dilation) * d.w + left) * d.c + channel;
        const float* weight = d.weight + ky * d.kernel_w * d.c + channel;
        for (int64_t kx = columns.first; kx < columns.last; ++kx) {
            const auto w = load(weight + kx * d.c);
            const float* x = row + kx * d.dilation * d.c;
            REBNN_UNROLL
            for (int p = 0; p < P; ++p) sum[p] = Isa::fma(load(x + p * d.stride * d.c), w, sum[p]);
        }
    }
    const auto scale = load(d.scale + channel), offset = load(d.offset + channel);
    const auto low = Isa::broadcast(d.clamp_low), high = Isa::broadcast(d.clamp_high);
    REBNN_UNROLL
    for (int p = 0; p < P; ++p)
        store(out + p * d.c + channel, Isa::at_most(Isa::at_least(Isa::fma(sum[p], scale, offset), low), high));
}

// One vector of channels of a whole output row.
template <class Isa, class Load, class Store>
REBNN_INLINE void depthwise_row(const Depthwise& d, const float* image, int64_t y, int64_t channel, float* out,
                                const Load& load, const Store& store) {
    constexpr int kPixels = 4;
    const int64_t top = y * d.stride - d.padding, span = d.dilation * (d.kernel_w - 1);
    const Taps rows(top, d.h, d.kernel_h, d.dilation);
    for (int64_t x = 0; x < d.out_w;) {
        const int64_t left = x * d.stride - d.padding;
        const bool inside = left >= 0 && left + (kPixels - 1) * d.stride + span < d.w && x + kPixels <= d.out_w;
        const Taps columns(left, d.w, d.kernel_w, d.dilation);
        float* target = out + x * d.c;
        if (inside) {
            depthwise_pixels<Isa, kPixels>(d, image, top, left, rows, columns, channel, target, load, store);
            x += kPixels;
        } else {
            depthwise_pixels<Isa, 1>(d, image, top, left, rows, columns, channel, target, load, store);
            ++x;
        }
    }
}

template <class Isa>
void depthwise_rows(const Depthwise& d, int64_t first, int64_t last) {
    using Vec = typename Isa::Vec;
    const int64_t whole = d.c - d.c % Isa::kWidth, left = d.c - whole;
    for (int64_t row = first; row < last; ++row) {
        const float* image = d.x + row / d.out_h * d.h * d.w * d.c;
        const int64_t y = row % d.out_h;
        float* out = d.out + row * d.out_w * d.c;
        for (int64_t channel = 0; channel < whole; channel += Isa::kWidth)
            depthwise_row<Isa>(
                d, image, y, channel, out, [](const float* p) { return Isa::load(p); },
                [](float* p, Vec v) { Isa::store(p, v); });
        if (left)
            depthwise_row<Isa>(
                d, image, y, whole, out, [&](const float* p) { return Isa::load_partial(p, left); },
                [&](float* p, Vec v) { Isa::store_partial(p, left, v); });
    }
}

}  // namespace
}  // namespace rebnn
