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

// Everything of one call of a small layer, to be spoilt one thing at a time. The floats are filled with what no kernel
// may write, so that a refused call that writes all the same is seen.
struct Call {
    explicit Call(const char* isa) : isa(isa) {
        spec.c_in = 5;
        spec.c_out = 3;
        spec.kernel_h = spec.kernel_w = 3;
        spec.stride_h = spec.stride_w = spec.dilation_h = spec.dilation_w = spec.groups = 1;
        spec.padding_h = spec.padding_w = 2;
        spec.packed = packed.data();
        spec.alpha = alpha.data();
    }
    ~Call() { std::free(memory); }

    int32_t plan() {
        if (!memory) {
            const int64_t bytes = rebnn_conv2d_plan_bytes(isa, &spec);
            if (bytes < 0) return REBNN_BAD_ARGUMENT;
            if (plan_bytes < 0) plan_bytes = bytes;
            memory = std::aligned_alloc(64, size_t(bytes + 64));
        }
        return rebnn_conv2d_plan(isa, &spec, packed_bytes, static_cast<char*>(memory) + shift, plan_bytes);
    }
    int32_t run() {
        return rebnn_conv2d_run(null_plan ? nullptr : memory, plan_bytes, null_x ? nullptr : x.data(), x_size, n, h, w,
                                0, nullptr, null_out ? nullptr : out.data(), out_size, threads);
    }
    bool untouched() const {
        return std::all_of(out.begin(), out.end(), [](float value) { return value == -77.f; });
    }

    const char* isa;
    rebnn_conv2d_spec spec{};
    std::vector<uint8_t> packed = std::vector<uint8_t>(17, 0x5a);  // 3 * 3 * 3 * 5 bits
    std::vector<float> alpha = std::vector<float>(3, 1.f), x = std::vector<float>(2 * 5 * 4 * 6, 1.f);
    std::vector<float> out = std::vector<float>(2 * 3 * 6 * 8, -77.f);
    int64_t packed_bytes = 17, plan_bytes = -1, n = 2, h = 4, w = 6, x_size = 240, out_size = 288, shift = 0;
    int32_t threads = 2;
    bool null_plan = false, null_x = false, null_out = false;
    void* memory = nullptr;
};

// Calls that must be refused, and are not, or write something.
int unrefused() {
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();
    using Change = std::function<void(Call&)>;
    std::vector<Change> plans, runs;
    int64_t rebnn_conv2d_spec::*const sizes[] = {
        &rebnn_conv2d_spec::c_in,       &rebnn_conv2d_spec::c_out,      &rebnn_conv2d_spec::kernel_h,
        &rebnn_conv2d_spec::kernel_w,   &rebnn_conv2d_spec::stride_h,   &rebnn_conv2d_spec::stride_w,
        &rebnn_conv2d_spec::dilation_h, &rebnn_conv2d_spec::dilation_w, &rebnn_conv2d_spec::groups};
    for (auto size : sizes)
        for (int64_t value : {int64_t(0), int64_t(-1), kMost, kLeast})
            plans.push_back([=](Call& call) { call.spec.*size = value; });
    for (auto padding : {&rebnn_conv2d_spec::padding_h, &rebnn_conv2d_spec::padding_w})
        for (int64_t value : {int64_t(-1), kMost, kLeast})
            plans.push_back([=](Call& call) { call.spec.*padding = value; });
    plans.push_back([](Call& call) { call.spec.groups = 2; });
    plans.push_back([](Call& call) { call.spec.kernel_h = call.spec.kernel_w = 1 << 20; });
    plans.push_back([](Call& call) { call.spec.packed = nullptr; });
    plans.push_back([](Call& call) { call.spec.alpha = nullptr; });
    plans.push_back([](Call& call) { call.spec.scale = call.alpha.data(); });
    plans.push_back([](Call& call) { call.spec.input_scale = call.alpha.data(); });
    plans.push_back([](Call& call) { call.spec.slope = call.alpha.data(); });
    for (int64_t bytes : {int64_t(0), int64_t(16), int64_t(18), int64_t(-1), kMost})
        plans.push_back([=](Call& call) { call.packed_bytes = bytes; });
    for (int64_t bytes : {int64_t(0), int64_t(1), int64_t(100)})
        plans.push_back([=](Call& call) { call.plan_bytes = bytes; });
    plans.push_back([](Call& call) { call.shift = 4; });
    for (auto size : {&Call::n, &Call::h, &Call::w})
        for (int64_t value : {int64_t(0), int64_t(-1), int64_t(1) << 40, int64_t(1) << 62, kMost, kLeast}) {
            runs.push_back([=](Call& call) { call.*size = value; });
            runs.push_back([=](Call& call) {  // a caller who computes the sizes wrongly, too
                call.*size = value;
                call.x_size = call.out_size = -1;
            });
            if (size == &Call::n || value == int64_t(1) << 40) continue;
            runs.push_back([=](Call& call) {  // no image, but a size that no image has
                call.*size = value;
                call.n = call.x_size = call.out_size = 0;
            });
        }
    for (auto size : {&Call::x_size, &Call::out_size})
        for (int64_t value : {int64_t(0), int64_t(1), int64_t(-1), int64_t(239), int64_t(289), kMost, kLeast})
            runs.push_back([=](Call& call) { call.*size = value; });
    for (int64_t bytes : {int64_t(0), int64_t(-1), int64_t(8), int64_t(400)})
        runs.push_back([=](Call& call) { call.plan_bytes = bytes; });
    for (int32_t threads : {0, -1, std::numeric_limits<int32_t>::min()})
        runs.push_back([=](Call& call) { call.threads = threads; });
    for (auto null : {&Call::null_plan, &Call::null_x, &Call::null_out})
        runs.push_back([=](Call& call) { call.*null = true; });
    runs.push_back([](Call& call) { std::memset(call.memory, 0, 64); });

    int wrong = 0;
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
        for (size_t i = 0; i < plans.size(); ++i) {
            Call call(name);
            plans[i](call);
            if (call.plan() == REBNN_BAD_ARGUMENT) continue;
            std::printf("a plan is made after change %zu on %s\n", i, name);
            ++wrong;
        }
        for (size_t i = 0; i < runs.size(); ++i) {
            Call call(name);
            if (call.plan()) return -1;
            runs[i](call);
            if (call.run() == REBNN_BAD_ARGUMENT && call.untouched()) continue;
            std::printf("a layer runs after change %zu on %s\n", i, name);
            ++wrong;
        }
        Call empty(name);  // no image at all is no fault, with or without memory
        empty.n = empty.x_size = empty.out_size = 0;
        empty.null_x = empty.null_out = true;
        wrong += empty.plan() || empty.run();
        wrong += rebnn_conv2d_plan_bytes(name, nullptr) != -1;
        wrong += rebnn_conv2d_plan(name, nullptr, 0, empty.memory, 0) != REBNN_BAD_ARGUMENT;
        wrong += rebnn_conv2d_plan(name, &empty.spec, 17, nullptr, 1 << 20) != REBNN_BAD_ARGUMENT;
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

// Let each allocation of a call with many threads fail in turn, thread starts included: the call says so or finishes
// with the right values, and no thread is left behind (a thread that nobody joins ends the process).
int wrong_without_memory() {
    int wrong = 0;
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) {
        Call call(name);
        call.spec.c_out = 300;  // work for more than one thread
        call.alpha.assign(300, 1.f);
        call.spec.alpha = call.alpha.data();
        call.packed.assign(300 * 45 / 8 + 1, 0x5a);
        call.spec.packed = call.packed.data();
        call.packed_bytes = int64_t(call.packed.size());
        call.h = call.w = 40;
        call.x_size = 2 * 5 * 40 * 40;
        call.x.assign(size_t(call.x_size), 1.f);
        call.out_size = 2 * 300 * 42 * 42;
        call.out.assign(size_t(call.out_size), -77.f);
        call.threads = 4;
        if (call.plan() || call.run()) return -1;
        const std::vector<float> expected = call.out;
        int refused = 0;
        for (int left = 0; left < 100; ++left) {
            std::fill(call.out.begin(), call.out.end(), -77.f);
            allocations_left = left;
            const int32_t status = call.run();
            allocations_left = -1;
            refused += status == REBNN_OUT_OF_MEMORY;
            wrong += status == REBNN_OK ? call.out != expected : status != REBNN_OUT_OF_MEMORY;
        }
        wrong += refused < 4;
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
            const int64_t x_size = int64_t(floats[10].size()), out_size = int64_t(out.size());
            if (rebnn_conv2d_plan(name, &spec, packed_bytes, plan, bytes) ||
                rebnn_conv2d_run(plan, bytes, x, x_size, input[0], input[1], input[2], int32_t(input[3]), residual,
                                 out.data(), out_size, 2))
                return 4;
            std::free(plan);
            size_t differ = 0;
            for (size_t i = 0; i < out.size(); ++i) differ += !same(out[i], expected[i]);
            if (differ) std::printf("case %d on %s: %zu of %zu values differ\n", cases, name, differ, out.size());
            wrong += differ != 0;
        }
    }
    wrong += wrong_pools() + unrefused() + wrong_without_memory();
    for (int isa = 0; const char* name = rebnn_isa_name(isa); ++isa) std::printf("%s ", name);
    std::printf("- %d cases, %d runs, %d wrong\n", cases, runs, wrong);
    return wrong != 0;
}
