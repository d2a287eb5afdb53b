// Transposed matrices, for any instruction set `Isa` (see isa_generic.cpp for what one offers).
#pragma once

#include "kernel.h"

namespace rebnn {
namespace {

// The columns [first, last) of one matrix, square by square; first is a multiple of Isa::kWidth.
template <class Isa>
void transpose_columns(const float* x, int64_t rows, int64_t columns, int64_t first, int64_t last, float* out) {
    constexpr int64_t kWidth = Isa::kWidth;
    // Few streams of memory where rows are long, and lines of it that are written whole where they are short.
    constexpr int64_t kFew = 32, kMany = 256, kLong = 1024;
    const int64_t height = columns > kLong ? kFew : kMany;
    alignas(64) float square[kWidth * kWidth] = {};
    for (int64_t top = 0; top < rows; top += height) {
        const int64_t bottom = top + height < rows ? top + height : rows;
        for (int64_t column = first; column < last; column += kWidth) {
            const int64_t across = last - column < kWidth ? last - column : kWidth;
            for (int64_t row = top; row < bottom; row += kWidth) {
                const int64_t down = bottom - row < kWidth ? bottom - row : kWidth;
                const float* from = x + row * columns + column;
                float* to = out + column * rows + row;
                for (int64_t i = 0; i < down; ++i, from += columns)
                    Isa::store(square + i * kWidth,
                               across == kWidth ? Isa::load(from) : Isa::load_partial(from, across));
                Isa::transpose(square);
                for (int64_t i = 0; i < across; ++i, to += rows) {
                    const auto line = Isa::load(square + i * kWidth);
                    down == kWidth ? Isa::store(to, line) : Isa::store_partial(to, down, line);
                }
            }
        }
    }
}

}  // namespace
}  // namespace rebnn
