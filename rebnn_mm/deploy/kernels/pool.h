// Max-pool and the norm behind it in one pass, for any instruction set `Isa` (see isa_generic.cpp for what one offers).
#pragma once

#include "kernel.h"

namespace rebnn {
namespace {

// One vector of channels: the maximum over a window whose first pixel is at `corner`, then the norm. torch's order over
// a window (rows, then columns) decides which of +0.0 and -0.0 is kept.
template <class Isa, class Load>
REBNN_INLINE typename Isa::Vec pool_window(const Pool& pool, const PoolWindow& rows, const PoolWindow& columns,
                                           const float* corner, int64_t channel, const Load& load) {
    const float* row = corner + channel;
    auto largest = load(row), sum = largest;
    for (int64_t ky = 0; ky < rows.count; ++ky, row += pool.w * pool.c)
        for (int64_t kx = 0; kx < columns.count; ++kx) {
            const auto value = load(row + kx * pool.c);
            largest = Isa::larger(largest, value);
            sum = Isa::add(sum, value);
        }
    if (Isa::has_nan(sum)) {  // perhaps a NaN among them, which must win
        row = corner + channel;
        for (int64_t ky = 0; ky < rows.count; ++ky, row += pool.w * pool.c)
            for (int64_t kx = 0; kx < columns.count; ++kx)
                largest = kx + ky ? Isa::max(largest, load(row + kx * pool.c)) : load(row);
    }
    const auto y = Isa::fma(largest, load(pool.scale + channel), load(pool.offset + channel));
    return Isa::at_most(Isa::at_least(y, Isa::broadcast(pool.clamp_low)), Isa::broadcast(pool.clamp_high));
}

template <class Isa>
void pool_pixels(const Pool& pool, int64_t first, int64_t last) {
    const int64_t whole = pool.c - pool.c % Isa::kWidth, left = pool.c - whole;
    for (int64_t pixel = first; pixel < last; ++pixel) {
        const int64_t x = pixel % pool.out_w, y = pixel / pool.out_w % pool.out_h;
        const int64_t image = pixel / pool.out_w / pool.out_h;
        const PoolWindow rows(y, pool.h), columns(x, pool.w);
        const float* corner = pool.x + ((image * pool.h + rows.first) * pool.w + columns.first) * pool.c;
        float* out = pool.out + pixel * pool.c;
        for (int64_t channel = 0; channel < whole; channel += Isa::kWidth) {
            const auto load = [](const float* p) { return Isa::load(p); };
            Isa::store(out + channel, pool_window<Isa>(pool, rows, columns, corner, channel, load));
        }
        if (left) {
            const auto load = [&](const float* p) { return Isa::load_partial(p, left); };
            Isa::store_partial(out + whole, left, pool_window<Isa>(pool, rows, columns, corner, whole, load));
        }
    }
}

}  // namespace
}  // namespace rebnn
