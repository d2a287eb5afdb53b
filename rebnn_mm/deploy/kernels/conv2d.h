#pragma once

#include <initializer_list>

#include "kernel.h"

namespace rebnn {

// Elements of one tensor, or of a buffer made for one. No machine has more floats than this, and a product of such a
// number with any single size of a plan stays inside 64 bits.
constexpr int64_t kMostElements = int64_t(1) << 42;

// Product of `sizes`, or -1: one is negative, or the product is larger than kMostElements.
inline int64_t count_elements(std::initializer_list<int64_t> sizes) {
    int64_t count = 1;
    for (int64_t size : sizes) {
        if (size < 0 || size > kMostElements) return -1;
        if (size && count > kMostElements / size) return -1;
        count *= size;
    }
    return count;
}

// Whether a buffer of `elements` has exactly `sizes`.
inline bool is_of_size(int64_t elements, std::initializer_list<int64_t> sizes) {
    return elements >= 0 && count_elements(sizes) == elements;
}

// Run one layer; `conv` holds plan, n, h, w, channels_last, x, residual and out; x has `x_size` floats, residual and out
// `out_size`. Returns a rebnn_status.
int32_t run(const Kernel& kernel, Conv conv, int64_t x_size, int64_t out_size, int32_t threads);

// Run one pooling; `pool` holds n, h, w, c, x, scale, offset and out. Returns a rebnn_status.
int32_t run_pool(const Kernel& kernel, Pool pool, int64_t x_size, int64_t out_size, int32_t threads);

}  // namespace rebnn
