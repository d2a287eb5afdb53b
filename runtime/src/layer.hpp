// A 1-bit layer that runs: prepared once for this processor, then called on inputs of any size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "blob.hpp"

namespace rebnn {

// Memory aligned as the kernels ask for; null data where there was none to be had.
class Memory {
public:
    Memory() = default;
    explicit Memory(int64_t bytes);
    void* data() const { return data_.get(); }
    int64_t size() const { return data_ ? size_ : 0; }

private:
    struct Free {
        void operator()(void* memory) const;
    };
    std::unique_ptr<void, Free> data_;
    int64_t size_ = 0;
};

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
    const Tables* tables_of(int64_t h, int64_t w);

    static constexpr size_t kShapes = 8;  // sizes of the input whose tables are kept: levels of a pyramid
    Blob blob_;
    Memory plan_;
    Tables tables_[kShapes];
    size_t next_ = 0;
};

// The kernels' instruction set: the environment variable REBNN_MM_ISA where it is set, else the processor's best one.
const char* instruction_set();

}  // namespace rebnn
