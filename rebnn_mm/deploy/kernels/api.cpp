// The C interface: checks arguments, and hands over to the kernel that a plan was made for.

#include <cstdint>
#include <cstring>

#include "conv2d.h"

namespace rebnn {
namespace {

// Index of the instruction set `isa` among the kernels that this processor runs, or -1.
int32_t find_kernel(const char* isa) {
    for (int32_t i = 0; isa && i < kKernelCount; ++i)
        if (!std::strcmp(kKernels[i]->name, isa)) return kKernels[i]->supported() ? i : -1;
    return -1;
}

// Whether `spec` names everything a layer needs, and parameters that belong together are all there or none.
bool is_complete(const rebnn_conv2d_spec& spec) {
    const bool affine = !spec.scale == !spec.offset && !spec.input_scale == !spec.input_offset;
    const bool rprelu = !spec.before == !spec.slope && !spec.slope == !spec.after;
    return spec.packed && spec.alpha && affine && rprelu;
}

bool is_aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % rebnn::kAlignment == 0; }

// Whether `memory` holds a whole plan that this processor runs.
bool is_plan(const void* memory, int64_t bytes) {
    if (!memory || !is_aligned(memory) || bytes < int64_t(sizeof(Plan))) return false;
    const auto* plan = static_cast<const Plan*>(memory);
    return plan->magic == kPlanMagic && plan->bytes <= bytes && plan->kernel >= 0 && plan->kernel < kKernelCount &&
           kKernels[plan->kernel]->supported();
}

}  // namespace
}  // namespace rebnn

extern "C" {

int32_t rebnn_abi_version(void) { return REBNN_ABI_VERSION; }

const char* rebnn_isa_name(int32_t index) {
    for (int32_t i = 0; i < rebnn::kKernelCount; ++i)
        if (rebnn::kKernels[i]->supported() && index-- == 0) return rebnn::kKernels[i]->name;
    return nullptr;
}

int64_t rebnn_conv2d_plan_bytes(const char* isa, const rebnn_conv2d_spec* spec) {
    const int32_t kernel = rebnn::find_kernel(isa);
    rebnn::Plan header;
    return kernel >= 0 && spec && plan_header(rebnn::kKernels[kernel]->layout, *spec, &header) ? header.bytes : -1;
}

int32_t rebnn_conv2d_plan(const char* isa, const rebnn_conv2d_spec* spec, int64_t packed_bytes, void* memory,
                          int64_t plan_bytes) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    if (!spec || !rebnn::is_complete(*spec) || !memory || !rebnn::is_aligned(memory)) return REBNN_BAD_ARGUMENT;
    const rebnn::Layout& layout = rebnn::kKernels[kernel]->layout;
    rebnn::Plan header;
    if (!plan_header(layout, *spec, &header)) return REBNN_BAD_ARGUMENT;
    if (packed_bytes != header.packed_bytes() || plan_bytes < header.bytes) return REBNN_BAD_ARGUMENT;
    header.kernel = kernel;
    auto* plan = static_cast<rebnn::Plan*>(memory);
    *plan = header;
    plan_contents(layout, *spec, plan);
    return REBNN_OK;
}

int32_t rebnn_conv2d_run(const void* memory, int64_t plan_bytes, const float* x, int64_t x_size, int64_t n, int64_t h,
                         int64_t w, int32_t channels_last, const float* residual, float* out, int64_t out_size,
                         int32_t threads) {
    if (!rebnn::is_plan(memory, plan_bytes)) return REBNN_BAD_ARGUMENT;
    const auto* plan = static_cast<const rebnn::Plan*>(memory);
    rebnn::Conv conv{};
    conv.plan = plan;
    conv.n = n;
    conv.h = h;
    conv.w = w;
    conv.channels_last = channels_last != 0;
    conv.x = x;
    conv.residual = residual;
    conv.out = out;
    return run(*rebnn::kKernels[plan->kernel], conv, x_size, out_size, threads);
}

int32_t rebnn_max_pool_run(const char* isa, const float* x, int64_t x_size, int64_t n, int64_t h, int64_t w, int64_t c,
                           const float* scale, const float* offset, float* out, int64_t out_size, int32_t threads) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    rebnn::Pool pool{};
    pool.n = n;
    pool.h = h;
    pool.w = w;
    pool.c = c;
    pool.x = x;
    pool.scale = scale;
    pool.offset = offset;
    pool.out = out;
    return run_pool(*rebnn::kKernels[kernel], pool, x_size, out_size, threads);
}

}  // extern "C"
