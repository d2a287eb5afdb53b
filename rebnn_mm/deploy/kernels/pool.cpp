// One call of the pooling: sizes, and the tasks that threads share.
#include <algorithm>

#include "conv2d.h"
#include "parallel.h"

namespace rebnn {

int32_t run_pool(const Kernel& kernel, Pool pool, int64_t x_size, int64_t out_size, int32_t threads) {
    if (threads < 1 || pool.h < 1 || pool.w < 1 || pool.c < 1) return REBNN_BAD_ARGUMENT;
    if (!is_of_size(x_size, {pool.n, pool.h, pool.w, pool.c})) return REBNN_BAD_ARGUMENT;
    pool.out_h = (pool.h - 1) / 2 + 1;
    pool.out_w = (pool.w - 1) / 2 + 1;
    if (!is_of_size(out_size, {pool.n, pool.out_h, pool.out_w, pool.c})) return REBNN_BAD_ARGUMENT;
    if (pool.n == 0) return REBNN_OK;
    if (!pool.x || !pool.scale || !pool.offset || !pool.out) return REBNN_BAD_ARGUMENT;
    const int64_t pixels = pool.n * pool.out_h * pool.out_w;
    // Whole rows, and few tasks: a row of windows re-reads a third of what the row above it has read.
    const int64_t tasks = std::min(pool.n * pool.out_h, threads == 1 ? 1 : threads * kTasksPerThread);
    const int64_t size = (pool.n * pool.out_h + tasks - 1) / tasks * pool.out_w;
    const bool done = parallel_for(tasks, threads, [&](int64_t task) {
        kernel.pool(pool, std::min(pixels, task * size), std::min(pixels, (task + 1) * size));
    });
    return done ? REBNN_OK : REBNN_OUT_OF_MEMORY;
}

}  // namespace rebnn
