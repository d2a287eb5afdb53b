// One call of a layer: the tasks that threads share.

#include "conv2d.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"

namespace rebnn {
namespace {

// A task is worth this many multiply-accumulates (some 10 us), or threads cost more than they bring.
constexpr int64_t kTaskWork = int64_t(1) << 23;
// Pixels::kMost: tasks are whole batches of pixels, if there are enough.
constexpr int64_t kBatch = 48;

constexpr int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

bool take_signs(const Kernel& kernel, const Conv& conv, size_t workspace, int32_t threads) {
    const Plan& plan = *conv.plan;
    if (plan.padding_h || plan.padding_w) std::memset(conv.input_signs, 0, workspace);
    const int64_t pixels = conv.n * conv.h * conv.w;
    // a float read costs about as much as 64 multiply-accumulates of bits
    const int64_t worth = std::max<int64_t>(1, kTaskWork / 64 / plan.c_in);
    const int64_t size = threads == 1 ? pixels : std::max(worth, divide_up(pixels, threads * kTasksPerThread));
    const int64_t tasks = divide_up(pixels, size);
    return parallel_for(tasks, threads, [&](int64_t task) {
        kernel.take_signs(conv, task * size, std::min(pixels, (task + 1) * size));
    });
}

bool compute(const Kernel& kernel, const Conv& conv, int32_t threads) {
    const Plan& plan = *conv.plan;
    const int64_t pixels = conv.out_pixels(), vectors = plan.vectors();
    const double work = double(pixels) * double(plan.channels()) * double(plan.products());
    const int64_t most = threads == 1 ? 1 : threads * kTasksPerThread;
    const int64_t wanted = work < double(most) * kTaskWork ? divide_up(int64_t(work), kTaskWork) : most;
    // first over pixels; over channels too where pixels are few (a linear layer, the last stage of a network)
    const int64_t size = std::min(round_up(divide_up(pixels, wanted), kBatch), pixels);
    const int64_t chunks = divide_up(pixels, size);
    // a task that sets signs has whole words of them to itself
    const int64_t groups = conv.signs ? 1 : plan.groups;
    const int64_t step = std::max(kernel.tile_vectors, kWordBits / plan.lanes);
    const bool whole = conv.signs && plan.groups > 1;
    const int64_t part = whole ? vectors : round_up(divide_up(vectors, divide_up(wanted, chunks * groups)), step);
    const int64_t parts = divide_up(vectors, part);
    return parallel_for(chunks * groups * parts, threads, [&](int64_t task) {
        Block block;
        block.first_pixel = task / parts / groups * size;
        block.last_pixel = std::min(pixels, block.first_pixel + size);
        block.first_group = conv.signs ? 0 : task / parts % groups;
        block.last_group = conv.signs ? plan.groups : block.first_group + 1;
        block.first_vector = task % parts * part;
        block.last_vector = std::min(vectors, block.first_vector + part);
        kernel.compute(conv, block);
    });
}

}  // namespace

int64_t workspace_bytes(const Plan& plan, const Tables& tables, int64_t n) {
    const int64_t words = count_elements({n, tables.padded_h, tables.padded_w, plan.pixel_words()});
    return words < 0 ? -1 : words * 4;
}

int32_t run(const Kernel& kernel, const Tables& tables, Conv conv, int32_t threads) {
    conv.h = tables.h;
    conv.w = tables.w;
    conv.out_h = tables.out_h;
    conv.out_w = tables.out_w;
    conv.padded_h = tables.padded_h;
    conv.padded_w = tables.padded_w;
    conv.offsets = tables.at<int64_t>(tables.offsets);
    conv.offset_count = tables.offset_count;
    conv.corrections = tables.at<int32_t>(tables.corrections);
    conv.row_class = tables.at<int32_t>(tables.row_class);
    conv.column_class = tables.at<int32_t>(tables.column_class);
    conv.column_classes = tables.column_classes;
    const auto workspace = size_t(workspace_bytes(*conv.plan, tables, conv.n));
    const bool done = take_signs(kernel, conv, workspace, threads) && compute(kernel, conv, threads);
    return done ? REBNN_OK : REBNN_OUT_OF_MEMORY;
}

}  // namespace rebnn
