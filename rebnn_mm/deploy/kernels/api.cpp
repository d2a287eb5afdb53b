// The C interface: checks arguments, and hands over to the kernel that a plan was made for.

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
    return kernel >= 0 && plan_header(rebnn::kKernels[kernel]->layout, *spec, &header) ? header.bytes : -1;
}

int32_t rebnn_conv2d_plan(const char* isa, const rebnn_conv2d_spec* spec, void* memory) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    const bool affine = !spec->scale == !spec->offset && !spec->input_scale == !spec->input_offset &&
                        !spec->last_scale == !spec->last_offset && !spec->sign_scale == !spec->sign_offset;
    if (!spec->packed || !spec->alpha || !affine) return REBNN_BAD_ARGUMENT;
    auto* plan = static_cast<rebnn::Plan*>(memory);
    const rebnn::Layout& layout = rebnn::kKernels[kernel]->layout;
    if (!plan_header(layout, *spec, plan)) return REBNN_BAD_ARGUMENT;
    plan->kernel = kernel;
    plan_contents(layout, *spec, plan);
    return REBNN_OK;
}

int32_t rebnn_conv2d_run(const void* memory, const float* x, int64_t n, int64_t h, int64_t w, int32_t channels_last,
                         const float* residual, float* out, int32_t threads) {
    const auto* plan = static_cast<const rebnn::Plan*>(memory);
    if (plan->magic != rebnn::kPlanMagic || plan->kernel < 0 || plan->kernel >= rebnn::kKernelCount)
        return REBNN_BAD_ARGUMENT;
    rebnn::Conv conv{};
    conv.plan = plan;
    conv.n = n;
    conv.h = h;
    conv.w = w;
    conv.channels_last = channels_last != 0;
    conv.x = x;
    conv.residual = residual;
    conv.out = out;
    return run(*rebnn::kKernels[plan->kernel], conv, threads);
}

int32_t rebnn_max_pool_run(const char* isa, const float* x, int64_t n, int64_t h, int64_t w, int64_t c,
                           const float* scale, const float* offset, float* out, int32_t threads) {
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
    return run_pool(*rebnn::kKernels[kernel], pool, threads);
}

}  // extern "C"
