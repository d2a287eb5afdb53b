// The elementwise steps around a 1-bit convolution that trains, and their gradients, for maps (n, c, plane) in float32:
//
//     z = count * scale + offset + shortcut;  out = (z > 0 ? z : z * slope) + after
//
// `count` is the integer convolution, scale and offset hold alpha, the batch norm and the shift in front of the slope. The
// loops are plain: compiled with each file's instruction set, they become vectors of it.
#pragma once

#include <cmath>
#include <cstring>

#include "kernel.h"

namespace rebnn {
namespace {

// Elements of one step; sums are kept in so many parts. gcc unrolls loops of 16 before it could make vectors of them.
constexpr int kChunk = 64;

template <int kSize>
struct Fixed {
    REBNN_INLINE constexpr operator int() const { return kSize; }
};

// body(i, count) for all i in steps of kChunk; a whole step's count is known to the compiler.
template <class Body>
REBNN_INLINE void in_chunks(int64_t size, const Body& body) {
    int64_t i = 0;
    for (; i + kChunk <= size; i += kChunk) body(i, Fixed<kChunk>());
    if (i < size) body(i, int(size - i));
}

template <class T>
struct Sum {
    T parts[kChunk] = {};
    double total() const {
        double sum = 0;
        for (T part : parts) sum += double(part);
        return sum;
    }
};

// z in 8 bits: its sign, 4 bits of exponent and 3 of mantissa, rounded. Magnitudes below 2^-8 become that, those above
// 240 = 15 * 2^4 become that.
constexpr int32_t kCodeBase = (127 - 8) << 3;
REBNN_INLINE uint8_t short_code(float z) {
    uint32_t bits;  // unsigned: the largest NaN is as large as an int32_t
    std::memcpy(&bits, &z, 4);
    int32_t code = int32_t(((bits & 0x7fffffff) + 0x80000) >> 20) - kCodeBase;
    code = code < 0 ? 0 : code;
    code = code > 127 ? 127 : code;
    return uint8_t(code | (z > 0 ? 128 : 0));
}
template <class Count>
REBNN_INLINE void store_codes(const float* z, Count count, uint8_t* out) {
    uint8_t code[kChunk];  // of its own: bytes may be part of anything, for all the compiler knows
    for (int l = 0; l < count; ++l) code[l] = short_code(z[l]);
    std::memcpy(out, code, size_t(int(count)));
}
REBNN_INLINE float short_value(uint8_t code) {
    const int32_t bits = ((code & 127) + kCodeBase) << 20;
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    return code & 128 ? magnitude : -magnitude;
}

// Integers that come as floats into 16 bits, and the sums of them and of their squares.
void unit_counts(const Unit& u, int64_t channel) {
    double sum = 0, squares = 0;
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        const float* y = u.values + at;
        int16_t* counts = u.counts_out + at;
        Sum<double> s, q;  // of integers, so exact
        in_chunks(u.plane, [&](int64_t i, auto count) REBNN_INLINE_LAMBDA {
            for (int l = 0; l < count; ++l) {
                const float v = y[i + l];
                counts[i + l] = int16_t(int32_t(v));
                s.parts[l] += double(v);
                q.parts[l] += double(v) * double(v);
            }
        });
        sum += s.total();
        squares += q.total();
    }
    u.sums[channel] = sum;
    u.sums[u.c + channel] = squares;
}

template <bool kShortcut, bool kCode>
void unit_forward_with(const Unit& u, int64_t channel) {
    const float scale = u.scale[channel], offset = u.offset[channel];
    const float slope = u.slope ? u.slope[channel] : 1.f, after = u.after ? u.after[channel] : 0.f;
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        const int16_t* counts = u.counts + at;
        const float* shortcut = kShortcut ? u.shortcut + at : nullptr;
        uint8_t* code = kCode ? u.code_out + at : nullptr;
        float* out = u.out + at;
        in_chunks(u.plane, [=](int64_t i, auto count) REBNN_INLINE_LAMBDA {
            float z[kChunk];
            for (int l = 0; l < count; ++l) {
                z[l] = float(counts[i + l]) * scale + offset;
                if (kShortcut) z[l] += shortcut[i + l];
            }
            for (int l = 0; l < count; ++l) out[i + l] = (z[l] > 0 ? z[l] : z[l] * slope) + after;
            if (kCode) store_codes(z, count, code + i);
        });
    }
}

void unit_forward(const Unit& u, int64_t channel) {
    if (u.code_out) {
        u.shortcut ? unit_forward_with<true, true>(u, channel) : unit_forward_with<false, true>(u, channel);
    } else {
        u.shortcut ? unit_forward_with<true, false>(u, channel) : unit_forward_with<false, false>(u, channel);
    }
}

// dL/dz into `out`, and the sums of dL/dout, of dL/dout * z where z <= 0, of dL/dz and of dL/dz * count.
template <bool kShortcut, bool kCode>
void unit_backward_with(const Unit& u, int64_t channel) {
    const float scale = u.scale[channel], offset = u.offset[channel], slope = u.slope ? u.slope[channel] : 1.f;
    double sums[4] = {};
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        const float* grad = u.values + at;
        const int16_t* counts = u.counts + at;
        const float* shortcut = kShortcut ? u.shortcut + at : nullptr;
        const uint8_t* code = kCode ? u.code + at : nullptr;
        float* out = u.out + at;
        Sum<float> of_grad, of_slope, of_z, of_count;
        in_chunks(u.plane, [&, grad, counts, shortcut, code, out](int64_t i, auto count) REBNN_INLINE_LAMBDA {
            // loops of one step each, into arrays of their own, become vectors; one loop of all does not
            float z[kChunk], gz[kChunk], n[kChunk], negative[kChunk];
            for (int l = 0; l < count; ++l) n[l] = float(counts[i + l]);
            if (kCode) {
                for (int l = 0; l < count; ++l) z[l] = short_value(code[i + l]);
            } else {
                for (int l = 0; l < count; ++l) {
                    z[l] = n[l] * scale + offset;
                    if (kShortcut) z[l] += shortcut[i + l];
                }
            }
            for (int l = 0; l < count; ++l) gz[l] = grad[i + l] * (z[l] > 0 ? 1.f : slope);
            for (int l = 0; l < count; ++l) negative[l] = grad[i + l] * (z[l] > 0 ? 0.f : z[l]);
            for (int l = 0; l < count; ++l) of_grad.parts[l] += grad[i + l];
            for (int l = 0; l < count; ++l) of_slope.parts[l] += negative[l];
            for (int l = 0; l < count; ++l) of_z.parts[l] += gz[l];
            for (int l = 0; l < count; ++l) of_count.parts[l] += gz[l] * n[l];
            std::memcpy(out + i, gz, size_t(int(count)) * sizeof(float));
        });
        sums[0] += of_grad.total();
        sums[1] += of_slope.total();
        sums[2] += of_z.total();
        sums[3] += of_count.total();
    }
    for (int k = 0; k < 4; ++k) u.sums[k * u.c + channel] = sums[k];
}

void unit_backward(const Unit& u, int64_t channel) {
    if (u.code) {
        unit_backward_with<false, true>(u, channel);
    } else {
        u.shortcut ? unit_backward_with<true, false>(u, channel) : unit_backward_with<false, false>(u, channel);
    }
}

// out = values * scale + counts * slope + offset: the gradient through a batch norm.
void unit_norm(const Unit& u, int64_t channel) {
    const float scale = u.scale[channel], offset = u.offset[channel], slope = u.slope[channel];
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        const float* values = u.values + at;
        const int16_t* counts = u.counts + at;
        float* out = u.out + at;
        in_chunks(u.plane, [&](int64_t i, auto count) REBNN_INLINE_LAMBDA {
            for (int l = 0; l < count; ++l)
                out[i + l] = values[i + l] * scale + float(counts[i + l]) * slope + offset;
        });
    }
}

// The slope of an estimator at x, times 1 or, as a code, in steps of peak / 127.
template <bool kPolynomial>
REBNN_INLINE float estimator_slope(float x) {
    const float size = std::fabs(x);
    const float slope = 2 - 2 * size;
    if (kPolynomial) return slope > 0 ? slope : 0.f;
    return size <= 1 ? 1.f : 0.f;
}

// The signs of values + offset as -scale and scale, or -1 and 1; of codes, those that these hold.
void unit_signs(const Unit& u, int64_t channel) {
    const float shift = u.offset ? u.offset[channel] : 0.f, one = u.scale ? u.scale[channel] : 1.f;
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        float* out = u.out + at;
        if (u.code) {
            const uint8_t* code = u.code + at;
            for (int64_t i = 0; i < u.plane; ++i) out[i] = code[i] & 128 ? one : -one;
        } else {
            const float* values = u.values + at;
            for (int64_t i = 0; i < u.plane; ++i) out[i] = values[i] + shift >= 0 ? one : -one;
        }
    }
}

// Sign and slope of values + offset in a byte.
template <bool kPolynomial>
void unit_encode_with(const Unit& u, int64_t channel) {
    const float shift = u.offset ? u.offset[channel] : 0.f, steps = kPolynomial ? 63.5f : 127.f;
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        const float* values = u.values + at;
        uint8_t* code = u.code_out + at;
        in_chunks(u.plane, [=](int64_t i, auto count) REBNN_INLINE_LAMBDA {
            float x[kChunk], slope[kChunk];
            int32_t positive[kChunk], number[kChunk];
            uint8_t bytes[kChunk];
            for (int l = 0; l < count; ++l) x[l] = values[i + l] + shift;
            for (int l = 0; l < count; ++l) slope[l] = estimator_slope<kPolynomial>(x[l]);
            for (int l = 0; l < count; ++l) number[l] = int32_t(slope[l] * steps + 0.5f);
            for (int l = 0; l < count; ++l) positive[l] = x[l] >= 0 ? 128 : 0;
            for (int l = 0; l < count; ++l) bytes[l] = uint8_t(number[l] | positive[l]);
            std::memcpy(code + i, bytes, size_t(int(count)));
        });
    }
}

void unit_encode(const Unit& u, int64_t channel) {
    u.polynomial ? unit_encode_with<true>(u, channel) : unit_encode_with<false>(u, channel);
}

// out = values * slope of the sign + shortcut, whose input is x + offset or a code; the sums of values * slope.
template <bool kPolynomial, bool kShortcut, bool kCode>
void unit_input_with(const Unit& u, int64_t channel) {
    const float shift = u.offset ? u.offset[channel] : 0.f, step = kPolynomial ? 2.f / 127 : 1.f / 127;
    double sum = 0;
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        const float* values = u.values + at;
        const float* x = kCode ? nullptr : u.x + at;
        const uint8_t* code = kCode ? u.code + at : nullptr;
        const float* shortcut = kShortcut ? u.shortcut + at : nullptr;
        float* out = u.out + at;
        Sum<float> s;
        in_chunks(u.plane, [&](int64_t i, auto count) REBNN_INLINE_LAMBDA {
            for (int l = 0; l < count; ++l) {
                const float slope =
                    kCode ? float(code[i + l] & 127) * step : estimator_slope<kPolynomial>(x[i + l] + shift);
                const float g = values[i + l] * slope;
                s.parts[l] += g;
                out[i + l] = kShortcut ? g + shortcut[i + l] : g;
            }
        });
        sum += s.total();
    }
    u.sums[channel] = sum;
}

template <bool kPolynomial>
void unit_input_of(const Unit& u, int64_t channel) {
    if (u.code) {
        u.shortcut ? unit_input_with<kPolynomial, true, true>(u, channel)
                   : unit_input_with<kPolynomial, false, true>(u, channel);
    } else {
        u.shortcut ? unit_input_with<kPolynomial, true, false>(u, channel)
                   : unit_input_with<kPolynomial, false, false>(u, channel);
    }
}

void unit_input(const Unit& u, int64_t channel) {
    u.polynomial ? unit_input_of<true>(u, channel) : unit_input_of<false>(u, channel);
}

// From dL/dw_hat of an output channel: out = values * scale where the weight x lies within 1; the sum of values * sign(x).
void unit_weight(const Unit& u, int64_t channel) {
    const float factor = u.scale[channel];
    double sum = 0;
    for (int64_t image = 0; image < u.n; ++image) {
        const int64_t at = (image * u.c + channel) * u.plane;
        const float* values = u.values + at;
        const float* x = u.x + at;
        float* out = u.out + at;
        Sum<float> s;
        in_chunks(u.plane, [&, values, x, out](int64_t i, auto count) REBNN_INLINE_LAMBDA {
            float g[kChunk];
            for (int l = 0; l < count; ++l) g[l] = values[i + l];
            for (int l = 0; l < count; ++l) s.parts[l] += x[i + l] >= 0 ? g[l] : -g[l];
            for (int l = 0; l < count; ++l) out[i + l] = g[l] * (std::fabs(x[i + l]) <= 1 ? factor : 0.f);
        });
        sum += s.total();
    }
    u.sums[channel] = sum;
}

// In the order of enum rebnn_unit_step.
constexpr UnitSteps kUnitSteps = {unit_counts, unit_forward, unit_backward, unit_norm,
                                  unit_signs,  unit_encode,  unit_input,    unit_weight};

}  // namespace
}  // namespace rebnn
