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

// Bytes of the workspace for `n` images, or -1 if it is too large.
int64_t workspace_bytes(const Plan& plan, const Tables& tables, int64_t n);

// Run one layer. `conv` holds plan, n, formats, input and outputs, which have the right sizes; `input_signs` is the workspace.
// Returns a rebnn_status.
int32_t run(const Kernel& kernel, const Tables& tables, Conv conv, int32_t threads);

// Run one pooling; `pool` holds n, h, w, c, x, scale, offset and out, `x_size` and `out_size` floats. Returns a
// rebnn_status.
int32_t run_pool(const Kernel& kernel, Pool pool, int64_t x_size, int64_t out_size, int32_t threads);

// Transpose n matrices, of `size` floats in all. Returns a rebnn_status.
int32_t run_transpose(const Kernel& kernel, const float* x, int64_t n, int64_t rows, int64_t columns, float* out,
                      int64_t size, int32_t threads);

// Run one real-valued convolution, and the bytes of its workspace, -1 if arguments do not fit or it is too large.
int32_t run_real_conv2d(const Kernel& kernel, const rebnn_real_conv2d_call& call);
int64_t real_workspace_bytes(const rebnn_real_conv2d_call& call);

// Run one real-valued depthwise convolution; `depthwise` holds everything but out_h and out_w. Returns a rebnn_status.
int32_t run_depthwise(const Kernel& kernel, Depthwise depthwise, int64_t x_size, int64_t out_size, int32_t threads);

// Run one elementwise step of a unit on maps of `size` elements. Returns a rebnn_status.
int32_t run_unit(const Kernel& kernel, int32_t step, const Unit& unit, int64_t size, int32_t threads);

}  // namespace rebnn
