#include "memory.hpp"

#include <cstdlib>
#include <new>

#include "rebnn_kernels.h"

namespace rebnn {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kKeptWorkspace = int64_t(1) << 25;

}  // namespace

Memory::Memory(int64_t bytes) : size_(bytes) {
    if (bytes < 0 || bytes > INT64_MAX - kAlignment) return;
    const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(::operator new(size_t(rounded ? rounded : kAlignment), std::align_val_t(kAlignment), std::nothrow));
}

void Memory::Free::operator()(void* memory) const { ::operator delete(memory, std::align_val_t(kAlignment)); }

Memory& workspace_of(int64_t bytes) {
    thread_local Memory kept;
    if (bytes > kept.size()) kept = Memory(bytes);
    return kept;
}

void let_go(Memory& workspace) {
    if (workspace.size() > kKeptWorkspace) workspace = Memory();
}

const char* instruction_set() {
    const char* wanted = std::getenv("REBNN_MM_ISA");
    return wanted && *wanted ? wanted : rebnn_isa_name(0);
}

}  // namespace rebnn
