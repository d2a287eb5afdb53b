// One call of the pooling: sizes, and the tasks that threads share.
#include <algorithm>

#include "conv2d.h"
#include "parallel.h"

namespace rebnn {

int32_t run_pool(const Kernel& kernel, Pool pool, int32_t threads) {
    constexpr int64_t kLargest = int64_t(1) << 20;  // products of sizes stay inside 64 bits
    for (int64_t size : {pool.n, pool.h, pool.w, pool.c})
        if (size < 0 || size > kLargest) return REBNN_BAD_ARGUMENT;
    if (threads < 1 || pool.h < 1 || pool.w < 1) return REBNN_BAD_ARGUMENT;
    pool.out_h = (pool.h - 1) / 2 + 1;
    pool.out_w = (pool.w - 1) / 2 + 1;
    const int64_t pixels = pool.n * pool.out_h * pool.out_w;
    // Whole rows, and few tasks: a row of windows re-reads a third of what the row above it has read.
    const int64_t tasks = std::min(pool.n * pool.out_h, threads == 1 ? 1 : threads * kTasksPerThread);
    const int64_t size = tasks ? (pool.n * pool.out_h + tasks - 1) / tasks * pool.out_w : 0;
    parallel_for(tasks, threads, [&](int64_t task) {
        kernel.pool(pool, std::min(pixels, task * size), std::min(pixels, (task + 1) * size));
    });
    return REBNN_OK;
}

}  // namespace rebnn
