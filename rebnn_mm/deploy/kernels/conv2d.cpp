// One call of a layer: geometry, tables, and the tasks that threads share.

#include "conv2d.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <vector>

#include "parallel.h"

namespace rebnn {
namespace {

// A task is worth this many multiply-accumulates (some 10 us), or threads cost more than they bring.
constexpr int64_t kTaskWork = int64_t(1) << 23;
// Pixels::kMost: tasks are whole batches of pixels, if there are enough.
constexpr int64_t kBatch = 48;

constexpr int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

// Which taps of a kernel lie inside the input, along one axis: a class for each distinct range of them.
struct BorderClasses {
    struct Range {
        int64_t first, last;
    };
    std::vector<Range> ranges;
    std::vector<int32_t> of;  // class of each output position

    BorderClasses(int64_t out, int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
        of.reserve(size_t(out));
        for (int64_t o = 0; o < out; ++o) {
            const int64_t start = o * stride - padding;
            Range range{0, kernel};
            while (range.first < kernel && start + range.first * dilation < 0) ++range.first;
            while (range.last > range.first && start + (range.last - 1) * dilation >= in) --range.last;
            of.push_back(find(range));
        }
    }

private:
    int32_t find(const Range& range) {
        // neighbours share their class, so the latest is the likeliest
        for (size_t i = ranges.size(); i-- > 0;)
            if (ranges[i].first == range.first && ranges[i].last == range.last) return int32_t(i);
        ranges.push_back(range);
        return int32_t(ranges.size() - 1);
    }
};

std::vector<int32_t> correction_table(const Plan& plan, const BorderClasses& rows, const BorderClasses& columns) {
    const int64_t channels = plan.channels();
    std::vector<int32_t> table(rows.ranges.size() * columns.ranges.size() * size_t(channels),
                               int32_t(plan.in_group * plan.taps()));
    int32_t* out = table.data();
    for (const auto& row : rows.ranges)
        for (const auto& column : columns.ranges) {
            for (int64_t ky = 0; ky < plan.kernel_h; ++ky)
                for (int64_t kx = 0; kx < plan.kernel_w; ++kx) {
                    const bool inside = ky >= row.first && ky < row.last && kx >= column.first && kx < column.last;
                    if (inside) continue;
                    const int32_t* sums = plan.sums() + (ky * plan.kernel_w + kx) * channels;
                    for (int64_t c = 0; c < channels; ++c) out[c] += sums[c];
                }
            out += channels;
        }
    return table;
}

std::vector<int64_t> word_offsets(const Plan& plan, const Conv& conv) {
    std::vector<int64_t> offsets;
    offsets.reserve(size_t(plan.taps() * plan.words));
    for (int64_t ky = 0; ky < plan.kernel_h; ++ky)
        for (int64_t kx = 0; kx < plan.kernel_w; ++kx) {
            const int64_t pixel = ky * plan.dilation_h * conv.padded_w + kx * plan.dilation_w;
            for (int64_t word = 0; word < plan.words; ++word)
                offsets.push_back(pixel * conv.pixel_words() + word * plan.word_size);
        }
    return offsets;
}

bool pack(const Kernel& kernel, const Conv& conv, size_t packed_bytes, int32_t threads) {
    const Plan& plan = *conv.plan;
    if (plan.padding_h || plan.padding_w) std::memset(conv.packed, 0, packed_bytes);
    const int64_t pixels = conv.n * conv.h * conv.w;
    // a float read costs about as much as 64 multiply-accumulates of bits
    const int64_t worth = std::max<int64_t>(1, kTaskWork / 64 / plan.c_in);
    const int64_t size = threads == 1 ? pixels : std::max(worth, divide_up(pixels, threads * kTasksPerThread));
    const int64_t tasks = divide_up(pixels, size);
    return parallel_for(tasks, threads, [&](int64_t task) {
        kernel.pack(conv, task * size, std::min(pixels, (task + 1) * size));
    });
}

bool compute(const Kernel& kernel, const Conv& conv, int32_t threads) {
    const Plan& plan = *conv.plan;
    const int64_t pixels = conv.out_pixels(), vectors = plan.vectors();
    const double work = double(pixels) * double(plan.channels()) * double(plan.in_group * plan.taps());
    const int64_t most = threads == 1 ? 1 : threads * kTasksPerThread;
    const int64_t wanted = work < double(most) * kTaskWork ? divide_up(int64_t(work), kTaskWork) : most;
    // first over pixels; over channels too where pixels are few (a linear layer, the last stage of a network)
    const int64_t size = std::min(round_up(divide_up(pixels, wanted), kBatch), pixels);
    const int64_t chunks = divide_up(pixels, size);
    const int64_t part = round_up(divide_up(vectors, divide_up(wanted, chunks * plan.groups)), kernel.tile_vectors);
    const int64_t parts = divide_up(vectors, part);
    return parallel_for(chunks * plan.groups * parts, threads, [&](int64_t task) {
        Block block;
        block.first_pixel = task / parts / plan.groups * size;
        block.last_pixel = std::min(pixels, block.first_pixel + size);
        block.group = task / parts % plan.groups;
        block.first_vector = task % parts * part;
        block.last_vector = std::min(vectors, block.first_vector + part);
        kernel.compute(conv, block);
    });
}

int64_t output_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
    const int64_t span = in + 2 * padding - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
}

}  // namespace

int32_t run(const Kernel& kernel, Conv conv, int64_t x_size, int64_t out_size, int32_t threads) {
    const Plan& plan = *conv.plan;
    // before any arithmetic with h and w: what is below 1 or huge would divide by zero or overflow further down
    if (threads < 1 || conv.h < 1 || conv.w < 1) return REBNN_BAD_ARGUMENT;
    if (!is_of_size(x_size, {conv.n, plan.c_in, conv.h, conv.w})) return REBNN_BAD_ARGUMENT;
    conv.out_h = output_size(conv.h, plan.kernel_h, plan.stride_h, plan.padding_h, plan.dilation_h);
    conv.out_w = output_size(conv.w, plan.kernel_w, plan.stride_w, plan.padding_w, plan.dilation_w);
    if (conv.out_h < 1 || conv.out_w < 1) return REBNN_BAD_ARGUMENT;
    if (!is_of_size(out_size, {conv.n, plan.c_out, conv.out_h, conv.out_w})) return REBNN_BAD_ARGUMENT;
    if (conv.n == 0) return REBNN_OK;
    if (!conv.x || !conv.out) return REBNN_BAD_ARGUMENT;
    conv.padded_h = conv.h + 2 * plan.padding_h;
    conv.padded_w = conv.w + 2 * plan.padding_w;
    const int64_t words = count_elements({conv.n, conv.padded_h, conv.padded_w, conv.pixel_words()});
    if (words < 0) return REBNN_OUT_OF_MEMORY;
    try {
        const BorderClasses rows(conv.out_h, conv.h, plan.kernel_h, plan.stride_h, plan.padding_h, plan.dilation_h);
        const BorderClasses columns(conv.out_w, conv.w, plan.kernel_w, plan.stride_w, plan.padding_w, plan.dilation_w);
        const auto corrections = correction_table(plan, rows, columns);
        const auto offsets = word_offsets(plan, conv);
        const size_t packed_bytes = size_t(words) * 4;
        std::unique_ptr<void, Free> packed(std::malloc(packed_bytes));
        if (!packed) return REBNN_OUT_OF_MEMORY;
        conv.packed = static_cast<uint32_t*>(packed.get());
        conv.offsets = offsets.data();
        conv.offset_count = int64_t(offsets.size());
        conv.corrections = corrections.data();
        conv.row_class = rows.of.data();
        conv.column_class = columns.of.data();
        conv.column_classes = int64_t(columns.ranges.size());
        const bool done = pack(kernel, conv, packed_bytes, threads) && compute(kernel, conv, threads);
        return done ? REBNN_OK : REBNN_OUT_OF_MEMORY;
    } catch (const std::exception&) {  // bad_alloc, or length_error of a table that no memory would hold
        return REBNN_OUT_OF_MEMORY;
    }
}

}  // namespace rebnn
