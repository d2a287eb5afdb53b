#include "roi_align.hpp"

#include <algorithm>
#include <cmath>

namespace rebnn {
namespace {

// The pixels along one axis that a bin reads, first, first + 1, ..., and their weights. Samples of a bin are a grid of
// rows and columns, so the mean over them is a product of one sum over rows and one over columns.
struct Taps {
    int64_t first = 0;
    std::vector<float> weights;
};

std::vector<Taps> taps_along(float begin, float end, int64_t bins, int64_t samples, int64_t size) {
    const float side = (end - begin) / float(bins);
    const auto most = int64_t(std::ceil(std::min(std::max(side, 0.0f), float(size) + 2)));
    const int64_t count = samples > 0 ? samples : most;
    std::vector<Taps> all(static_cast<size_t>(bins));
    for (int64_t bin = 0; bin < bins; ++bin) {
        Taps& taps = all[size_t(bin)];
        const auto add = [&](int64_t pixel, float weight) {
            if (taps.weights.empty()) taps.first = pixel;
            if (size_t(pixel - taps.first) >= taps.weights.size()) taps.weights.resize(size_t(pixel - taps.first) + 1);
            taps.weights[size_t(pixel - taps.first)] += weight / float(count);
        };
        for (int64_t i = 0; i < count; ++i) {
            const float at = begin + float(bin) * side + (float(i) + 0.5f) * side / float(count);
            if (!(at >= -1 && at <= float(size))) continue;
            const float inside = std::max(at, 0.0f);
            const auto low = std::min(int64_t(inside), size - 1);
            const float part = low == size - 1 ? 0 : inside - float(low);
            add(low, 1 - part);
            if (part > 0) add(low + 1, part);
        }
    }
    return all;
}

void add_pixel(const Map& map, int64_t pixel, float weight, float* __restrict sum) {
    const float* __restrict from = map.values + pixel * map.step_pixel;
    if (map.step_c == 1)
        for (int64_t c = 0; c < map.channels; ++c) sum[c] += weight * from[c];
    else
        for (int64_t c = 0; c < map.channels; ++c) sum[c] += weight * from[c * map.step_c];
}

}  // namespace

void roi_align(const Map& map, const Box& box, float scale, const RoiGrid& grid, float* out, int64_t step_bin, int64_t step_channel) {
    const auto rows = taps_along(box.top * scale - 0.5f, box.bottom * scale - 0.5f, grid.height, grid.samples, map.height);
    const auto columns = taps_along(box.left * scale - 0.5f, box.right * scale - 0.5f, grid.width, grid.samples, map.width);
    std::vector<float> sum(static_cast<size_t>(map.channels));
    for (const Taps& row : rows)
        for (const Taps& column : columns) {
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (size_t y = 0; y < row.weights.size(); ++y)
                for (size_t x = 0; x < column.weights.size(); ++x) {
                    const int64_t pixel = (row.first + int64_t(y)) * map.width + column.first + int64_t(x);
                    add_pixel(map, pixel, row.weights[y] * column.weights[x], sum.data());
                }
            for (int64_t c = 0; c < map.channels; ++c) out[c * step_channel] = sum[size_t(c)];
            out += step_bin;
        }
}

}  // namespace rebnn
