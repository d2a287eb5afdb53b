// Nearest upsampling by whole numbers.
#pragma once

#include <cstdint>

namespace rebnn {

// Repeat each pixel times_h by times_w. x is (n, h, w, c), or (n, c, h, w); out is (n, h * times_h, w * times_w, c).
void nearest(const float* x, int64_t n, int64_t h, int64_t w, int64_t c, bool channels_last, int64_t times_h, int64_t times_w, float* out);

}  // namespace rebnn
