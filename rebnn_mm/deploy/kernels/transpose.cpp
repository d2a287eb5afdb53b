// One call of the transposition: sizes, and the tasks that threads share.
#include <algorithm>

#include "conv2d.h"
#include "parallel.h"

namespace rebnn {

int32_t run_transpose(const Kernel& kernel, const float* x, int64_t n, int64_t rows, int64_t columns, float* out,
                      int64_t size, int32_t threads) {
    if (threads < 1 || rows < 1 || columns < 1 || !is_of_size(size, {n, rows, columns})) return REBNN_BAD_ARGUMENT;
    if (n == 0) return REBNN_OK;
    if (!x || !out) return REBNN_BAD_ARGUMENT;
    // Multiples of the widest vector: no two tasks write to one line of memory.
    constexpr int64_t kStep = 16;
    const int64_t steps = (columns + kStep - 1) / kStep;
    const int64_t shares = std::min(steps, threads == 1 ? int64_t(1) : threads * kTasksPerThread);
    const int64_t share = (steps + shares - 1) / shares * kStep;
    const bool done = parallel_for(n * shares, threads, [&](int64_t task) {
        const int64_t first = std::min(columns, task % shares * share), at = task / shares * rows * columns;
        kernel.transpose(x + at, rows, columns, first, std::min(columns, first + share), out + at);
    });
    return done ? REBNN_OK : REBNN_OUT_OF_MEMORY;
}

}  // namespace rebnn
