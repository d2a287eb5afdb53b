// A layer of the delegate that runs: prepared once for this processor, then called on inputs of any size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "blob.hpp"
#include "memory.hpp"
#include "real_conv.hpp"

namespace rebnn {

// Sizes of an input: of a linear layer the rows are the width of one image of height 1.
struct Sizes {
    int64_t n, h, w;
};

// Its results are written to memory of the caller. Not for several threads at once; layers apart from each other are.
class Layer {
public:
    // Null, or a sentence that says why there is none. The bytes are not needed afterwards.
    const char* prepare(const void* data, size_t size);

    const Blob& blob() const { return blob_; }
    int64_t c_in() const { return blob_.spec.c_in; }
    int64_t c_out() const { return blob_.spec.c_out; }

    // Whether an input of these sizes has an output, and its height and width.
    bool output_size(const Sizes& input, int64_t* h, int64_t* w) const;

    // What is not wanted is null. Null, or a sentence that says why nothing was computed.
    const char* run(const void* x, const Sizes& sizes, bool channels_last, const float* residual, float* floats,
                    uint32_t* signs, int32_t threads);

private:
    struct Tables {
        int64_t h = 0, w = 0;
        Memory memory;
    };
    const char* prepare_plan();
    const Tables* tables_of(int64_t h, int64_t w);

    static constexpr size_t kShapes = 8;  // sizes of the input whose tables are kept: levels of a pyramid
    Blob blob_;
    RealConv real_;  // of a real-valued convolution, which needs nothing else; upsampling needs nothing
    Memory plan_;
    Tables tables_[kShapes];
    size_t next_ = 0;
};

}  // namespace rebnn
