// The bytes of one layer in an ExecuTorch program, as rebnn_mm/deploy/targets/executorch/blob.py writes and describes them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rebnn_kernels.h"

namespace rebnn {

constexpr uint32_t kBlobVersion = 1;

enum class Kind : uint32_t { convolution = 0, linear = 1, real = 2, nearest = 3 };

// A layer that points into its blob. Places are those among the delegate's arguments, -1 for what is not there.
struct Blob {
    rebnn_conv2d_spec spec{};
    int64_t bits_bytes = 0;
    Kind kind = Kind::convolution;
    bool max_pool = false;          // behind a real-valued convolution
    const float* weight = nullptr;  // (c_out, kernel_h, kernel_w, c_in) of one, instead of spec.bits
    bool signs_in = false;
    int32_t x = -1, residual = -1, floats = -1, signs = -1, arguments = 0;

    // Whether the layer computes on bits; the others have neither a plan, nor a shortcut, nor signs.
    bool on_bits() const { return kind == Kind::convolution || kind == Kind::linear; }
};

// Null, or a sentence that says what is wrong with the bytes. Nothing outside of [data, data + size) is read, whatever
// they hold; `data` must be aligned to 4 bytes, as the vectors are floats.
const char* read_blob(const void* data, size_t size, Blob* blob);

}  // namespace rebnn
