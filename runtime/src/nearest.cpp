#include "nearest.hpp"

#include <algorithm>

namespace rebnn {

void nearest(const float* x, int64_t n, int64_t h, int64_t w, int64_t c, bool channels_last, int64_t times_h, int64_t times_w, float* out) {
    const int64_t pixel = channels_last ? c : 1, channel = channels_last ? 1 : h * w;  // steps in x
    for (int64_t image = 0; image < n; ++image) {
        for (int64_t row = 0; row < h; ++row) {
            const float* from = x + image * h * w * c + row * w * pixel;
            float* const first = out;
            for (int64_t column = 0; column < w; ++column, from += pixel) {
                const float* const values = out;
                for (int64_t i = 0; i < c; ++i) *out++ = from[i * channel];
                for (int64_t again = 1; again < times_w; ++again) out = std::copy(values, values + c, out);
            }
            const float* const last = out;
            for (int64_t again = 1; again < times_h; ++again) out = std::copy(static_cast<const float*>(first), last, out);
        }
    }
}

}  // namespace rebnn
