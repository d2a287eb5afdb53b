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

bool is_plan(const void* memory) {
    const auto* plan = static_cast<const Plan*>(memory);
    return plan && plan->magic == kPlanMagic && plan->kernel >= 0 && plan->kernel < kKernelCount;
}

// Whether `memory` holds tables of `plan`.
bool are_tables(const void* plan, const void* memory) {
    const auto* tables = static_cast<const Tables*>(memory);
    return tables && tables->magic == kTablesMagic && tables->plan_key == static_cast<const Plan*>(plan)->key;
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

int64_t rebnn_conv2d_tables_bytes(const void* plan, int64_t h, int64_t w) {
    return rebnn::is_plan(plan) ? rebnn::tables_bytes(*static_cast<const rebnn::Plan*>(plan), h, w) : -1;
}

int32_t rebnn_conv2d_tables(const void* plan, int64_t h, int64_t w, void* tables) {
    if (!rebnn::is_plan(plan)) return REBNN_BAD_ARGUMENT;
    const bool done = write_tables(*static_cast<const rebnn::Plan*>(plan), h, w, static_cast<rebnn::Tables*>(tables));
    return done ? REBNN_OK : REBNN_BAD_ARGUMENT;
}

int64_t rebnn_conv2d_workspace_bytes(const void* plan, const void* tables, int64_t n) {
    if (!rebnn::is_plan(plan) || !rebnn::are_tables(plan, tables)) return -1;
    return workspace_bytes(*static_cast<const rebnn::Plan*>(plan), *static_cast<const rebnn::Tables*>(tables), n);
}

int32_t rebnn_conv2d_run(const void* plan_memory, const void* tables_memory, void* workspace, int64_t workspace_size,
                         const void* x, int64_t x_size, int32_t x_format, int64_t n, const float* residual, float* out,
                         int64_t out_size, int32_t out_channels_last, uint32_t* signs, int64_t signs_size,
                         int32_t threads) {
    if (!rebnn::is_plan(plan_memory) || !rebnn::are_tables(plan_memory, tables_memory) || threads < 1 || n < 0)
        return REBNN_BAD_ARGUMENT;
    const auto& plan = *static_cast<const rebnn::Plan*>(plan_memory);
    const auto& tables = *static_cast<const rebnn::Tables*>(tables_memory);
    if (n == 0) return REBNN_OK;
    const bool bits = x_format == REBNN_SIGNS;
    const int64_t x_channels = bits ? (plan.c_in + rebnn::kWordBits - 1) / rebnn::kWordBits : plan.c_in;
    if (!rebnn::is_of_size(x_size, {n, x_channels, tables.h, tables.w})) return REBNN_BAD_ARGUMENT;
    if (bits && (plan.shift || plan.input_scale)) return REBNN_BAD_ARGUMENT;
    if (!out && !signs) return REBNN_BAD_ARGUMENT;
    if (out && !rebnn::is_of_size(out_size, {n, plan.c_out, tables.out_h, tables.out_w})) return REBNN_BAD_ARGUMENT;
    if (signs && !rebnn::is_of_size(signs_size, {n, plan.sign_words(), tables.out_h, tables.out_w}))
        return REBNN_BAD_ARGUMENT;
    if (signs && !out_channels_last) return REBNN_BAD_ARGUMENT;
    const int64_t needed = workspace_bytes(plan, tables, n);
    if (needed < 0 || workspace_size < needed) return REBNN_BAD_ARGUMENT;
    rebnn::Conv conv{};
    conv.plan = &plan;
    conv.n = n;
    conv.x_channels_last = x_format == REBNN_NHWC;
    conv.out_channels_last = out_channels_last != 0;
    conv.x = bits ? nullptr : static_cast<const float*>(x);
    conv.x_signs = bits ? static_cast<const uint32_t*>(x) : nullptr;
    conv.residual = residual;
    conv.out = out;
    conv.signs = signs;
    conv.packed = static_cast<uint32_t*>(workspace);
    run(*rebnn::kKernels[plan.kernel], tables, conv, threads);
    return REBNN_OK;
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
