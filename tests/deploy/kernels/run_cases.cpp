// Runs layers read from a file on every instruction set of this machine and compares the outputs, bit for bit.
// Then it calls them as they must not be called, and lets memory run out. It needs nothing but the kernels, so it also
// runs cross-compiled, or built with sanitizers. See test_cross.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "rebnn_kernels.h"

namespace {

// Allocations by `new` that still succeed; negative: all of them.
int allocations_left = -1;

}  // namespace

void* operator new(size_t size) {
    if (allocations_left == 0) throw std::bad_alloc();
    if (allocations_left > 0) --allocations_left;
    if (void* memory = std::malloc(size ? size : 1)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

bool read_into(std::FILE* file, void* to, size_t bytes) { return std::fread(to, 1, bytes, file) == bytes; }

// A count of floats, then the floats; none is null.
const float* read_floats(std::FILE* file, std::vector<float>& floats) {
    int64_t count = 0;
    if (!read_into(file, &count, sizeof(count))) std::exit(3);
    floats.resize(size_t(count));
    if (!read_into(file, floats.data(), size_t(count) * sizeof(float))) std::exit(3);
    return count ? floats.data() : nullptr;
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Poolings of some odd sizes against a plain loop; the number of instruction sets times sizes that differ.
int wrong_pools() {
    int wrong = 0;
    const int64_t sizes[][4] = {{1, 8, 6, 16}, {2, 7, 5, 35}, {1, 1, 1, 1}, {3, 2, 9, 64}};
    for (const auto& size : sizes) {
        const int64_t n = size[0], h = size[1], w = size[2], c = size[3], out_h = (h + 1) / 2, out_w = (w + 1) / 2;
        std::vector<float> x(size_t(n * h * w * c)), scale, offset, expected, out(size_t(n * out_h * out_w * c));
        for (size_t i = 0; i < x.size(); ++i) x[i] = i % 11 ? float(i * 7919 % 1009) - 500.f : NAN;
        for (int64_t i = 0; i < c; ++i) {
            scale.push_back(float(i) * 0.37f);
            offset.push_back(1.f - float(i));
        }
        for (int64_t o = 0; o < n * out_h * out_w; ++o)
            for (int64_t channel = 0; channel < c; ++channel) {
                const int64_t top = o / out_w % out_h * 2 - 1, left = o % out_w * 2 - 1;
                float largest = -INFINITY;
                for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + 3, h); ++y)
                    for (int64_t z = std::max<int64_t>(left, 0); z < std::min(left + 3, w); ++z) {
                        const float value = x[size_t(((o / out_w / out_h * h + y) * w + z) * c + channel)];
                        if (value > largest || std::isnan(value)) largest = value;
                    }
                expected.push_back(std::fma(largest, scale[size_t(channel)], offset[size_t(channel)]));
            }
        for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
            if (rebnn_max_pool_run(name, x.data(), int64_t(x.size()), n, h, w, c, scale.data(), offset.data(),
                                   out.data(), int64_t(out.size()), 2))
                return -1;
            wrong += !std::equal(out.begin(), out.end(), expected.begin(), same);
        }
    }
    return wrong;
}

// The same for transposed matrices, whose sizes are above and below those of a vector and of what stays in a cache.
int wrong_transposes() {
    int wrong = 0;
    const int64_t sizes[][3] = {{1, 16, 16}, {2, 5, 37}, {1, 1, 1}, {3, 300, 9}, {1, 40, 1100}};
    for (const auto& size : sizes) {
        const int64_t n = size[0], rows = size[1], columns = size[2], all = n * rows * columns;
        std::vector<float> x(static_cast<size_t>(all)), out(x.size()), expected(x.size());
        for (int64_t i = 0; i < all; ++i) x[size_t(i)] = float(i);
        for (int64_t i = 0; i < all; ++i) {
            const int64_t image = i / (rows * columns), row = i / columns % rows, column = i % columns;
            expected[size_t((image * columns + column) * rows + row)] = x[size_t(i)];
        }
        for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa)
            for (int32_t threads : {1, 2, 3}) {
                std::fill(out.begin(), out.end(), -1.f);
                if (rebnn_transpose_run(name, x.data(), n, rows, columns, out.data(), all, threads)) return -1;
                wrong += out != expected;
            }
    }
    return wrong;
}

// The same for depthwise convolutions; the numbers are small integers, so that every order of a sum gives the same.
int wrong_depthwise() {
    int wrong = 0;
    // n, h, w, c, kernel_h, kernel_w, stride, padding, dilation
    const int64_t cases[][9] = {{1, 9, 9, 16, 3, 3, 1, 1, 1}, {2, 8, 11, 35, 3, 5, 2, 2, 1}, {1, 3, 2, 1, 7, 7, 1, 3, 1},
                                {1, 12, 20, 33, 3, 3, 1, 2, 2}};
    for (const auto& s : cases) {
        const int64_t n = s[0], h = s[1], w = s[2], c = s[3], kh = s[4], kw = s[5], stride = s[6], padding = s[7];
        const int64_t dilation = s[8], out_h = (h + 2 * padding - dilation * (kh - 1) - 1) / stride + 1;
        const int64_t out_w = (w + 2 * padding - dilation * (kw - 1) - 1) / stride + 1;
        std::vector<float> x(size_t(n * h * w * c)), weight(size_t(kh * kw * c)), scale(size_t(c), 2.f);
        std::vector<float> offset(size_t(c), -1.f), out(size_t(n * out_h * out_w * c)), expected;
        std::vector<float> start(n > 1 ? 0 : size_t(c));  // none, or exactly as long as it has to be
        for (size_t i = 0; i < start.size(); ++i) start[i] = float(i % 5);
        for (size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7919 % 17) - 8.f;
        for (size_t i = 0; i < weight.size(); ++i) weight[i] = float(i * 7907 % 13) - 6.f;
        for (int64_t o = 0; o < n * out_h * out_w * c; ++o) {
            const int64_t channel = o % c, left = o / c % out_w * stride - padding;
            const int64_t top = o / c / out_w % out_h * stride - padding, image = o / c / out_w / out_h;
            float sum = start.empty() ? 0.f : start[size_t(channel)];
            for (int64_t ky = 0; ky < kh; ++ky)
                for (int64_t kx = 0; kx < kw; ++kx) {
                    const int64_t y = top + ky * dilation, z = left + kx * dilation;
                    if (y < 0 || y >= h || z < 0 || z >= w) continue;
                    sum += x[size_t(((image * h + y) * w + z) * c + channel)] * weight[size_t((ky * kw + kx) * c + channel)];
                }
            expected.push_back(std::max(sum * 2.f - 1.f, 0.f));
        }
        for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
            if (rebnn_depthwise_run(name, x.data(), int64_t(x.size()), n, h, w, c, weight.data(), kh, kw, stride, padding,
                                    dilation, start.empty() ? nullptr : start.data(), scale.data(), offset.data(), 0.f,
                                    INFINITY, out.data(), int64_t(out.size()), 2))
                return -1;
            wrong += out != expected;
        }
    }
    return wrong;
}

// The same for real-valued convolutions with and without a pooling behind them.
int wrong_real() {
    int wrong = 0;
    // n, h, w, c_in, c_out, kernel_h, kernel_w, stride, padding, chunk, channels last, max-pool
    const int64_t cases[][12] = {{1, 19, 15, 3, 70, 7, 7, 2, 3, 3, 0, 1},  {2, 9, 8, 3, 16, 3, 3, 2, 1, 3, 0, 0},
                                 {1, 5, 7, 33, 130, 1, 1, 1, 0, 16, 1, 0}, {2, 6, 5, 4, 20, 1, 1, 2, 0, 4, 0, 0},
                                 {1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1},     {2, 12, 110, 2, 65, 2, 3, 1, 2, 2, 1, 1}};
    for (const auto& s : cases) {
        rebnn_real_conv2d_call call{};
        call.n = s[0];
        call.h = s[1];
        call.w = s[2];
        call.c_in = s[3];
        call.c_out = s[4];
        call.kernel_h = s[5];
        call.kernel_w = s[6];
        call.stride = s[7];
        call.padding = s[8];
        call.chunk = s[9];
        call.x_channels_last = int32_t(s[10]);
        call.max_pool = int32_t(s[11]);
        call.threads = 2;
        call.clamp_low = 0.f;
        call.clamp_high = INFINITY;
        const int64_t n = s[0], h = s[1], w = s[2], c_in = s[3], c_out = s[4], kh = s[5], kw = s[6];
        const int64_t sum_h = (h + 2 * s[8] - kh) / s[7] + 1, sum_w = (w + 2 * s[8] - kw) / s[7] + 1;
        const int64_t out_h = s[11] ? (sum_h + 1) / 2 : sum_h, out_w = s[11] ? (sum_w + 1) / 2 : sum_w;
        std::vector<float> x(size_t(n * h * w * c_in)), weight(size_t((c_out + 63) / 64 * 64 * kh * kw * c_in));
        std::vector<float> scale(size_t(c_out), 2.f), offset(size_t(c_out), -1.f), expected;
        std::vector<float> out(size_t(n * out_h * out_w * c_out));
        for (size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7919 % 17) - 8.f;
        for (size_t i = 0; i < weight.size(); ++i) weight[i] = float(i * 7907 % 13) - 6.f;
        const auto sum = [&](int64_t image, int64_t oy, int64_t ox, int64_t channel) {
            float total = 0;
            for (int64_t tap = 0; tap < kh * kw; ++tap)
                for (int64_t c = 0; c < c_in; ++c) {
                    const int64_t y = oy * s[7] - s[8] + tap / kw, z = ox * s[7] - s[8] + tap % kw;
                    if (y < 0 || y >= h || z < 0 || z >= w) continue;
                    const int64_t at = s[10] ? ((image * h + y) * w + z) * c_in + c : ((image * c_in + c) * h + y) * w + z;
                    total += x[size_t(at)] * weight[size_t(((channel / 64 * kh * kw + tap) * c_in + c) * 64 + channel % 64)];
                }
            return total;
        };
        for (int64_t o = 0; o < n * out_h * out_w * c_out; ++o) {
            const int64_t channel = o % c_out, ox = o / c_out % out_w, oy = o / c_out / out_w % out_h;
            const int64_t image = o / c_out / out_w / out_h;
            float most = s[11] ? -INFINITY : sum(image, oy, ox, channel);
            for (int64_t i = 0; s[11] && i < 9; ++i) {
                const int64_t y = 2 * oy - 1 + i / 3, z = 2 * ox - 1 + i % 3;
                if (y >= 0 && y < sum_h && z >= 0 && z < sum_w) most = std::max(most, sum(image, y, z, channel));
            }
            expected.push_back(std::max(most * 2.f - 1.f, 0.f));
        }
        call.x = x.data();
        call.x_size = int64_t(x.size());
        call.weight = weight.data();
        call.weight_size = int64_t(weight.size());
        call.scale = scale.data();
        call.offset = offset.data();
        call.out = out.data();
        call.out_size = int64_t(out.size());
        call.workspace_bytes = rebnn_real_conv2d_workspace_bytes(&call);
        if (call.workspace_bytes < 0) return -1;
        std::vector<float> workspace(size_t(call.workspace_bytes) / sizeof(float));
        call.workspace = workspace.data();
        for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
            out.assign(out.size(), NAN);
            if (rebnn_real_conv2d_run(name, &call)) return -1;
            wrong += out != expected;
            // one thing at a time that does not fit
            for (auto size : {&rebnn_real_conv2d_call::x_size, &rebnn_real_conv2d_call::n, &rebnn_real_conv2d_call::h,
                              &rebnn_real_conv2d_call::w, &rebnn_real_conv2d_call::c_in, &rebnn_real_conv2d_call::c_out,
                              &rebnn_real_conv2d_call::kernel_h, &rebnn_real_conv2d_call::kernel_w,
                              &rebnn_real_conv2d_call::weight_size, &rebnn_real_conv2d_call::out_size})
                for (int64_t value : {int64_t(-1), call.*size + 64, int64_t(1) << 40, int64_t(1) << 62}) {
                    rebnn_real_conv2d_call bad = call;
                    bad.*size = value;
                    wrong += rebnn_real_conv2d_run(name, &bad) != REBNN_BAD_ARGUMENT;
                }
            for (auto size : {&rebnn_real_conv2d_call::stride, &rebnn_real_conv2d_call::padding,
                              &rebnn_real_conv2d_call::chunk, &rebnn_real_conv2d_call::workspace_bytes})
                for (int64_t value : {int64_t(-1), int64_t(1) << 40}) {
                    rebnn_real_conv2d_call bad = call;
                    bad.*size = value;
                    const bool fits = size == &rebnn_real_conv2d_call::workspace_bytes && (value > 0 || workspace.empty());
                    wrong += (rebnn_real_conv2d_run(name, &bad) == REBNN_OK) != fits;
                }
            for (auto memory : {&rebnn_real_conv2d_call::x, &rebnn_real_conv2d_call::weight,
                                &rebnn_real_conv2d_call::scale, &rebnn_real_conv2d_call::offset}) {
                rebnn_real_conv2d_call bad = call;
                bad.*memory = nullptr;
                wrong += rebnn_real_conv2d_run(name, &bad) != REBNN_BAD_ARGUMENT;
            }
            wrong += rebnn_real_conv2d_run(name, nullptr) != REBNN_BAD_ARGUMENT;
        }
    }
    return wrong + (rebnn_real_conv2d_workspace_bytes(nullptr) != -1);
}

// One call of a training step: maps (n, c, plane) and vectors of c, all exactly as long as they have to be.
struct UnitCase {
    UnitCase(int64_t n, int64_t c, int64_t plane) {
        const size_t size = size_t(n * c * plane);
        for (auto* map : {&values, &x, &shortcut, &out}) map->resize(size);
        for (auto* vector : {&scale, &offset, &slope, &after}) vector->resize(size_t(c));
        counts.resize(size);
        counts_out.resize(size);
        code.resize(size);
        code_out.resize(size);
        sums.resize(size_t(4 * c));
        // small multiples of 1/8: every order of a sum gives the same
        for (size_t i = 0; i < size; ++i) {
            values[i] = float(int64_t(i * 7919 % 17) - 8);
            x[i] = float(int64_t(i * 7907 % 33) - 16) / 8;
            shortcut[i] = float(int64_t(i * 31 % 9) - 4);
            counts[i] = int16_t(int64_t(i * 13 % 19) - 9);
            code[i] = uint8_t(i * 37);
        }
        for (size_t i = 0; i < size_t(c); ++i) {
            scale[i] = float(i % 3) - 1.f;
            offset[i] = float(i % 5) / 4 - .5f;
            slope[i] = i % 2 ? .25f : -.5f;
            after[i] = float(i % 4) - 2.f;
        }
        call.n = n;
        call.c = c;
        call.plane = plane;
        call.size = int64_t(size);
        call.threads = 2;
    }
    // All that the step may be given; `bare` leaves out what may be missing, `coded` takes codes instead of floats.
    void point(int32_t step, bool bare, bool coded) {
        call.step = step;
        call.values = values.data();
        call.x = x.data();
        call.shortcut = bare ? nullptr : shortcut.data();
        call.counts = counts.data();
        call.code = coded ? code.data() : nullptr;
        call.scale = scale.data();
        call.offset = offset.data();
        call.slope = slope.data();
        call.after = bare ? nullptr : after.data();
        call.counts_out = counts_out.data();
        call.code_out = bare ? nullptr : code_out.data();
        call.out = out.data();
        call.sums = sums.data();
        if (bare && step != REBNN_UNIT_NORM) call.slope = nullptr;
        if (bare && step >= REBNN_UNIT_SIGNS && step <= REBNN_UNIT_INPUT) call.offset = call.scale = nullptr;
        if (step == REBNN_UNIT_WEIGHT) call.scale = scale.data();
        if (step == REBNN_UNIT_ENCODE) call.code_out = code_out.data();
        if (coded && step == REBNN_UNIT_SIGNS) call.values = nullptr;
        if (coded && step == REBNN_UNIT_INPUT) call.x = nullptr;
    }

    std::vector<float> values, x, shortcut, out, scale, offset, slope, after;
    std::vector<int16_t> counts, counts_out;
    std::vector<uint8_t> code, code_out;
    std::vector<double> sums;
    rebnn_unit_call call{};
};

float slope_at(float x, bool polynomial) {
    return polynomial ? std::max(2 - 2 * std::fabs(x), 0.f) : float(std::fabs(x) <= 1);
}

float value_of_code(uint8_t code) {
    return std::ldexp(1.f + float(code % 8) / 8, (code & 127) / 8 - 8) * (code & 128 ? 1.f : -1.f);
}

// What a step gives for one element by its definition in rebnn_kernels.h; the terms of its sums in `terms`.
float unit_element(const UnitCase& u, size_t i, size_t channel, double* terms) {
    const rebnn_unit_call& call = u.call;
    const float scale = call.scale ? u.scale[channel] : 1.f, offset = call.offset ? u.offset[channel] : 0.f;
    const float slope = call.slope ? u.slope[channel] : 1.f, after = call.after ? u.after[channel] : 0.f;
    const float shortcut = call.shortcut ? u.shortcut[i] : 0.f, value = u.values[i], count = float(u.counts[i]);
    const float z = call.step == REBNN_UNIT_BACKWARD && call.code ? value_of_code(u.code[i])
                                                                  : count * scale + offset + shortcut;
    const float gradient = value * (z > 0 ? 1.f : slope);
    float estimated = slope_at(u.x[i] + offset, call.polynomial);
    if (call.code) estimated = float(u.code[i] & 127) * (call.polynomial ? 2.f / 127 : 1.f / 127);
    switch (call.step) {
        case REBNN_UNIT_COUNTS: terms[0] = value; terms[1] = value * value; return value;
        case REBNN_UNIT_FORWARD: return (z > 0 ? z : z * slope) + after;
        case REBNN_UNIT_BACKWARD:
            terms[0] = value;
            terms[1] = z > 0 ? 0. : double(value) * z;
            terms[2] = gradient;
            terms[3] = double(gradient) * count;
            return gradient;
        case REBNN_UNIT_NORM: return value * scale + count * slope + offset;
        case REBNN_UNIT_SIGNS: return (call.code ? (u.code[i] & 128) != 0 : value + offset >= 0) ? scale : -scale;
        case REBNN_UNIT_ENCODE:
            return std::floor(slope_at(value + offset, call.polynomial) * (call.polynomial ? 63.5f : 127.f) + .5f) +
                   (value + offset >= 0 ? 128.f : 0.f);
        case REBNN_UNIT_INPUT: terms[0] = value * estimated; return value * estimated + shortcut;
        default: terms[0] = u.x[i] >= 0 ? value : -value; return std::fabs(u.x[i]) <= 1 ? value * scale : 0.f;
    }
}

bool unit_is_right(const UnitCase& u) {
    const int32_t step = u.call.step;
    const size_t c = size_t(u.call.c), plane = size_t(u.call.plane);
    std::vector<double> sums(4 * c), sizes(4 * c);
    for (size_t i = 0; i < u.out.size(); ++i) {
        const size_t channel = i / plane % c;
        double terms[4] = {};
        const float expected = unit_element(u, i, channel, terms);
        const float found = step == REBNN_UNIT_COUNTS   ? float(u.counts_out[i])
                            : step == REBNN_UNIT_ENCODE ? float(u.code_out[i])
                                                        : u.out[i];
        if (!same(found, expected)) return false;
        for (size_t k = 0; k < 4; ++k) {
            sums[k * c + channel] += terms[k];
            sizes[k * c + channel] += std::fabs(terms[k]);
        }
        if (step == REBNN_UNIT_FORWARD && u.call.code_out) {  // z in 8 bits: at most half a step of an eighth away
            const float scale = u.scale[channel], shortcut = u.call.shortcut ? u.shortcut[i] : 0.f;
            const float z = float(u.counts[i]) * scale + u.offset[channel] + shortcut, least = std::ldexp(1.f, -8);
            const float held = value_of_code(u.code_out[i]);
            if (std::fabs(held - z) > std::max(std::fabs(z) / 16, least * 1.5f) && std::fabs(z) < 240) return false;
        }
    }
    const size_t count = step == REBNN_UNIT_COUNTS     ? 2
                         : step == REBNN_UNIT_BACKWARD ? 4
                                                       : size_t(step >= REBNN_UNIT_INPUT);
    for (size_t k = 0; k < count * c; ++k)
        if (std::fabs(u.sums[k] - sums[k]) > 1e-6 * sizes[k]) return false;
    return true;
}

// The steps of training on odd sizes against their definitions, with and without what may be missing, on one and on many
// threads; then calls that must be refused.
int wrong_units() {
    int wrong = 0;
    const int64_t shapes[][3] = {{1, 1, 1}, {2, 3, 49}, {3, 5, 64}, {1, 7, 200}, {2, 130, 1}};
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
        for (const auto& shape : shapes)
            for (int32_t step = REBNN_UNIT_COUNTS; step <= REBNN_UNIT_WEIGHT; ++step)
                for (int options = 0; options < 16; ++options) {
                    if (step == REBNN_UNIT_WEIGHT && shape[0] > 1) continue;
                    const bool coded = options & 2;
                    if (coded && step != REBNN_UNIT_BACKWARD && step != REBNN_UNIT_SIGNS && step != REBNN_UNIT_INPUT)
                        continue;
                    UnitCase u(shape[0], shape[1], shape[2]);
                    u.point(step, options & 1, coded);
                    u.call.polynomial = (options & 4) != 0;
                    u.call.threads = options & 8 ? 5 : 1;
                    if (step == REBNN_UNIT_BACKWARD && coded) u.call.shortcut = nullptr;  // z is in the code
                    if (rebnn_unit_run(name, &u.call) || !unit_is_right(u)) {
                        std::printf("training step %d of %d channels, options %d, on %s\n", step, int(shape[1]), options,
                                    name);
                        ++wrong;
                    }
                }
        // not a number, and infinity, are codes like any other
        UnitCase odd(1, 1, 3);
        odd.point(REBNN_UNIT_FORWARD, false, false);
        const uint32_t largest_nan = 0x7fffffff;
        std::memcpy(&odd.shortcut[0], &largest_nan, 4);
        odd.shortcut[1] = INFINITY;
        odd.shortcut[2] = -INFINITY;
        wrong += rebnn_unit_run(name, &odd.call) || odd.code_out[0] != 127 || odd.code_out[1] != 255 || odd.code_out[2] != 127;
        odd.values = odd.shortcut;
        odd.point(REBNN_UNIT_ENCODE, true, false);
        wrong += rebnn_unit_run(name, &odd.call) || odd.code_out[0] || odd.code_out[1] != 128 || odd.code_out[2];
        const auto refused = [&](int32_t step, const std::function<void(rebnn_unit_call&)>& spoil) {
            UnitCase u(2, 3, 49);
            u.point(step, false, step == REBNN_UNIT_BACKWARD);
            spoil(u.call);
            u.out.assign(u.out.size(), -77.f);
            const bool told = rebnn_unit_run(name, &u.call) == REBNN_BAD_ARGUMENT;
            return told && std::count(u.out.begin(), u.out.end(), -77.f) == int64_t(u.out.size());
        };
        constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();
        for (int32_t step = REBNN_UNIT_COUNTS; step <= REBNN_UNIT_WEIGHT; ++step) {
            for (auto size : {&rebnn_unit_call::n, &rebnn_unit_call::c, &rebnn_unit_call::plane, &rebnn_unit_call::size})
                for (int64_t value : {int64_t(0), int64_t(-1), int64_t(50), int64_t(1) << 40, kMost, kLeast})
                    wrong += !refused(step, [=](rebnn_unit_call& call) { call.*size = value; });
            for (int32_t threads : {0, -1, std::numeric_limits<int32_t>::min()})
                wrong += !refused(step, [=](rebnn_unit_call& call) { call.threads = threads; });
            for (int32_t other : {-1, 8, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()})
                wrong += !refused(step, [=](rebnn_unit_call& call) { call.step = other; });
            wrong += !refused(step, [=](rebnn_unit_call& call) {
                call.values = nullptr;
                call.counts = nullptr;
                call.code = nullptr;
            });
            wrong += !refused(step, [=](rebnn_unit_call& call) {
                call.out = nullptr;
                call.counts_out = nullptr;
                call.code_out = nullptr;
            });
        }
        for (int32_t step : {REBNN_UNIT_COUNTS, REBNN_UNIT_BACKWARD, REBNN_UNIT_INPUT, REBNN_UNIT_WEIGHT})
            wrong += !refused(step, [](rebnn_unit_call& call) { call.sums = nullptr; });
        wrong += rebnn_unit_run(name, nullptr) != REBNN_BAD_ARGUMENT;
    }
    UnitCase any(1, 1, 1);
    any.point(REBNN_UNIT_COUNTS, false, false);
    return wrong + (rebnn_unit_run("none", &any.call) != REBNN_UNSUPPORTED_ISA);
}

// A layer with its plan, tables and workspace.
struct Layer {
    Layer(const char* isa, const rebnn_conv2d_spec& spec, int64_t bits_bytes)
        : isa(isa), spec(spec), bits_bytes(bits_bytes) {
        call.threads = 2;
    }
    ~Layer() {
        for (void* memory : {plan, tables, workspace}) std::free(memory);
    }
    Layer(const Layer&) = delete;

    int32_t prepare_plan() {
        const int64_t bytes = rebnn_conv2d_plan_bytes(isa, &spec);
        if (bytes < 0) return REBNN_BAD_ARGUMENT;
        if (plan_bytes < 0) plan_bytes = bytes;
        plan = std::aligned_alloc(64, size_t(bytes + 64));
        call.plan = plan;
        call.plan_bytes = plan_bytes;
        return rebnn_conv2d_plan(isa, &spec, bits_bytes, static_cast<char*>(plan) + shift, plan_bytes);
    }
    int32_t prepare_tables() {
        call.tables_bytes = rebnn_conv2d_tables_bytes(plan, plan_bytes, h, w);
        if (call.tables_bytes < 0) return REBNN_BAD_ARGUMENT;
        call.tables = tables = std::aligned_alloc(64, size_t(call.tables_bytes + 64));
        return rebnn_conv2d_tables(plan, plan_bytes, h, w, static_cast<char*>(tables) + shift, call.tables_bytes);
    }
    int32_t prepare() {
        const int32_t status = prepare_plan();
        return status ? status : prepare_tables() ? REBNN_BAD_ARGUMENT : prepare_workspace();
    }
    int32_t prepare_workspace() {
        call.workspace_bytes = rebnn_conv2d_workspace_bytes(plan, plan_bytes, tables, call.tables_bytes, call.n);
        if (call.workspace_bytes < 0) return REBNN_OUT_OF_MEMORY;
        call.workspace = workspace = std::aligned_alloc(64, size_t(call.workspace_bytes + 63) / 64 * 64);
        return REBNN_OK;
    }

    const char* isa;
    rebnn_conv2d_spec spec;
    int64_t bits_bytes, plan_bytes = -1, h = 0, w = 0, shift = 0;
    rebnn_conv2d_call call{};
    void *plan = nullptr, *tables = nullptr, *workspace = nullptr;
};

// Whether a prepared layer gives other values from the signs of x, which is NCHW as `expected` is, than from x itself.
int wrong_from_signs(Layer& layer, const std::vector<float>& x, const std::vector<float>& expected, const std::string& what) {
    const int64_t c_in = layer.spec.c_in, words = (c_in + 31) / 32, plane = layer.h * layer.w, n = layer.call.n;
    std::vector<uint32_t> signs(size_t(n * plane * words));
    for (int64_t i = 0; i < n * c_in * plane; ++i) {
        const int64_t channel = i / plane % c_in, pixel = i / plane / c_in * plane + i % plane;
        if (x[size_t(i)] >= 0) signs[size_t(pixel * words + channel / 32)] |= 1u << channel % 32;
        else if (c_in % 32 && channel == c_in - 1) signs[size_t(pixel * words + words - 1)] |= ~0u << c_in % 32;  // ignored
    }
    rebnn_conv2d_call call = layer.call;
    std::vector<float> out(expected.size());
    call.x = signs.data();
    call.x_size = int64_t(signs.size());
    call.x_format = REBNN_SIGNS;
    call.out_channels_last = 1;
    call.out = out.data();
    if (rebnn_conv2d_run(&call)) return 1;
    const int64_t c_out = layer.spec.c_out, out_plane = n ? int64_t(out.size()) / n / c_out : 0;
    for (int64_t i = 0; i < int64_t(out.size()); ++i) {
        const int64_t image = i / c_out / out_plane, channel = i % c_out, pixel = i / c_out % out_plane;
        if (same(out[size_t(i)], expected[size_t((image * c_out + channel) * out_plane + pixel)])) continue;
        std::printf("%s: other values from signs\n", what.c_str());
        return 1;
    }
    return 0;
}

// A small layer and what it is called with, to be spoilt one thing at a time. The outputs are filled with what no kernel
// may write, so that a refused call that writes all the same is seen.
struct Small : Layer {
    explicit Small(const char* isa) : Layer(isa, rebnn_conv2d_spec{}, 17) {
        spec.c_in = 5;
        spec.c_out = 3;
        spec.kernel_h = spec.kernel_w = 3;
        spec.stride_h = spec.stride_w = spec.dilation_h = spec.dilation_w = spec.groups = 1;
        spec.padding_h = spec.padding_w = 2;
        spec.bits = bits.data();
        spec.alpha = alpha.data();
        h = 4;
        w = 6;
        call.n = 2;
        call.x = x.data();
        call.x_size = 240;
        call.out = out.data();
        call.out_size = 288;
        call.signs = signs.data();
        call.signs_size = 96;
        call.out_channels_last = 1;
    }
    bool untouched() const {
        return std::all_of(out.begin(), out.end(), [](float value) { return value == -77.f; }) &&
               std::all_of(signs.begin(), signs.end(), [](uint32_t value) { return value == 77; });
    }

    std::vector<uint8_t> bits = std::vector<uint8_t>(17, 0x5a);  // 3 * 3 * 3 * 5 bits
    std::vector<float> alpha = std::vector<float>(3, 1.f), x = std::vector<float>(2 * 5 * 4 * 6, 1.f);
    std::vector<float> out = std::vector<float>(2 * 3 * 6 * 8, -77.f);
    std::vector<uint32_t> signs = std::vector<uint32_t>(2 * 6 * 8, 77);
};

// Calls that must be refused, and are not, or write something.
int unrefused() {
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();
    using Change = std::function<void(Small&)>;
    std::vector<Change> plans, tables, runs;
    int64_t rebnn_conv2d_spec::*const sizes[] = {
        &rebnn_conv2d_spec::c_in,       &rebnn_conv2d_spec::c_out,      &rebnn_conv2d_spec::kernel_h,
        &rebnn_conv2d_spec::kernel_w,   &rebnn_conv2d_spec::stride_h,   &rebnn_conv2d_spec::stride_w,
        &rebnn_conv2d_spec::dilation_h, &rebnn_conv2d_spec::dilation_w, &rebnn_conv2d_spec::groups};
    for (auto size : sizes)
        for (int64_t value : {int64_t(0), int64_t(-1), kMost, kLeast})
            plans.push_back([=](Small& layer) { layer.spec.*size = value; });
    for (auto padding : {&rebnn_conv2d_spec::padding_h, &rebnn_conv2d_spec::padding_w})
        for (int64_t value : {int64_t(-1), kMost, kLeast})
            plans.push_back([=](Small& layer) { layer.spec.*padding = value; });
    plans.push_back([](Small& layer) { layer.spec.groups = 2; });
    plans.push_back([](Small& layer) { layer.spec.kernel_h = layer.spec.kernel_w = 1 << 20; });
    plans.push_back([](Small& layer) { layer.spec.bits = nullptr; });
    plans.push_back([](Small& layer) { layer.spec.alpha = nullptr; });
    plans.push_back([](Small& layer) { layer.spec.scale = layer.alpha.data(); });
    plans.push_back([](Small& layer) { layer.spec.input_scale = layer.alpha.data(); });
    for (int64_t bytes : {int64_t(0), int64_t(16), int64_t(18), int64_t(-1), kMost})
        plans.push_back([=](Small& layer) { layer.bits_bytes = bytes; });
    for (int64_t bytes : {int64_t(0), int64_t(1), int64_t(100)})
        plans.push_back([=](Small& layer) { layer.plan_bytes = bytes; });
    plans.push_back([](Small& layer) { layer.shift = 4; });
    plans.push_back([](Small& layer) { layer.spec.last_offset = layer.alpha.data(); });
    plans.push_back([](Small& layer) { layer.spec.sign_scale = layer.alpha.data(); });
    for (auto size : {&Small::h, &Small::w})
        for (int64_t value : {int64_t(0), int64_t(-1), int64_t(1) << 40, int64_t(1) << 62, kMost, kLeast})
            tables.push_back([=](Small& layer) { layer.*size = value; });
    tables.push_back([](Small& layer) { layer.shift = 4; });
    tables.push_back([](Small& layer) { layer.plan_bytes = 8; });
    tables.push_back([](Small& layer) { std::memset(layer.plan, 0, 64); });
    for (auto size : {&rebnn_conv2d_call::n, &rebnn_conv2d_call::x_size, &rebnn_conv2d_call::out_size,
                      &rebnn_conv2d_call::signs_size, &rebnn_conv2d_call::workspace_bytes,
                      &rebnn_conv2d_call::tables_bytes, &rebnn_conv2d_call::plan_bytes})
        for (int64_t value : {int64_t(0), int64_t(1), int64_t(-1), int64_t(95), kLeast})
            runs.push_back([=](Small& layer) { layer.call.*size = value; });
    for (auto size : {&rebnn_conv2d_call::n, &rebnn_conv2d_call::x_size, &rebnn_conv2d_call::out_size,
                      &rebnn_conv2d_call::signs_size})
        for (int64_t value : {int64_t(97), int64_t(289), int64_t(1) << 40, int64_t(1) << 62, kMost})
            runs.push_back([=](Small& layer) { layer.call.*size = value; });
    for (int32_t threads : {0, -1, std::numeric_limits<int32_t>::min()})
        runs.push_back([=](Small& layer) { layer.call.threads = threads; });
    for (int32_t format : {-1, 2, 3}) runs.push_back([=](Small& layer) { layer.call.x_format = format; });
    for (int64_t pixel : {int64_t(4), int64_t(-1), int64_t(6), int64_t(1) << 40, int64_t(1) << 62, kMost, kLeast})
        for (int64_t size : {int64_t(240), int64_t(-1), int64_t(286)})
            for (int32_t format : {int32_t(REBNN_NCHW), int32_t(REBNN_NHWC), int32_t(REBNN_SIGNS)})
                runs.push_back([=](Small& layer) {
                    layer.call.x_pixel = pixel;
                    layer.call.x_size = size;
                    layer.call.x_format = format;
                });
    runs.push_back([](Small& layer) { layer.call.out_channels_last = 0; });
    runs.push_back([](Small& layer) { layer.call.plan = nullptr; });
    runs.push_back([](Small& layer) { layer.call.tables = nullptr; });
    runs.push_back([](Small& layer) { layer.call.tables = layer.call.plan; });
    runs.push_back([](Small& layer) { layer.call.workspace = nullptr; });
    runs.push_back([](Small& layer) { layer.call.x = nullptr; });
    runs.push_back([](Small& layer) { layer.call.out = nullptr; });
    runs.push_back([](Small& layer) { layer.call.signs = nullptr; });
    runs.push_back([](Small& layer) {
        layer.call.out = nullptr;
        layer.call.signs = nullptr;
        layer.call.out_size = layer.call.signs_size = 0;
    });
    runs.push_back([](Small& layer) { std::memset(layer.plan, 0, 64); });
    runs.push_back([](Small& layer) { std::memset(layer.tables, 0, 64); });

    int wrong = 0;
    const auto accepted = [&](const char* what, size_t change, const char* isa) {
        std::printf("%s after change %zu on %s\n", what, change, isa);
        ++wrong;
    };
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
        for (size_t i = 0; i < plans.size(); ++i) {
            Small layer(name);
            plans[i](layer);
            if (layer.prepare_plan() != REBNN_BAD_ARGUMENT) accepted("a plan is made", i, name);
        }
        for (size_t i = 0; i < tables.size(); ++i) {
            Small layer(name);
            if (layer.prepare_plan()) return -1;
            tables[i](layer);
            if (layer.prepare_tables() != REBNN_BAD_ARGUMENT) accepted("tables are made", i, name);
        }
        for (size_t i = 0; i < runs.size(); ++i) {
            Small layer(name);
            if (layer.prepare()) return -1;
            runs[i](layer);
            if (rebnn_conv2d_run(&layer.call) != REBNN_BAD_ARGUMENT || !layer.untouched())
                accepted("a layer runs", i, name);
        }
        // the same pixels, dense and as the first channels of wider ones, whose last one ends the memory
        Small dense(name), wide(name);
        std::vector<float> pixels(47 * 8 + 5, NAN);
        for (size_t i = 0; i < 240; ++i) dense.x[i] = pixels[i / 5 * 8 + i % 5] = i % 3 ? 1.f : -1.f;
        dense.call.x_format = wide.call.x_format = REBNN_NHWC;
        wide.call.x = pixels.data();
        wide.call.x_size = int64_t(pixels.size());
        wide.call.x_pixel = 8;
        if (dense.prepare() || wide.prepare() || rebnn_conv2d_run(&dense.call)) return -1;
        wrong += rebnn_conv2d_run(&wide.call) != REBNN_OK || wide.out != dense.out || wide.signs != dense.signs;
        Small other(name), empty(name);
        other.spec.padding_h = 1;  // tables of another plan
        if (other.prepare() || empty.prepare()) return -1;
        std::swap(other.call.tables, empty.call.tables);
        wrong += rebnn_conv2d_run(&other.call) != REBNN_BAD_ARGUMENT;
        std::swap(other.call.tables, empty.call.tables);
        // no image at all is no fault, with or without memory
        rebnn_conv2d_call& call = empty.call;
        call.n = call.x_size = call.out_size = call.signs_size = 0;
        wrong += rebnn_conv2d_run(&call) != REBNN_OK;
        call.x = nullptr;
        call.out = nullptr;
        call.signs = nullptr;
        wrong += rebnn_conv2d_run(&call) != REBNN_OK;
        wrong += rebnn_conv2d_run(nullptr) != REBNN_BAD_ARGUMENT;
        wrong += rebnn_conv2d_plan_bytes(name, nullptr) != -1;
        wrong += rebnn_conv2d_plan(name, nullptr, 0, empty.plan, 0) != REBNN_BAD_ARGUMENT;
        wrong += rebnn_conv2d_plan(name, &empty.spec, 17, nullptr, 1 << 20) != REBNN_BAD_ARGUMENT;
        wrong += rebnn_conv2d_workspace_bytes(empty.plan, empty.plan_bytes, nullptr, 0, 1) != -1;
        std::vector<float> x(2 * 3 * 3 * 5), out(2 * 2 * 2 * 5), row(5);
        const auto pool = [&](int64_t n, int64_t h, int64_t w, int64_t c, int64_t x_size, int64_t out_size,
                              int32_t threads) {
            return rebnn_max_pool_run(name, x.data(), x_size, n, h, w, c, row.data(), row.data(), out.data(), out_size,
                                      threads);
        };
        wrong += pool(2, 3, 3, 5, 90, 40, 2) || pool(0, 3, 3, 5, 0, 0, 1);
        for (int64_t bad : {int64_t(0), int64_t(-1), int64_t(1) << 40, int64_t(1) << 62, kMost, kLeast})
            for (int64_t size : {int64_t(90), int64_t(-1), int64_t(0)}) {
                wrong += pool(2, bad, 3, 5, size, 40, 1) != REBNN_BAD_ARGUMENT;
                wrong += pool(2, 3, bad, 5, size, 40, 1) != REBNN_BAD_ARGUMENT;
                wrong += pool(2, 3, 3, bad, size, 40, 1) != REBNN_BAD_ARGUMENT;
                wrong += pool(bad, 3, 3, 5, size, 40, 1) != REBNN_BAD_ARGUMENT;
            }
        wrong += pool(2, 3, 3, 5, 90, 39, 1) != REBNN_BAD_ARGUMENT || pool(2, 3, 3, 5, 90, 40, 0) != REBNN_BAD_ARGUMENT;
        wrong += rebnn_max_pool_run(name, nullptr, 90, 2, 3, 3, 5, row.data(), row.data(), out.data(), 40, 1) !=
                 REBNN_BAD_ARGUMENT;
    }
    wrong += rebnn_conv2d_plan_bytes(nullptr, nullptr) != -1;
    wrong += rebnn_conv2d_plan(nullptr, nullptr, 0, nullptr, 0) != REBNN_UNSUPPORTED_ISA;
    return wrong;
}

// Let each allocation of a call with many threads fail in turn, thread starts included: it still finishes with the right
// values, on fewer threads, and no thread is left behind (a thread that nobody joins ends the process).
int wrong_without_memory() {
    int wrong = 0;
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
        Small layer(name);
        layer.spec.c_out = 300;  // work for more than one thread
        layer.alpha.assign(300, 1.f);
        layer.spec.alpha = layer.alpha.data();
        layer.bits.assign(300 * 45 / 8 + 1, 0x5a);
        layer.spec.bits = layer.bits.data();
        layer.bits_bytes = int64_t(layer.bits.size());
        layer.h = layer.w = 40;
        rebnn_conv2d_call& call = layer.call;
        layer.x.assign(size_t(call.x_size = 2 * 5 * 40 * 40), 1.f);
        layer.out.assign(size_t(call.out_size = 2 * 300 * 42 * 42), -77.f);
        layer.signs.assign(size_t(call.signs_size = 2 * 10 * 42 * 42), 77);
        call.x = layer.x.data();
        call.out = layer.out.data();
        call.signs = layer.signs.data();
        call.threads = 4;
        if (layer.prepare() || rebnn_conv2d_run(&call)) return -1;
        const std::vector<float> expected = layer.out;
        const std::vector<uint32_t> expected_signs = layer.signs;
        for (int left = 0; left < 20; ++left) {
            std::fill(layer.out.begin(), layer.out.end(), -77.f);
            std::fill(layer.signs.begin(), layer.signs.end(), 77);
            allocations_left = left;
            const int32_t status = rebnn_conv2d_run(&call);
            allocations_left = -1;
            wrong += status != REBNN_OK || layer.out != expected || layer.signs != expected_signs;
        }
    }
    return wrong;
}

}  // namespace

int main(int, char** arguments) {
    std::FILE* file = std::fopen(arguments[1], "rb");
    if (!file) return 3;
    rebnn_conv2d_spec spec;
    int cases = 0, runs = 0, wrong = 0;
    // the struct's sizes come first, in the file as in the struct
    for (; read_into(file, &spec, 13 * sizeof(int64_t) + 2 * sizeof(double)); ++cases) {
        int64_t input[4], bits_bytes;
        if (!read_into(file, input, sizeof(input)) || !read_into(file, &bits_bytes, sizeof(bits_bytes))) return 3;
        std::vector<uint8_t> bits(static_cast<size_t>(bits_bytes));
        if (!read_into(file, bits.data(), bits.size())) return 3;
        std::vector<float> floats[17];
        const float** vectors[] = {&spec.shift,      &spec.input_scale, &spec.input_offset, &spec.alpha,
                                   &spec.bias,       &spec.scale,       &spec.offset,       &spec.before,
                                   &spec.slope,      &spec.after,       &spec.last_scale,   &spec.last_offset,
                                   &spec.sign_shift, &spec.sign_scale,  &spec.sign_offset};
        for (int i = 0; i < 15; ++i) *vectors[i] = read_floats(file, floats[i]);
        read_floats(file, floats[15]);
        read_floats(file, floats[16]);
        std::vector<float> expected;
        read_floats(file, expected);
        int64_t signs_size = 0;
        if (!read_into(file, &signs_size, sizeof(signs_size))) return 3;
        std::vector<uint32_t> expected_signs(static_cast<size_t>(signs_size));
        if (!read_into(file, expected_signs.data(), expected_signs.size() * 4)) return 3;
        spec.bits = bits.data();
        for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa, ++runs) {
            Layer layer(name, spec, bits_bytes);
            std::vector<float> out(expected.size());
            std::vector<uint32_t> signs(expected_signs.size());
            layer.h = input[1];
            layer.w = input[2];
            rebnn_conv2d_call& call = layer.call;
            call.n = input[0];
            call.x_format = input[3] ? REBNN_NHWC : REBNN_NCHW;
            call.out_channels_last = int32_t(input[3]);
            call.x = floats[15].data();
            call.x_size = int64_t(floats[15].size());
            call.residual = floats[16].empty() ? nullptr : floats[16].data();
            call.out = out.data();
            call.out_size = int64_t(out.size());
            call.signs = signs.empty() ? nullptr : signs.data();
            call.signs_size = signs_size;
            if (layer.prepare() || rebnn_conv2d_run(&call)) return 4;
            if (signs != expected_signs) {
                std::printf("case %d on %s: the signs differ\n", cases, name);
                ++wrong;
            }
            size_t differ = 0;
            for (size_t i = 0; i < out.size(); ++i) differ += !same(out[i], expected[i]);
            if (differ) std::printf("case %d on %s: %zu of %zu values differ\n", cases, name, differ, out.size());
            wrong += differ != 0;
            if (!input[3] && !spec.shift && !spec.input_scale)
                wrong += wrong_from_signs(layer, floats[15], expected, "case " + std::to_string(cases) + " on " + name);
        }
    }
    wrong += wrong_pools() + wrong_transposes() + wrong_depthwise() + wrong_real() + wrong_units() + unrefused() +
             wrong_without_memory();
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) std::printf("%s ", name);
    std::printf("- %d cases, %d runs, %d wrong\n", cases, runs, wrong);
    return wrong != 0;
}
