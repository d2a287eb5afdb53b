// Parts of feature maps, averaged into a grid of one size: mmcv's RoIAlign with aligned=True and pool_mode='avg'.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes.hpp"

namespace rebnn {

struct RoiGrid {
    int64_t height, width;  // bins of the result
    int64_t samples;        // along one side of a bin; 0 takes as many as the box has pixels of the map there
};

// out[bin * step_bin + channel * step_channel], bins row by row; `box` in pixels of the image, finite, `scale` map pixels
// for each of these. What lies outside the map counts as mmcv has it: up to one pixel as its border, beyond as 0.
void roi_align(const Map& map, const Box& box, float scale, const RoiGrid& grid, float* out, int64_t step_bin, int64_t step_channel);

}  // namespace rebnn
