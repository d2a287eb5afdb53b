#include "real_conv.hpp"

#include <algorithm>
#include <cstring>

namespace rebnn {
namespace {

constexpr int64_t kBlock = 64;  // output channels that lie beside each other, as rebnn_real_conv2d_call says

}  // namespace

const char* RealConv::prepare(const Blob& blob) {
    const rebnn_conv2d_spec& s = blob.spec;
    const int64_t taps = s.kernel_h * s.kernel_w * s.c_in, blocks = (s.c_out + kBlock - 1) / kBlock;
    const int64_t floats = blocks * taps * kBlock;  // sizes are at most 2^20, products in a sum 2^24
    weight_ = Memory(floats * int64_t(sizeof(float)));
    vectors_ = Memory(2 * s.c_out * int64_t(sizeof(float)));
    if (!weight_.data() || !vectors_.data()) return "out of memory";
    auto* to = static_cast<float*>(weight_.data());
    std::fill(to, to + floats, 0.f);
    for (int64_t c = 0; c < s.c_out; ++c)
        for (int64_t tap = 0; tap < taps; ++tap) to[(c / kBlock * taps + tap) * kBlock + c % kBlock] = blob.weight[c * taps + tap];
    auto* vectors = static_cast<float*>(vectors_.data());
    std::copy(s.scale, s.scale + s.c_out, vectors);
    std::copy(s.offset, s.offset + s.c_out, vectors + s.c_out);
    call_.c_in = s.c_in;
    call_.c_out = s.c_out;
    call_.kernel_h = s.kernel_h;
    call_.kernel_w = s.kernel_w;
    call_.stride = s.stride_h;
    call_.padding = s.padding_h;
    call_.chunk = s.c_in;
    call_.weight = to;
    call_.weight_size = floats;
    call_.scale = vectors;
    call_.offset = vectors + s.c_out;
    call_.clamp_low = float(s.clamp_low);
    call_.clamp_high = float(s.clamp_high);
    call_.max_pool = blob.max_pool ? 1 : 0;
    return nullptr;
}

const char* RealConv::run(const float* x, int64_t n, int64_t h, int64_t w, bool channels_last, float* out, int64_t out_size, int32_t threads) {
    rebnn_real_conv2d_call call = call_;
    call.x = x;
    call.x_size = n * h * w * call.c_in;
    call.n = n;
    call.h = h;
    call.w = w;
    call.x_channels_last = channels_last ? 1 : 0;
    call.out = out;
    call.out_size = out_size;
    call.threads = threads;
    const int64_t bytes = rebnn_real_conv2d_workspace_bytes(&call);
    Memory& workspace = workspace_of(bytes);
    if (bytes < 0 || !workspace.data()) return "out of memory: the input of a real-valued convolution is too large";
    call.workspace = workspace.data();
    call.workspace_bytes = workspace.size();
    const int32_t status = rebnn_real_conv2d_run(instruction_set(), &call);
    let_go(workspace);
    return status == REBNN_OK ? nullptr : "the kernels refuse the input of a real-valued convolution";
}

}  // namespace rebnn
