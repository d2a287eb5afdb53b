#include "layer.hpp"

#include <cstring>
#include <utility>

#include "nearest.hpp"

namespace rebnn {
namespace {

constexpr int64_t kLongest = int64_t(1) << 30;  // of a side: ExecuTorch's sizes have 32 bits

}  // namespace

const char* Layer::prepare(const void* data, size_t size) {
    if (rebnn_abi_version() != REBNN_ABI_VERSION) return "the kernels were built from other sources";
    Memory copy;
    if (reinterpret_cast<uintptr_t>(data) % alignof(float)) {  // a program's segments need not be aligned
        copy = Memory(int64_t(size));
        if (!copy.data()) return "out of memory";
        std::memcpy(copy.data(), data, size);
        data = copy.data();
    }
    if (const char* wrong = read_blob(data, size, &blob_)) return wrong;
    const char* wrong = nullptr;
    if (blob_.kind == Kind::real) wrong = real_.prepare(blob_);
    if (blob_.on_bits()) wrong = prepare_plan();
    rebnn_conv2d_spec sizes = blob_.spec;  // what the plan copied is not ours to keep
    sizes.bits = nullptr;
    blob_.weight = nullptr;
    for (const float** vector : {&sizes.shift, &sizes.input_scale, &sizes.input_offset, &sizes.alpha, &sizes.bias, &sizes.scale,
                                 &sizes.offset, &sizes.before, &sizes.slope, &sizes.after, &sizes.last_scale,
                                 &sizes.last_offset, &sizes.sign_shift, &sizes.sign_scale, &sizes.sign_offset})
        *vector = nullptr;
    blob_.spec = sizes;
    return wrong;
}

const char* Layer::prepare_plan() {
    const char* isa = instruction_set();
    const int64_t bytes = rebnn_conv2d_plan_bytes(isa, &blob_.spec);
    if (bytes < 0) return "the kernels have no plan for a 1-bit layer: does REBNN_MM_ISA name an instruction set that this processor lacks?";
    plan_ = Memory(bytes);
    if (!plan_.data()) return "out of memory";
    if (rebnn_conv2d_plan(isa, &blob_.spec, blob_.bits_bytes, plan_.data(), plan_.size()) != REBNN_OK)
        return "the kernels refuse a 1-bit layer";
    return nullptr;
}

bool Layer::output_size(const Sizes& input, int64_t* h, int64_t* w) const {
    const rebnn_conv2d_spec& s = blob_.spec;
    if (blob_.kind == Kind::nearest) {
        *h = input.h * s.stride_h;
        *w = input.w * s.stride_w;
        return input.h > 0 && input.w > 0 && *h <= kLongest && *w <= kLongest;
    }
    const auto along = [](int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
        const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1;
        return size < 1 || room < 0 ? 0 : room / stride + 1;
    };
    *h = along(input.h, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h);
    *w = along(input.w, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w);
    if (blob_.max_pool) {
        *h = (*h + 1) / 2;
        *w = (*w + 1) / 2;
    }
    return *h > 0 && *w > 0;
}

const Layer::Tables* Layer::tables_of(int64_t h, int64_t w) {
    for (const Tables& tables : tables_)
        if (tables.memory.data() && tables.h == h && tables.w == w) return &tables;
    const int64_t bytes = rebnn_conv2d_tables_bytes(plan_.data(), plan_.size(), h, w);
    if (bytes < 0) return nullptr;
    Memory memory(bytes);
    if (!memory.data() || rebnn_conv2d_tables(plan_.data(), plan_.size(), h, w, memory.data(), memory.size()) != REBNN_OK)
        return nullptr;
    Tables& place = tables_[next_];
    next_ = (next_ + 1) % kShapes;
    place.h = h;
    place.w = w;
    place.memory = std::move(memory);
    return &place;
}

const char* Layer::run(const void* x, const Sizes& sizes, bool channels_last, const float* residual, float* floats,
                       uint32_t* signs, int32_t threads) {
    int64_t out_h = 0, out_w = 0;
    if (blob_.on_bits() && !plan_.data()) return "the 1-bit layer was not prepared";
    if (!output_size(sizes, &out_h, &out_w)) return "the input is too small or too large for a layer";
    if (blob_.kind == Kind::nearest) {
        nearest(static_cast<const float*>(x), sizes.n, sizes.h, sizes.w, c_in(), channels_last, blob_.spec.stride_h, blob_.spec.stride_w, floats);
        return nullptr;
    }
    if (blob_.kind == Kind::real)
        return real_.run(static_cast<const float*>(x), sizes.n, sizes.h, sizes.w, channels_last, floats, sizes.n * out_h * out_w * c_out(), threads);
    const Tables* tables = tables_of(sizes.h, sizes.w);
    if (!tables) return "out of memory: the input of a 1-bit layer is too large";
    const int64_t words = (c_in() + 31) / 32, bytes = rebnn_conv2d_workspace_bytes(
        plan_.data(), plan_.size(), tables->memory.data(), tables->memory.size(), sizes.n);
    Memory& workspace = workspace_of(bytes);
    if (bytes < 0 || !workspace.data()) return "out of memory: the input of a 1-bit layer is too large";
    const int64_t pixels = sizes.n * out_h * out_w;
    rebnn_conv2d_call call{};
    call.plan = plan_.data();
    call.plan_bytes = plan_.size();
    call.tables = tables->memory.data();
    call.tables_bytes = tables->memory.size();
    call.workspace = workspace.data();
    call.workspace_bytes = workspace.size();
    call.x = x;
    call.x_size = sizes.n * sizes.h * sizes.w * (blob_.signs_in ? words : c_in());
    call.n = sizes.n;
    call.residual = residual;
    call.out = floats;
    call.out_size = floats ? pixels * c_out() : 0;
    call.signs = signs;
    call.signs_size = signs ? pixels * ((c_out() + 31) / 32) : 0;
    call.x_format = blob_.signs_in ? REBNN_SIGNS : channels_last ? REBNN_NHWC : REBNN_NCHW;
    call.out_channels_last = channels_last ? 1 : 0;
    call.threads = threads;
    const int32_t status = rebnn_conv2d_run(&call);
    let_go(workspace);
    return status == REBNN_OK ? nullptr : "the kernels refuse the input of a 1-bit layer";
}

}  // namespace rebnn
