// Runs layers read from a file on every instruction set of this machine and compares the outputs, bit for bit.
// It needs nothing but the kernels, so it also runs cross-compiled, or built with sanitizers. See test_cross.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "rebnn_kernels.h"

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
            if (rebnn_max_pool_run(name, x.data(), n, h, w, c, scale.data(), offset.data(), out.data(), 2)) return -1;
            wrong += !std::equal(out.begin(), out.end(), expected.begin(), same);
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
        int64_t input[4], packed_bytes;
        if (!read_into(file, input, sizeof(input)) || !read_into(file, &packed_bytes, sizeof(packed_bytes))) return 3;
        std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes));
        if (!read_into(file, packed.data(), packed.size())) return 3;
        std::vector<float> floats[17];
        const float** vectors[] = {&spec.shift,      &spec.input_scale, &spec.input_offset, &spec.alpha,
                                   &spec.bias,       &spec.scale,       &spec.offset,       &spec.before,
                                   &spec.slope,      &spec.after,       &spec.last_scale,   &spec.last_offset,
                                   &spec.sign_shift, &spec.sign_scale,  &spec.sign_offset};
        for (int i = 0; i < 15; ++i) *vectors[i] = read_floats(file, floats[i]);
        const float* x = read_floats(file, floats[15]);
        const float* residual = read_floats(file, floats[16]);
        std::vector<float> expected;
        read_floats(file, expected);
        int64_t signs_size = 0;
        if (!read_into(file, &signs_size, sizeof(signs_size))) return 3;
        std::vector<uint32_t> expected_signs(static_cast<size_t>(signs_size));
        if (!read_into(file, expected_signs.data(), expected_signs.size() * 4)) return 3;
        spec.packed = packed.data();
        for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa, ++runs) {
            const int64_t bytes = rebnn_conv2d_plan_bytes(name, &spec);
            if (bytes < 0) return 4;
            void* plan = std::aligned_alloc(64, size_t(bytes));
            std::vector<float> out(expected.size());
            if (rebnn_conv2d_plan(name, &spec, plan)) return 4;
            const int64_t tables_bytes = rebnn_conv2d_tables_bytes(plan, input[1], input[2]);
            if (tables_bytes < 0) return 4;
            void* tables = std::aligned_alloc(64, size_t(tables_bytes));
            if (rebnn_conv2d_tables(plan, input[1], input[2], tables)) return 4;
            const int64_t workspace_bytes = rebnn_conv2d_workspace_bytes(plan, tables, input[0]);
            std::vector<uint32_t> workspace(size_t(workspace_bytes) / 4), signs(expected_signs.size());
            const int64_t x_size = int64_t(floats[15].size()), out_size = int64_t(out.size());
            if (rebnn_conv2d_run(plan, tables, workspace.data(), workspace_bytes, x, x_size, int32_t(input[3]), input[0],
                                 residual, out.data(), out_size, int32_t(input[3]),
                                 signs.empty() ? nullptr : signs.data(), int64_t(signs.size()), 2))
                return 4;
            std::free(plan);
            std::free(tables);
            if (signs != expected_signs) {
                std::printf("case %d on %s: the signs differ\n", cases, name);
                ++wrong;
            }
            size_t differ = 0;
            for (size_t i = 0; i < out.size(); ++i) differ += !same(out[i], expected[i]);
            if (differ) std::printf("case %d on %s: %zu of %zu values differ\n", cases, name, differ, out.size());
            wrong += differ != 0;
        }
    }
    wrong += wrong_pools();
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) std::printf("%s ", name);
    std::printf("- %d cases, %d runs, %d wrong\n", cases, runs, wrong);
    return wrong != 0;
}
