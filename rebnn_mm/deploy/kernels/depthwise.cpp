// One call of a real-valued depthwise convolution: sizes, and the tasks that threads share.
#include <algorithm>

#include "conv2d.h"
#include "parallel.h"

namespace rebnn {
namespace {

int64_t output_size(int64_t in, int64_t kernel, const Depthwise& d) {
    const int64_t span = in + 2 * d.padding - d.dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / d.stride + 1;
}

}  // namespace

int32_t run_depthwise(const Kernel& kernel, Depthwise d, int64_t x_size, int64_t out_size, int32_t threads) {
    constexpr int64_t kLargest = int64_t(1) << 20;
    for (int64_t size : {d.h, d.w, d.c, d.kernel_h, d.kernel_w, d.stride, d.dilation})
        if (size < 1 || size > kLargest) return REBNN_BAD_ARGUMENT;
    if (threads < 1 || d.padding < 0 || d.padding > kLargest) return REBNN_BAD_ARGUMENT;
    if (!is_of_size(x_size, {d.n, d.h, d.w, d.c})) return REBNN_BAD_ARGUMENT;
    d.out_h = output_size(d.h, d.kernel_h, d);
    d.out_w = output_size(d.w, d.kernel_w, d);
    if (d.out_h < 1 || d.out_w < 1) return REBNN_BAD_ARGUMENT;
    if (!is_of_size(out_size, {d.n, d.out_h, d.out_w, d.c})) return REBNN_BAD_ARGUMENT;
    if (d.n == 0) return REBNN_OK;
    if (!d.x || !d.weight || !d.scale || !d.offset || !d.out) return REBNN_BAD_ARGUMENT;
    const int64_t rows = d.n * d.out_h, tasks = std::min(rows, threads == 1 ? 1 : threads * kTasksPerThread);
    const int64_t size = (rows + tasks - 1) / tasks;
    const bool done = parallel_for(tasks, threads, [&](int64_t task) {
        kernel.depthwise(d, std::min(rows, task * size), std::min(rows, (task + 1) * size));
    });
    return done ? REBNN_OK : REBNN_OUT_OF_MEMORY;
}

}  // namespace rebnn
