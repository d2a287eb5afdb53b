// One call of a real-valued convolution: sizes, the border around the input, and the tasks that threads share.
#include <algorithm>
#include <cstring>

#include "conv2d.h"
#include "parallel.h"

namespace rebnn {
namespace {

// Pixels of a row that are computed for one block of channels before the next block is: their input stays in the cache.
constexpr int64_t kSegment = 96;
// Pooled rows at once: the last of their rows before pooling is computed for the next ones, too, and copied.
constexpr int64_t kStripe = 2;
constexpr int64_t kStripeRows = 2 * kStripe + 2;

constexpr int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

bool needs_border(const RealConv& conv) { return conv.padding || !conv.x_channels_last; }

int64_t tasks_of(int64_t rows, int32_t threads) { return std::min(rows, threads == 1 ? 1 : threads * kTasksPerThread); }

// Whether all sizes are in range and fit each other; fills in those that follow from the others.
bool complete(const rebnn_real_conv2d_call& call, RealConv* conv) {
    constexpr int64_t kLargest = int64_t(1) << 20;
    for (int64_t size : {call.h, call.w, call.c_in, call.c_out, call.kernel_h, call.kernel_w, call.stride, call.chunk})
        if (size < 1 || size > kLargest) return false;
    if (call.padding < 0 || call.padding > kLargest || call.threads < 1) return false;
    if (call.chunk < call.c_in && call.kernel_h * call.kernel_w > 1) return false;
    conv->n = call.n;
    conv->h = call.h;
    conv->w = call.w;
    conv->c_in = call.c_in;
    conv->c_out = call.c_out;
    conv->kernel_h = call.kernel_h;
    conv->kernel_w = call.kernel_w;
    conv->stride = call.stride;
    conv->padding = call.padding;
    conv->chunk = call.chunk;
    conv->x_channels_last = call.x_channels_last != 0;
    conv->padded_h = call.h + 2 * call.padding;
    conv->padded_w = call.w + 2 * call.padding;
    if (conv->padded_h < call.kernel_h || conv->padded_w < call.kernel_w) return false;
    conv->out_h = (conv->padded_h - call.kernel_h) / call.stride + 1;
    conv->out_w = (conv->padded_w - call.kernel_w) / call.stride + 1;
    return count_elements({call.n, conv->padded_h, conv->padded_w, call.c_in}) >= 0 &&
           count_elements({call.n, conv->out_h, conv->out_w, call.c_out}) >= 0;
}

int64_t border_floats(const RealConv& conv) {
    return needs_border(conv) ? count_elements({conv.n, conv.padded_h, conv.padded_w, conv.c_in}) : 0;
}

int64_t stripe_floats(const RealConv& conv) { return count_elements({kStripeRows, conv.out_w, conv.c_out}); }

// Floats of the workspace, or -1: too many.
int64_t workspace_floats(const RealConv& conv, bool pool, int32_t threads) {
    const int64_t stripe = stripe_floats(conv), border = border_floats(conv);
    const int64_t stripes = pool ? tasks_of(conv.n * divide_up(conv.out_h, 2), threads) : 0;
    const int64_t all = stripe < 0 || border < 0 ? -1 : count_elements({stripes, stripe});
    return all < 0 || all + border > kMostElements ? -1 : all + border;
}

// Channels one after the other: kChannels of them, or any number if that is 0.
template <int kChannels>
void interleave(const RealConv& conv, const float* x, float* to) {
    const int64_t plane = conv.h * conv.w, channels = kChannels ? kChannels : conv.c_in;
    for (int64_t i = 0; i < conv.w; ++i)
        for (int64_t c = 0; c < channels; ++c) to[i * channels + c] = x[c * plane + i];
}

// Row `row` of the bordered image, counted through the batch.
void write_row(const RealConv& conv, int64_t row) {
    const int64_t image = row / conv.padded_h, y = row % conv.padded_h - conv.padding, c = conv.c_in;
    float* to = conv.border + row * conv.padded_w * c;
    const int64_t side = conv.padding * c;
    if (y < 0 || y >= conv.h) {
        std::fill(to, to + conv.padded_w * c, 0.f);
        return;
    }
    std::fill(to, to + side, 0.f);
    std::fill(to + side + conv.w * c, to + conv.padded_w * c, 0.f);
    if (conv.x_channels_last) {
        std::memcpy(to + side, conv.x + (image * conv.h + y) * conv.w * c, size_t(conv.w * c) * sizeof(float));
    } else {
        const float* x = conv.x + (image * c * conv.h + y) * conv.w;
        c == 3 ? interleave<3>(conv, x, to + side) : interleave<0>(conv, x, to + side);
    }
}

// First float of the first window of an output row, counted through the batch.
const float* first_window(const RealConv& conv, int64_t row) {
    const int64_t image = row / conv.out_h, y = row % conv.out_h;
    const float* x = needs_border(conv) ? conv.border : conv.x;
    return x + (image * conv.padded_h + y * conv.stride) * conv.padded_w * conv.c_in;
}

bool run_plain(const Kernel& kernel, const RealConv& conv, int32_t threads) {
    const int64_t blocks = divide_up(conv.c_out, kRealBlock), in_row = divide_up(conv.out_w, kSegment);
    const int64_t segments = conv.n * conv.out_h * in_row;
    const int64_t tasks = tasks_of(segments, threads), size = divide_up(segments, tasks);
    return parallel_for(tasks, threads, [&](int64_t task) {
        const int64_t first = std::min(segments, task * size), last = std::min(segments, first + size);
        for (int64_t block = 0; block < blocks; ++block)
            for (int64_t i = first; i < last; ++i) {
                const int64_t row = i / in_row, x = i % in_row * kSegment;
                kernel.real_pixels(conv, first_window(conv, row), x, std::min(conv.out_w, x + kSegment), block,
                                   conv.out + row * conv.out_w * conv.c_out);
            }
    });
}

// Convolve stripes of rows and pool them while they are in the cache.
bool run_pooled(const Kernel& kernel, const RealConv& conv, float* stripes, int32_t threads) {
    const int64_t pooled_h = divide_up(conv.out_h, 2), pooled_w = divide_up(conv.out_w, 2);
    const int64_t blocks = divide_up(conv.c_out, kRealBlock), row_floats = conv.out_w * conv.c_out;
    const int64_t rows = conv.n * pooled_h, tasks = tasks_of(rows, threads), size = divide_up(rows, tasks);
    RealConv raw = conv;
    Pool pool{};
    pool.n = 1;
    pool.w = conv.out_w;
    pool.c = conv.c_out;
    pool.out_w = pooled_w;
    pool.scale = conv.scale;
    pool.offset = conv.offset;
    pool.clamp_low = conv.clamp_low;
    pool.clamp_high = conv.clamp_high;
    raw.scale = raw.offset = nullptr;  // norm and clamp come behind the maximum
    return parallel_for(tasks, threads, [&](int64_t task) {
        float* const stripe = stripes + task * kStripeRows * row_floats;
        const int64_t end = std::min(rows, (task + 1) * size);
        int64_t ready = -1;  // the row before pooling, counted through the batch, that stripe's row 1 holds
        for (int64_t row = std::min(rows, task * size), next; row < end; row = next) {
            const int64_t image = row / pooled_h, top = row % pooled_h;
            next = std::min({row + kStripe, end, (image + 1) * pooled_h});
            // stripe's row 0 stands for row 2 top - 2, which no window holds
            const int64_t last = std::min(conv.out_h, 2 * (top + next - row));
            for (int64_t y = std::max<int64_t>(0, 2 * top - 1); y < last; ++y) {
                const int64_t at = y - (top ? 2 * top - 2 : 0), from = image * conv.out_h + y;
                if (top && y == 2 * top - 1 && ready == from) continue;
                for (int64_t block = 0; block < blocks; ++block)
                    kernel.real_pixels(raw, first_window(conv, from), 0, conv.out_w, block, stripe + at * row_floats);
            }
            Pool part = pool;
            part.x = stripe;
            part.h = last - (top ? 2 * top - 2 : 0);
            part.out_h = next - row + (top ? 1 : 0);
            part.out = conv.out + (row - (top ? 1 : 0)) * pooled_w * conv.c_out;
            kernel.pool(part, top ? pooled_w : 0, part.out_h * pooled_w);
            ready = image * conv.out_h + last - 1;
            const float* const kept = stripe + (part.h - 1) * row_floats;
            if (part.h != 2) std::copy(kept, kept + row_floats, stripe + row_floats);
        }
    });
}

}  // namespace

int64_t real_workspace_bytes(const rebnn_real_conv2d_call& call) {
    RealConv conv{};
    if (!complete(call, &conv)) return -1;
    const int64_t floats = workspace_floats(conv, call.max_pool, call.threads);
    return floats < 0 ? -1 : floats * int64_t(sizeof(float));
}

int32_t run_real_conv2d(const Kernel& kernel, const rebnn_real_conv2d_call& call) {
    RealConv conv{};
    if (!complete(call, &conv)) return REBNN_BAD_ARGUMENT;
    const int64_t out_h = call.max_pool ? divide_up(conv.out_h, 2) : conv.out_h;
    const int64_t out_w = call.max_pool ? divide_up(conv.out_w, 2) : conv.out_w;
    const int64_t block = divide_up(conv.c_out, kRealBlock) * kRealBlock;
    const bool fits = is_of_size(call.x_size, {conv.n, conv.h, conv.w, conv.c_in}) &&
                      is_of_size(call.out_size, {conv.n, out_h, out_w, conv.c_out}) &&
                      is_of_size(call.weight_size, {block, conv.kernel_h, conv.kernel_w, conv.c_in});
    if (!fits) return REBNN_BAD_ARGUMENT;
    if (conv.n == 0) return REBNN_OK;
    if (!call.x || !call.weight || !call.scale || !call.offset || !call.out) return REBNN_BAD_ARGUMENT;
    const int64_t needed = real_workspace_bytes(call);
    if (needed < 0) return REBNN_OUT_OF_MEMORY;
    if (needed && (!call.workspace || call.workspace_bytes < needed)) return REBNN_BAD_ARGUMENT;
    conv.x = call.x;
    conv.weight = call.weight;
    conv.scale = call.scale;
    conv.offset = call.offset;
    conv.clamp_low = call.clamp_low;
    conv.clamp_high = call.clamp_high;
    conv.out = call.out;
    conv.border = static_cast<float*>(call.workspace);
    bool done = true;
    if (needs_border(conv)) {
        const int64_t rows = conv.n * conv.padded_h, tasks = tasks_of(rows, call.threads), size = divide_up(rows, tasks);
        done = parallel_for(tasks, call.threads, [&](int64_t task) {
            for (int64_t row = task * size; row < std::min(rows, (task + 1) * size); ++row) write_row(conv, row);
        });
    } else if (conv.kernel_h == 1 && conv.kernel_w == 1 && conv.stride == 1 && !call.max_pool) {
        conv.w = conv.padded_w = conv.out_w = conv.n * conv.h * conv.w;  // every pixel by itself: one long row
        conv.n = conv.h = conv.padded_h = conv.out_h = 1;
    }
    if (!done) return REBNN_OUT_OF_MEMORY;
    done = call.max_pool ? run_pooled(kernel, conv, conv.border + border_floats(conv), call.threads)
                         : run_plain(kernel, conv, call.threads);
    return done ? REBNN_OK : REBNN_OUT_OF_MEMORY;
}

}  // namespace rebnn
