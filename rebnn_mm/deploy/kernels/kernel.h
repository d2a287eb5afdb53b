// What the driver hands to the code of one instruction set.
#pragma once

#include "tables.h"

// Instruction sets that this compiler can produce; which one runs is decided on the processor.
#if defined(__GNUC__) && defined(__x86_64__)
#define REBNN_X86
#elif defined(__GNUC__) && defined(__aarch64__)
#define REBNN_NEON
#endif

namespace rebnn {

// One call: sizes, memory and tables, all read-only but `input_signs`, `out` and `signs`.
struct Conv {
    const Plan* plan;
    int64_t n, h, w, out_h, out_w, padded_h, padded_w;
    bool x_channels_last, out_channels_last;
    const float* x;         // or null:
    int64_t x_pixel;        // floats from one pixel to the next, if x is channels-last
    const uint32_t* x_signs;  // signs of x, [n][h][w][ceil(c_in / 32)]
    const float* residual;  // or null; in the format of out
    float* out;             // or null
    uint32_t* signs;        // or null; signs of the output, [n][out_h][out_w][ceil(c_out / 32)]
    // signs of x with a border of 0-bits: [n][padded_h][padded_w][group][word], or [...][word][2] as nibbles
    uint32_t* input_signs;
    // Where the words under a kernel lie, in uint32_t from the first one of a pixel's receptive field: [tap][word].
    const int64_t* offsets;
    int64_t offset_count;
    // out = corrections[row_class][column_class][channel] - 2 popcount: a 0-bit in the border was read as -1
    const int32_t* corrections;
    const int32_t* row_class;     // [out_h]
    const int32_t* column_class;  // [out_w]
    int64_t column_classes;

    REBNN_INLINE int64_t out_pixels() const { return n * out_h * out_w; }
};

// Output pixels (counted through the whole batch) times groups times vectors of a group's output channels: [first, last)
// of all three.
struct Block {
    int64_t first_pixel, last_pixel;
    int64_t first_group, last_group;
    int64_t first_vector, last_vector;
};

// Max-pool of 3x3 windows, stride 2, padding 1, then fma(maximum, scale, offset), limited to [clamp_low, clamp_high]; all
// NHWC.
struct Pool {
    int64_t n, h, w, c, out_h, out_w;
    const float* x;
    const float* scale;   // [c]
    const float* offset;  // [c]
    float clamp_low, clamp_high;
    float* out;
};

// Output channels that lie side by side in a real-valued convolution's weight.
constexpr int64_t kRealBlock = 64;

// A real-valued convolution of one group, fma(sum, scale, offset), limited to [clamp_low, clamp_high]; all NHWC.
struct RealConv {
    int64_t n, h, w, c_in, c_out, out_h, out_w, padded_h, padded_w;
    int64_t kernel_h, kernel_w, stride, padding;
    int64_t chunk;  // channels whose products are added up by themselves
    bool x_channels_last;
    const float* x;
    float* border;        // x with its padding, NHWC, if there is one or x is NCHW
    const float* weight;  // [block][tap][c_in][kRealBlock]
    const float* scale;   // [c_out], or null: neither norm nor clamp
    const float* offset;  // [c_out]
    float clamp_low, clamp_high;
    float* out;
};

// A real-valued depthwise convolution, fma(sum, scale, offset), limited to [clamp_low, clamp_high]; all NHWC.
struct Depthwise {
    int64_t n, h, w, c, out_h, out_w;
    int64_t kernel_h, kernel_w, stride, padding, dilation;
    const float* x;
    const float* weight;  // [tap][c]
    const float* start;   // [c], what the sums start from; null: 0
    const float* scale;   // [c]
    const float* offset;  // [c]
    float clamp_low, clamp_high;
    float* out;
};

// Elementwise steps of a unit that trains; see unit.h. Maps are (n, c, plane), the others have c elements.
struct Unit {
    int64_t n, c, plane;
    const float* values;
    const float* x;
    const float* shortcut;
    const int16_t* counts;
    const uint8_t* code;
    const float *scale, *offset, *slope, *after;
    bool polynomial;
    int16_t* counts_out;
    uint8_t* code_out;
    float* out;
    double* sums;
};

constexpr int32_t kUnitStepCount = 8;
using UnitSteps = void (*[kUnitStepCount])(const Unit& unit, int64_t channel);

// Input positions [first, first + count) under window `o` along an axis of `in` positions; never empty.
struct PoolWindow {
    REBNN_INLINE PoolWindow(int64_t o, int64_t in) : first(o ? 2 * o - 1 : 0) {
        const int64_t last = 2 * o + 2;
        count = (last < in ? last : in) - first;
    }
    int64_t first, count;
};

struct Kernel {
    const char* name;
    bool (*supported)();
    Layout layout;
    int64_t tile_vectors;  // vectors that are computed at once
    // Signs of the input pixels [first, last), counted through the whole batch, into conv.input_signs.
    void (*take_signs)(const Conv& conv, int64_t first, int64_t last);
    void (*compute)(const Conv& conv, const Block& block);
    // Output pixels [first, last) of a pooling, counted through the whole batch.
    void (*pool)(const Pool& pool, int64_t first, int64_t last);
    // Sums over the pixels of one image in torch's order, for its vectors of `lanes` floats, at most 16.
    void (*sum_pixels)(const float* x, int64_t c, int64_t pixels, int64_t lanes, float* out);
    // Columns [first, last) of a matrix, to rows of out; first is a multiple of the vector's width.
    void (*transpose)(const float* x, int64_t rows, int64_t columns, int64_t first, int64_t last, float* out);
    // Output pixels [first, last) of a row and one block of channels. x is the first float of the row's first window, out
    // the row's first float.
    void (*real_pixels)(const RealConv& conv, const float* x, int64_t first, int64_t last, int64_t block, float* out);
    // Output rows [first, last), counted through the whole batch.
    void (*depthwise)(const Depthwise& depthwise, int64_t first, int64_t last);
    // One channel of a step, in the order of enum rebnn_unit_step.
    const UnitSteps* unit_steps;
};

// Compiled for this processor family, best first; some are perhaps not supported() by this processor.
extern const Kernel* const kKernels[];
extern const int32_t kKernelCount;

extern const Kernel kGeneric;
#if defined(REBNN_X86)
extern const Kernel kAvx512Wide, kAvx512, kAvx2;
#elif defined(REBNN_NEON)
extern const Kernel kNeon;
#endif

}  // namespace rebnn
