// Runs layers read from a file on every instruction set of this machine and compares the outputs, bit for bit.
// It needs nothing but the kernels, so it also runs cross-compiled, or built with sanitizers. See test_cross.py.
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

}  // namespace

int main(int, char** arguments) {
    std::FILE* file = std::fopen(arguments[1], "rb");
    if (!file) return 3;
    rebnn_conv2d_spec spec;
    int cases = 0, runs = 0, wrong = 0;
    // the struct's sizes come first, in the file as in the struct
    for (; read_into(file, &spec, 11 * sizeof(int64_t)); ++cases) {
        int64_t input[4], packed_bytes;
        if (!read_into(file, input, sizeof(input)) || !read_into(file, &packed_bytes, sizeof(packed_bytes))) return 3;
        std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes));
        if (!read_into(file, packed.data(), packed.size())) return 3;
        std::vector<float> floats[13];
        const float** vectors[] = {&spec.shift, &spec.input_scale, &spec.input_offset, &spec.alpha,  &spec.bias,
                                   &spec.scale, &spec.offset,      &spec.before,       &spec.slope, &spec.after};
        for (int i = 0; i < 10; ++i) *vectors[i] = read_floats(file, floats[i]);
        const float* x = read_floats(file, floats[10]);
        const float* residual = read_floats(file, floats[11]);
        std::vector<float> expected;
        read_floats(file, expected);
        spec.packed = packed.data();
        for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa, ++runs) {
            const int64_t bytes = rebnn_conv2d_plan_bytes(name, &spec);
            if (bytes < 0) return 4;
            void* plan = std::aligned_alloc(64, size_t(bytes));
            std::vector<float> out(expected.size());
            if (rebnn_conv2d_plan(name, &spec, plan) ||
                rebnn_conv2d_run(plan, x, input[0], input[1], input[2], int32_t(input[3]), residual, out.data(), 2))
                return 4;
            std::free(plan);
            size_t differ = 0;
            for (size_t i = 0; i < out.size(); ++i) differ += !same(out[i], expected[i]);
            if (differ) std::printf("case %d on %s: %zu of %zu values differ\n", cases, name, differ, out.size());
            wrong += differ != 0;
        }
    }
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) std::printf("%s ", name);
    std::printf("- %d cases, %d runs, %d wrong\n", cases, runs, wrong);
    return wrong != 0;
}
