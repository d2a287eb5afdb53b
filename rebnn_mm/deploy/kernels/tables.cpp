#include "tables.h"

#include <cstring>

namespace rebnn {
namespace {

constexpr int64_t kLargest = int64_t(1) << 31;  // pixels along an axis, and classes times channels

// One axis of a convolution.
struct Axis {
    int64_t in, kernel, stride, padding, dilation;

    int64_t out() const {
        const int64_t span = in + 2 * padding - dilation * (kernel - 1) - 1;
        return span < 0 ? 0 : span / stride + 1;
    }
    // Taps [first, last) of the kernel lie inside the input for output position `o`.
    struct Range {
        int64_t first, last;
        bool operator==(const Range& other) const { return first == other.first && last == other.last; }
    };
    Range range(int64_t o) const {
        const int64_t start = o * stride - padding;
        Range range{0, kernel};
        while (range.first < kernel && start + range.first * dilation < 0) ++range.first;
        while (range.last > range.first && start + (range.last - 1) * dilation >= in) --range.last;
        return range;
    }
    // Calls each(o, range, class) for every output position: positions with the same range are neighbours, and share a
    // class. Returns the number of classes.
    template <class Each>
    int64_t classes(const Each& each) const {
        int64_t count = 0;
        Range before{-1, -1};
        for (int64_t o = 0; o < out(); ++o) {
            const Range now = range(o);
            if (!(now == before)) ++count;
            before = now;
            each(o, now, count - 1);
        }
        return count;
    }
    int64_t classes() const {
        return classes([](int64_t, const Range&, int64_t) {});
    }
};

Axis rows_of(const Plan& plan, int64_t h) {
    return {h, plan.kernel_h, plan.stride_h, plan.padding_h, plan.dilation_h};
}
Axis columns_of(const Plan& plan, int64_t w) {
    return {w, plan.kernel_w, plan.stride_w, plan.padding_w, plan.dilation_w};
}

bool header(const Plan& plan, int64_t h, int64_t w, Tables* tables) {
    if (h < 1 || w < 1 || h > kLargest || w > kLargest) return false;
    const Axis rows = rows_of(plan, h), columns = columns_of(plan, w);
    *tables = Tables{};
    tables->magic = kTablesMagic;
    tables->plan_key = plan.key;
    tables->h = h;
    tables->w = w;
    tables->out_h = rows.out();
    tables->out_w = columns.out();
    if (tables->out_h < 1 || tables->out_w < 1) return false;
    tables->padded_h = h + 2 * plan.padding_h;
    tables->padded_w = w + 2 * plan.padding_w;
    tables->column_classes = columns.classes();
    tables->offset_count = plan.taps() * plan.words;
    const int64_t classes = rows.classes() * tables->column_classes;
    if (classes * plan.channels() > kLargest) return false;
    tables->offsets = round_up(sizeof(Tables), kAlignment);
    tables->corrections = tables->offsets + round_up(tables->offset_count * 8, kAlignment);
    tables->row_class = tables->corrections + round_up(classes * plan.channels() * 4, kAlignment);
    tables->column_class = tables->row_class + round_up(tables->out_h * 4, kAlignment);
    tables->bytes = tables->column_class + round_up(tables->out_w * 4, kAlignment);
    return true;
}

template <class T>
T* part(Tables* tables, int64_t offset) {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(tables) + offset);
}

void write_offsets(const Plan& plan, Tables* tables) {
    auto* out = part<int64_t>(tables, tables->offsets);
    for (int64_t ky = 0; ky < plan.kernel_h; ++ky)
        for (int64_t kx = 0; kx < plan.kernel_w; ++kx) {
            const int64_t pixel = ky * plan.dilation_h * tables->padded_w + kx * plan.dilation_w;
            for (int64_t word = 0; word < plan.words; ++word)
                *out++ = pixel * plan.pixel_words() + word * plan.word_size;
        }
}

// The sum over all taps, and back what the taps in the border take away: they are read as -1.
void write_correction(const Plan& plan, const Axis::Range& row, const Axis::Range& column, int32_t* out) {
    const int64_t channels = plan.channels();
    for (int64_t c = 0; c < channels; ++c) out[c] = int32_t(plan.products());
    for (int64_t ky = 0; ky < plan.kernel_h; ++ky)
        for (int64_t kx = 0; kx < plan.kernel_w; ++kx) {
            const bool inside = ky >= row.first && ky < row.last && kx >= column.first && kx < column.last;
            if (inside) continue;
            const int32_t* sums = plan.sums() + (ky * plan.kernel_w + kx) * channels;
            for (int64_t c = 0; c < channels; ++c) out[c] += sums[c];
        }
}

}  // namespace

int64_t tables_bytes(const Plan& plan, int64_t h, int64_t w) {
    Tables tables;
    return header(plan, h, w, &tables) ? tables.bytes : -1;
}

bool write_tables(const Plan& plan, int64_t h, int64_t w, Tables* tables) {
    if (!header(plan, h, w, tables)) return false;
    std::memset(part<char>(tables, sizeof(Tables)), 0, size_t(tables->bytes) - sizeof(Tables));
    write_offsets(plan, tables);
    auto* row_class = part<int32_t>(tables, tables->row_class);
    auto* column_class = part<int32_t>(tables, tables->column_class);
    auto* corrections = part<int32_t>(tables, tables->corrections);
    const Axis columns = columns_of(plan, w);
    int64_t rows_done = 0;
    rows_of(plan, h).classes([&](int64_t y, const Axis::Range& row, int64_t row_number) {
        row_class[y] = int32_t(row_number);
        if (row_number < rows_done) return;
        rows_done = row_number + 1;
        int64_t done = 0;
        columns.classes([&](int64_t x, const Axis::Range& column, int64_t number) {
            column_class[x] = int32_t(number);
            if (number < done) return;
            done = number + 1;
            const int64_t at = (row_number * tables->column_classes + number) * plan.channels();
            write_correction(plan, row, column, corrections + at);
        });
    });
    return true;
}

}  // namespace rebnn
