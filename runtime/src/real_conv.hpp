// A real-valued convolution that runs: its weight prepared once, then called on inputs of any size.
#pragma once

#include <cstdint>

#include "blob.hpp"
#include "memory.hpp"

namespace rebnn {

class RealConv {
public:
    // Copies what it needs from the blob. Null, or a sentence that says why there is none.
    const char* prepare(const Blob& blob);

    // x is (n, h, w, c_in), or (n, c_in, h, w); out is (n, h', w', c_out). Null, or a sentence.
    const char* run(const float* x, int64_t n, int64_t h, int64_t w, bool channels_last, float* out, int64_t out_size, int32_t threads);

private:
    rebnn_real_conv2d_call call_{};
    Memory weight_, vectors_;
};

}  // namespace rebnn
