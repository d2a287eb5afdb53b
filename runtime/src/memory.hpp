// Memory aligned as the kernels ask for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace rebnn {

// Null data where there was none to be had.
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

// Memory of this thread that grows with what is asked for; one layer at a time uses it.
Memory& workspace_of(int64_t bytes);

// Give large memory of this thread back after a layer has run.
void let_go(Memory& workspace);

// The kernels' instruction set: the environment variable REBNN_MM_ISA where it is set, else the processor's best one.
const char* instruction_set();

}  // namespace rebnn
