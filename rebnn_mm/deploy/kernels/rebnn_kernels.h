// C interface of the packed layers. No C++ type, no torch header and no exception crosses it.
//
// A plan is one relocatable block of bytes: weights in the layout of one instruction set, parameters of
// the float epilogue, and the geometry. The caller owns its memory, which is 64-byte aligned, so plans
// can be copied and freed by whoever allocated them. Running a plan does not change it: any number of
// threads may run the same one at once.
//
// Every buffer comes with its size, and a call whose sizes do not fit together returns REBNN_BAD_ARGUMENT before it
// reads or writes any of them. What cannot be checked here is the caller's word: that a pointer has that much memory
// behind it, and that each vector of a spec has the length its comment says.
#ifndef REBNN_KERNELS_H
#define REBNN_KERNELS_H

#include <stdint.h>

#if defined(_WIN32)
#define REBNN_API __declspec(dllexport)
#else
#define REBNN_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define REBNN_ABI_VERSION 11

enum rebnn_status { REBNN_OK = 0, REBNN_UNSUPPORTED_ISA = 1, REBNN_BAD_ARGUMENT = 2, REBNN_OUT_OF_MEMORY = 3 };

// y = conv(sign(fma(x + shift, input_scale, input_offset)), sign(w)), then in this order: * alpha; + bias;
// fma(y, scale, offset); + residual; + before; * slope where y <= 0; + after; limited to [clamp_low, clamp_high], NaN
// stays; fma(y, last_scale, last_offset). The signs of the output are those of fma(y + sign_shift, sign_scale,
// sign_offset). Every pointer but bits and alpha may be null, which leaves its step out.
typedef struct rebnn_conv2d_spec {
    int64_t c_in, c_out, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
    int64_t clamp;          // whether there is one
    int64_t residual_last;  // whether the residual is added behind all other steps instead
    double clamp_low, clamp_high;
    const uint8_t* bits;        // of the weight: (c_out, kernel_h, kernel_w, c_in / groups), least significant first
    const float* shift;         // c_in elements
    const float* input_scale;   // c_in, together with input_offset
    const float* input_offset;  // c_in
    const float* alpha;         // c_out, as all that follow
    const float* bias;
    const float* scale;         // together with offset
    const float* offset;
    const float* before;
    const float* slope;
    const float* after;
    const float* last_scale;    // together with last_offset
    const float* last_offset;
    const float* sign_shift;
    const float* sign_scale;    // together with sign_offset
    const float* sign_offset;
} rebnn_conv2d_spec;

REBNN_API int32_t rebnn_abi_version(void);

// Name of the i-th instruction set that this processor can run, best first; null behind the last.
REBNN_API const char* rebnn_isa_name(int32_t index);

// Bytes of a plan, or -1: unknown instruction set, or a size that no weight has.
REBNN_API int64_t rebnn_conv2d_plan_bytes(const char* isa, const rebnn_conv2d_spec* spec);

// Write a plan. bits_bytes is the size of spec->bits, (c_out * kernel_h * kernel_w * c_in / groups + 7) / 8;
// plan_bytes that of plan, at least rebnn_conv2d_plan_bytes.
REBNN_API int32_t rebnn_conv2d_plan(const char* isa, const rebnn_conv2d_spec* spec, int64_t bits_bytes, void* plan,
                                    int64_t plan_bytes);

// Tables are what inputs of h x w need: how the kernel lies on the borders. They are prepared once, like the plan, and for
// that plan only, and are a relocatable, 64-byte aligned block too. Bytes of the tables, or -1: there is no output pixel,
// or too many.
REBNN_API int64_t rebnn_conv2d_tables_bytes(const void* plan, int64_t plan_bytes, int64_t h, int64_t w);
REBNN_API int32_t rebnn_conv2d_tables(const void* plan, int64_t plan_bytes, int64_t h, int64_t w, void* tables,
                                      int64_t tables_bytes);

// Bytes of memory that a run on n images writes to, 64-byte aligned, of one call at a time; or -1: no memory is as large.
REBNN_API int64_t rebnn_conv2d_workspace_bytes(const void* plan, int64_t plan_bytes, const void* tables,
                                               int64_t tables_bytes, int64_t n);

// Signs of (n, c, h, w) are uint32 (n, h, w, ceil(c / 32)): bit c % 32 of word c / 32 is 1 where a channel is
// >= 0; bits behind the last channel are 0, and ignored where they are read.
enum rebnn_format { REBNN_NCHW = 0, REBNN_NHWC = 1, REBNN_SIGNS = 2 };

// x is (n, c_in, h, w), float32, dense or the first channels of wider NHWC pixels, or signs, which a plan with shift or
// input_scale does not take. residual (or null) and out are (n, c_out, h', w'), dense float32 in one memory format.
// h' = (h + 2 padding - dilation (kernel - 1) - 1) / stride + 1. signs are the output's signs; with them, out is NHWC.
// Either of out and signs may be null, and its size 0. n may be 0, and all pointers but plan and tables null then; threads
// is at least 1.
typedef struct rebnn_conv2d_call {
    const void* plan;
    int64_t plan_bytes;
    const void* tables;
    int64_t tables_bytes;
    void* workspace;
    int64_t workspace_bytes;  // at least rebnn_conv2d_workspace_bytes
    const void* x;
    int64_t x_size;   // elements, exactly those of the shape, as of out (and residual) and signs
    int64_t x_pixel;  // 0; or of NHWC floats, from one pixel to the next: x_size is (n h w - 1) x_pixel + c_in then
    int64_t n;
    const float* residual;
    float* out;
    int64_t out_size;
    uint32_t* signs;
    int64_t signs_size;
    int32_t x_format;  // of enum rebnn_format
    int32_t out_channels_last;
    int32_t threads;
} rebnn_conv2d_call;

REBNN_API int32_t rebnn_conv2d_run(const rebnn_conv2d_call* call);

// fma(max_pool(x), scale, offset): windows of 3x3 with stride 2 and padding 1, as behind the stem of a ResNet. x is
// (n, h, w, c), out (n, (h - 1) / 2 + 1, (w - 1) / 2 + 1, c), scale and offset (c); NaN wins a maximum. h, w, c and
// threads are at least 1, and x_size and out_size the numbers of floats of x and out, exactly those of the shapes.
REBNN_API int32_t rebnn_max_pool_run(const char* isa, const float* x, int64_t x_size, int64_t n, int64_t h, int64_t w,
                                     int64_t c, const float* scale, const float* offset, float* out, int64_t out_size,
                                     int32_t threads);

// Mean over the pixels of each channel, in the order in which torch adds contiguous pixels with vectors of `lanes` floats,
// 4 to 16. x is (n, pixels, c), out (n, c); pixels and c are at least 1 and at most 2^20.
REBNN_API int32_t rebnn_mean_run(const char* isa, const float* x, int64_t x_size, int64_t n, int64_t pixels, int64_t c,
                                 int64_t lanes, float* out, int64_t out_size);

// n matrices (rows, columns), each transposed; all of `size` floats. x and out do not overlap; rows and columns are at
// least 1.
REBNN_API int32_t rebnn_transpose_run(const char* isa, const float* x, int64_t n, int64_t rows, int64_t columns,
                                      float* out, int64_t size, int32_t threads);

// clamp(fma(conv(x, weight), scale, offset)), a real-valued convolution of one group, with max_pool clamp(fma(max_pool(conv(
// x, weight)), scale, offset)) and the pooling above. x is (n, c_in, h, w) in the format that x_channels_last says, out
// NHWC. Products are added by fma, tap by tap, rows first, channels innermost; a 1x1 kernel adds up every `chunk` channels
// by themselves, and then the sums in order. All sizes but n and padding are at least 1 and at most 2^20; NaN stays through
// the clamp.
typedef struct rebnn_real_conv2d_call {
    const float* x;
    int64_t x_size;  // elements, exactly those of the shape, as of weight and out
    int64_t n, h, w, c_in, c_out, kernel_h, kernel_w, stride, padding;
    int64_t chunk;        // at least c_in unless the kernel is 1x1
    const float* weight;  // (ceil(c_out / 64), kernel_h, kernel_w, c_in, 64)
    int64_t weight_size;
    const float* scale;   // c_out
    const float* offset;  // c_out
    void* workspace;      // null if it needs no bytes
    int64_t workspace_bytes;
    float* out;
    int64_t out_size;
    float clamp_low, clamp_high;
    int32_t x_channels_last, max_pool, threads;
} rebnn_real_conv2d_call;

// Bytes of memory, aligned for floats, that a call writes to; or -1: sizes that do not fit, or no memory is as large.
REBNN_API int64_t rebnn_real_conv2d_workspace_bytes(const rebnn_real_conv2d_call* call);
REBNN_API int32_t rebnn_real_conv2d_run(const char* isa, const rebnn_real_conv2d_call* call);

// clamp(fma(conv(x, weight), scale, offset)), a real-valued depthwise convolution: x is (n, h, w, c), weight
// (kernel_h, kernel_w, c), scale and offset (c), out (n, h', w', c), with h' as above. Products are added by fma, tap by
// tap, rows first, to `start`, (c) or null for 0. All sizes but n and padding are at least 1 and at most 2^20; NaN stays
// through the clamp.
REBNN_API int32_t rebnn_depthwise_run(const char* isa, const float* x, int64_t x_size, int64_t n, int64_t h, int64_t w,
                                      int64_t c, const float* weight, int64_t kernel_h, int64_t kernel_w,
                                      int64_t stride, int64_t padding, int64_t dilation, const float* start,
                                      const float* scale, const float* offset, float clamp_low, float clamp_high,
                                      float* out, int64_t out_size, int32_t threads);

// Elementwise steps around a 1-bit convolution that trains. All maps are dense (n, c, plane) of `size` elements, all other
// vectors have c elements, and sums has c for each sum.
enum rebnn_unit_step {
    // counts_out = values, which are integers below 2^15; sums of them and of their squares
    REBNN_UNIT_COUNTS = 0,
    // z = counts * scale + offset + shortcut; out = (z > 0 ? z : z * slope) + after; z in 8 bits into code_out. Shortcut,
    // slope, after and code_out may be null.
    REBNN_UNIT_FORWARD = 1,
    // values is dL/dout, out is dL/dz, with z from the code if it is there; sums of dL/dout, of dL/dout * z where z <= 0,
    // of dL/dz, and of dL/dz * counts
    REBNN_UNIT_BACKWARD = 2,
    // out = values * scale + counts * slope + offset
    REBNN_UNIT_NORM = 3,
    // out = the signs of values + offset (which may be null), or those in code, as -scale and scale, or as -1 and 1
    REBNN_UNIT_SIGNS = 4,
    // code_out = sign of values + offset in bit 7, and the estimator's slope there in 127ths of its peak
    REBNN_UNIT_ENCODE = 5,
    // out = values * (slope at x + offset, or that in code) + shortcut, which may be null; the sum without the shortcut
    REBNN_UNIT_INPUT = 6,
    // out = values * scale where |x| <= 1, else 0; the sum of values * sign(x). Maps are weights, (1, c, plane).
    REBNN_UNIT_WEIGHT = 7
};

typedef struct rebnn_unit_call {
    int64_t n, c, plane, size;
    const float* values;
    const float* x;
    const float* shortcut;
    const int16_t* counts;
    const uint8_t* code;
    const float* scale;
    const float* offset;
    const float* slope;
    const float* after;
    int16_t* counts_out;
    uint8_t* code_out;
    float* out;
    double* sums;
    int32_t step;        // of enum rebnn_unit_step
    int32_t polynomial;  // the estimator: 2 - 2 |x| within 1; otherwise 1 within 1
    int32_t threads;
} rebnn_unit_call;

REBNN_API int32_t rebnn_unit_run(const char* isa, const rebnn_unit_call* call);

// Threads come from libgomp's GOMP_parallel if it is set, so that torch and this library share one pool and
// do not wait for each other's spinning threads; from std::thread otherwise.
typedef void (*rebnn_gomp_parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
REBNN_API void rebnn_set_parallel(rebnn_gomp_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
