// C interface of the bit-packed layers. No C++ type, no torch header and no exception crosses it.
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

#define REBNN_ABI_VERSION 3

enum rebnn_status { REBNN_OK = 0, REBNN_UNSUPPORTED_ISA = 1, REBNN_BAD_ARGUMENT = 2, REBNN_OUT_OF_MEMORY = 3 };

// y = fma(conv(sign(fma(x + shift, input_scale, input_offset)), sign(w)) * alpha + bias, scale, offset) + residual,
// then RPReLU: y + before, times slope where y <= 0, + after. Every pointer but packed and alpha may be null.
typedef struct rebnn_conv2d_spec {
    int64_t c_in, c_out, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
    const uint8_t* packed;      // canonical bits: (c_out, kernel_h, kernel_w, c_in / groups), least significant first
    const float* shift;         // c_in elements
    const float* input_scale;   // c_in, together with input_offset
    const float* input_offset;  // c_in
    const float* alpha;         // c_out, as all that follow
    const float* bias;
    const float* scale;         // together with offset
    const float* offset;
    const float* before;        // together with slope and after
    const float* slope;
    const float* after;
} rebnn_conv2d_spec;

REBNN_API int32_t rebnn_abi_version(void);

// Name of the i-th instruction set that this processor can run, best first; null behind the last.
REBNN_API const char* rebnn_isa_name(int32_t index);

// Bytes of a plan, or -1: unknown instruction set, or a size that no weight has.
REBNN_API int64_t rebnn_conv2d_plan_bytes(const char* isa, const rebnn_conv2d_spec* spec);

// Write a plan. packed_bytes is the size of spec->packed, (c_out * kernel_h * kernel_w * c_in / groups + 7) / 8;
// plan_bytes that of plan, at least rebnn_conv2d_plan_bytes.
REBNN_API int32_t rebnn_conv2d_plan(const char* isa, const rebnn_conv2d_spec* spec, int64_t packed_bytes, void* plan,
                                    int64_t plan_bytes);

// x is (n, c_in, h, w), residual (or null) and out are (n, c_out, h', w'), all dense float32 and all in one
// memory format. h' = (h + 2 padding - dilation (kernel - 1) - 1) / stride + 1 must be at least 1, and so must h, w
// and threads; n may be 0, and x and out null then. plan_bytes is the size of the plan's memory, x_size and out_size
// are the numbers of floats of x and of out (and residual), exactly those of the shapes.
REBNN_API int32_t rebnn_conv2d_run(const void* plan, int64_t plan_bytes, const float* x, int64_t x_size, int64_t n,
                                   int64_t h, int64_t w, int32_t channels_last, const float* residual, float* out,
                                   int64_t out_size, int32_t threads);

// fma(max_pool(x), scale, offset): windows of 3x3 with stride 2 and padding 1, as behind the stem of a ResNet. x is
// (n, h, w, c), out (n, (h - 1) / 2 + 1, (w - 1) / 2 + 1, c), scale and offset (c); NaN wins a maximum. h, w, c and
// threads are at least 1, and x_size and out_size the numbers of floats of x and out, exactly those of the shapes.
REBNN_API int32_t rebnn_max_pool_run(const char* isa, const float* x, int64_t x_size, int64_t n, int64_t h, int64_t w,
                                     int64_t c, const float* scale, const float* offset, float* out, int64_t out_size,
                                     int32_t threads);

// Threads come from libgomp's GOMP_parallel if it is set, so that torch and this library share one pool and
// do not wait for each other's spinning threads; from std::thread otherwise.
typedef void (*rebnn_gomp_parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
REBNN_API void rebnn_set_parallel(rebnn_gomp_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
