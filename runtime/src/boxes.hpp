// From maps to boxes, as MMDetection computes them: best scores of each level, decoding, NMS. These are a one-stage
// detector's results, and a two-stage detector's proposals.
#pragma once

#include <cstdint>
#include <vector>

#include "json.hpp"
#include "rebnn/runtime.hpp"

namespace rebnn {

// One result of the program: (1, channels, height, width), its values at [c * step_c + pixel * step_pixel].
struct Map {
    const float* values;
    int64_t channels, height, width, step_c, step_pixel;

    float at(int64_t channel, int64_t pixel) const { return values[channel * step_c + pixel * step_pixel]; }
};

// `box` moved and stretched by what a network says of it: deltas of center and size.
Box moved(const Box& box, const float deltas[4], const std::vector<float>& means, const std::vector<float>& stds);

// `box` within width x height.
Box clipped(Box box, float width, float height);

// Non-maximum suppression: of boxes of one label that overlap by more than `overlap`, the best; at most `most`, best first.
std::vector<Box> suppressed(std::vector<Box> boxes, float overlap, int64_t most);

// The part of an input that an image fills, and how much the image was enlarged for it.
struct Picture {
    float width, height, scale_x = 1, scale_y = 1;
};

// How boxes are decoded; what rebnn_mm/integrations/executorch.py writes into the card.
class Decoder {
public:
    // Throws std::runtime_error with a sentence for a card that does not say it.
    explicit Decoder(const Json& card);

    size_t maps() const { return levels_.size() * (factors_ ? 3 : 2); }

    // `maps` are scores of all levels, then boxes of all levels, then, of some detectors, centernesses of all levels.
    // Boxes are clipped to the picture; their least size is meant in pixels of the image. A proposal's label is its level.
    // Throws Error where the maps' sizes are not those of such a detector.
    std::vector<Box> decode(const std::vector<Map>& maps, const Picture& picture) const;

private:
    struct Level {
        float stride_x, stride_y;
        std::vector<std::vector<float>> priors;  // a point, or anchors of this level's first pixel
    };
    Box box_of(const Level& level, const std::vector<float>& prior, const Map& boxes, int64_t first, int64_t pixel) const;
    std::vector<Box> candidates_of(size_t level, const std::vector<Map>& maps, const Picture& picture) const;

    std::vector<Level> levels_;
    std::vector<float> means_, stds_;
    bool distances_ = false, sigmoid_ = true, factors_ = false, proposes_ = false;
    int64_t classes_ = 0, before_nms_ = 0, most_ = 0;
    float least_score_ = 0, least_logit_ = -1e30f, overlap_ = 0, least_size_ = -1;
};

}  // namespace rebnn
