// The C interface: checks arguments, and hands over to the kernel that a plan was made for.

#include <cstdint>
#include <cstring>
#include <limits>

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
    const bool norms = !spec.scale == !spec.offset && !spec.input_scale == !spec.input_offset &&
                       !spec.last_scale == !spec.last_offset && !spec.sign_scale == !spec.sign_offset;
    return spec.bits && spec.alpha && norms;
}

bool is_aligned(const void* memory) { return memory && reinterpret_cast<uintptr_t>(memory) % kAlignment == 0; }

// Whether `memory` holds a whole plan that this processor runs.
bool is_plan(const void* memory, int64_t bytes) {
    if (!is_aligned(memory) || bytes < int64_t(sizeof(Plan))) return false;
    const auto* plan = static_cast<const Plan*>(memory);
    return plan->magic == kPlanMagic && plan->bytes <= bytes && plan->kernel >= 0 && plan->kernel < kKernelCount &&
           kKernels[plan->kernel]->supported();
}

// Whether `memory` holds whole tables of `plan`.
bool are_tables(const Plan& plan, const void* memory, int64_t bytes) {
    if (!is_aligned(memory) || bytes < int64_t(sizeof(Tables))) return false;
    const auto* tables = static_cast<const Tables*>(memory);
    return tables->magic == kTablesMagic && tables->plan_key == plan.key && tables->bytes <= bytes;
}

// Whether x has as many elements as n pixels of the tables' size need.
bool fits_pixels(const Plan& plan, const Tables& tables, const rebnn_conv2d_call& call, int64_t channels) {
    if (!call.x_pixel) return is_of_size(call.x_size, {call.n, channels, tables.h, tables.w});
    if (call.x_format != REBNN_NHWC || call.x_pixel < channels) return false;
    const int64_t whole = count_elements({call.n, tables.h, tables.w, call.x_pixel});
    return whole >= 0 && call.x_size == (whole ? whole - call.x_pixel + plan.c_in : 0);
}

// Whether input and outputs of a call have the sizes that plan and tables say, and a format that there is.
bool fits(const Plan& plan, const Tables& tables, const rebnn_conv2d_call& call) {
    const bool bits = call.x_format == REBNN_SIGNS;
    if (call.x_format < REBNN_NCHW || call.x_format > REBNN_SIGNS) return false;
    if (bits && (plan.shift || plan.input_scale)) return false;
    const int64_t x_channels = bits ? (plan.c_in + kWordBits - 1) / kWordBits : plan.c_in;
    if (!fits_pixels(plan, tables, call, x_channels)) return false;
    if (call.signs_size && !call.out_channels_last) return false;
    const bool floats = is_of_size(call.out_size, {call.n, plan.c_out, tables.out_h, tables.out_w});
    const bool signs = is_of_size(call.signs_size, {call.n, plan.sign_words(), tables.out_h, tables.out_w});
    if (call.n == 0) return floats && signs;
    if (!call.x || !call.out != !call.out_size || !call.signs != !call.signs_size) return false;
    return (call.out || call.signs) && (floats || !call.out) && (signs || !call.signs);
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

int32_t rebnn_conv2d_plan(const char* isa, const rebnn_conv2d_spec* spec, int64_t bits_bytes, void* memory,
                          int64_t plan_bytes) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    if (!spec || !rebnn::is_complete(*spec) || !rebnn::is_aligned(memory)) return REBNN_BAD_ARGUMENT;
    const rebnn::Layout& layout = rebnn::kKernels[kernel]->layout;
    rebnn::Plan header;
    if (!plan_header(layout, *spec, &header)) return REBNN_BAD_ARGUMENT;
    if (bits_bytes != header.bits_bytes() || plan_bytes < header.bytes) return REBNN_BAD_ARGUMENT;
    header.kernel = kernel;
    auto* plan = static_cast<rebnn::Plan*>(memory);
    *plan = header;
    plan_contents(layout, *spec, plan);
    return REBNN_OK;
}

int64_t rebnn_conv2d_tables_bytes(const void* plan, int64_t plan_bytes, int64_t h, int64_t w) {
    return rebnn::is_plan(plan, plan_bytes) ? rebnn::tables_bytes(*static_cast<const rebnn::Plan*>(plan), h, w) : -1;
}

int32_t rebnn_conv2d_tables(const void* plan, int64_t plan_bytes, int64_t h, int64_t w, void* tables,
                            int64_t tables_bytes) {
    const int64_t needed = rebnn_conv2d_tables_bytes(plan, plan_bytes, h, w);
    if (needed < 0 || !rebnn::is_aligned(tables) || tables_bytes < needed) return REBNN_BAD_ARGUMENT;
    write_tables(*static_cast<const rebnn::Plan*>(plan), h, w, static_cast<rebnn::Tables*>(tables));
    return REBNN_OK;
}

int64_t rebnn_conv2d_workspace_bytes(const void* plan, int64_t plan_bytes, const void* tables, int64_t tables_bytes,
                                     int64_t n) {
    if (!rebnn::is_plan(plan, plan_bytes)) return -1;
    const auto& checked = *static_cast<const rebnn::Plan*>(plan);
    if (!rebnn::are_tables(checked, tables, tables_bytes)) return -1;
    return workspace_bytes(checked, *static_cast<const rebnn::Tables*>(tables), n);
}

int32_t rebnn_conv2d_run(const rebnn_conv2d_call* call) {
    if (!call || !rebnn::is_plan(call->plan, call->plan_bytes)) return REBNN_BAD_ARGUMENT;
    const auto& plan = *static_cast<const rebnn::Plan*>(call->plan);
    if (!rebnn::are_tables(plan, call->tables, call->tables_bytes) || call->threads < 1) return REBNN_BAD_ARGUMENT;
    const auto& tables = *static_cast<const rebnn::Tables*>(call->tables);
    if (!rebnn::fits(plan, tables, *call)) return REBNN_BAD_ARGUMENT;
    if (call->n == 0) return REBNN_OK;
    const int64_t needed = workspace_bytes(plan, tables, call->n);
    if (needed < 0) return REBNN_OUT_OF_MEMORY;
    if (!rebnn::is_aligned(call->workspace) || call->workspace_bytes < needed) return REBNN_BAD_ARGUMENT;
    const bool bits = call->x_format == REBNN_SIGNS;
    rebnn::Conv conv{};
    conv.plan = &plan;
    conv.n = call->n;
    conv.x_channels_last = call->x_format == REBNN_NHWC;
    conv.out_channels_last = call->out_channels_last != 0;
    conv.x = bits ? nullptr : static_cast<const float*>(call->x);
    conv.x_pixel = call->x_pixel ? call->x_pixel : plan.c_in;
    conv.x_signs = bits ? static_cast<const uint32_t*>(call->x) : nullptr;
    conv.residual = call->residual;
    conv.out = call->out;
    conv.signs = call->signs;
    conv.input_signs = static_cast<uint32_t*>(call->workspace);
    return run(*rebnn::kKernels[plan.kernel], tables, conv, call->threads);
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
    pool.clamp_low = -std::numeric_limits<float>::infinity();
    pool.clamp_high = std::numeric_limits<float>::infinity();
    pool.out = out;
    return run_pool(*rebnn::kKernels[kernel], pool, x_size, out_size, threads);
}

int32_t rebnn_mean_run(const char* isa, const float* x, int64_t x_size, int64_t n, int64_t pixels, int64_t c,
                       int64_t lanes, float* out, int64_t out_size) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    constexpr int64_t kLargest = int64_t(1) << 20;
    if (pixels < 1 || pixels > kLargest || c < 1 || c > kLargest || lanes < 4 || lanes > 16) return REBNN_BAD_ARGUMENT;
    if (!rebnn::is_of_size(x_size, {n, pixels, c}) || !rebnn::is_of_size(out_size, {n, c})) return REBNN_BAD_ARGUMENT;
    if (n == 0) return REBNN_OK;
    if (!x || !out) return REBNN_BAD_ARGUMENT;
    for (int64_t image = 0; image < n; ++image)
        rebnn::kKernels[kernel]->sum_pixels(x + image * pixels * c, c, pixels, lanes, out + image * c);
    for (int64_t i = 0; i < n * c; ++i) out[i] /= float(pixels);
    return REBNN_OK;
}

int32_t rebnn_transpose_run(const char* isa, const float* x, int64_t n, int64_t rows, int64_t columns, float* out,
                            int64_t size, int32_t threads) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    return run_transpose(*rebnn::kKernels[kernel], x, n, rows, columns, out, size, threads);
}

int64_t rebnn_real_conv2d_workspace_bytes(const rebnn_real_conv2d_call* call) {
    return call ? rebnn::real_workspace_bytes(*call) : -1;
}

int32_t rebnn_real_conv2d_run(const char* isa, const rebnn_real_conv2d_call* call) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    return call ? run_real_conv2d(*rebnn::kKernels[kernel], *call) : REBNN_BAD_ARGUMENT;
}

int32_t rebnn_unit_run(const char* isa, const rebnn_unit_call* call) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    if (!call) return REBNN_BAD_ARGUMENT;
    const rebnn::Unit unit{call->n,      call->c,      call->plane, call->values, call->x,          call->shortcut,
                           call->counts, call->code,   call->scale, call->offset, call->slope,      call->after,
                           call->polynomial != 0, call->counts_out, call->code_out, call->out, call->sums};
    return run_unit(*rebnn::kKernels[kernel], call->step, unit, call->size, call->threads);
}

int32_t rebnn_depthwise_run(const char* isa, const float* x, int64_t x_size, int64_t n, int64_t h, int64_t w, int64_t c,
                            const float* weight, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding,
                            int64_t dilation, const float* start, const float* scale, const float* offset,
                            float clamp_low, float clamp_high, float* out, int64_t out_size, int32_t threads) {
    const int32_t kernel = rebnn::find_kernel(isa);
    if (kernel < 0) return REBNN_UNSUPPORTED_ISA;
    const rebnn::Depthwise depthwise{n,       h,        w, c,      0,     0,     kernel_h, kernel_w,  stride,
                                     padding, dilation, x, weight, start, scale, offset,   clamp_low, clamp_high,
                                     out};
    return run_depthwise(*rebnn::kKernels[kernel], depthwise, x_size, out_size, threads);
}

}  // extern "C"
