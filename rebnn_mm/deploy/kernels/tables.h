// What a call needs for one size of the input, in one relocatable block of bytes.
#pragma once

#include "plan.h"

namespace rebnn {

// Header of the tables; offsets are in bytes from its start.
struct Tables {
    uint32_t magic;
    uint32_t plan_key;  // Plan::key of the plan they belong to
    int64_t h, w, out_h, out_w, padded_h, padded_w;
    int64_t column_classes;
    int64_t offset_count;
    int64_t bytes;
    // Where the words under a kernel lie, in uint32_t from the first one of a pixel's receptive field: [tap][word].
    int64_t offsets;
    // out = corrections[row_class][column_class][channel] - 2 popcount: a 0-bit in the border was read as -1
    int64_t corrections, row_class, column_class;

    template <class T>
    REBNN_INLINE const T* at(int64_t offset) const {
        return reinterpret_cast<const T*>(reinterpret_cast<const char*>(this) + offset);
    }
};

constexpr uint32_t kTablesMagic = 0x314e4254;  // "TBN1"

// Bytes of the tables of `plan` for inputs of h x w, or -1: no output pixel, or too large.
int64_t tables_bytes(const Plan& plan, int64_t h, int64_t w);

// Write them; false if tables_bytes is -1.
bool write_tables(const Plan& plan, int64_t h, int64_t w, Tables* tables);

}  // namespace rebnn
