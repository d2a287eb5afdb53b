// The second stage of a two-stage detector, as MMDetection computes it: which level of a pyramid a proposal is read from,
// what is read, and how scores and deltas of proposals become boxes.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes.hpp"
#include "json.hpp"
#include "rebnn/runtime.hpp"
#include "roi_align.hpp"

namespace rebnn {

// What rebnn_mm/integrations/executorch.py writes into the card as `regions`.
class Regions {
public:
    // Throws std::runtime_error with a sentence for a card that does not say it.
    explicit Regions(const Json& card);

    size_t levels() const { return scales_.size(); }
    // Values of one proposal, of maps of `channels` channels.
    int64_t values(int64_t channels) const { return channels * grid_.height * grid_.width; }
    int64_t score_columns() const { return classes_ + 1; }
    int64_t delta_columns() const { return agnostic_ ? 4 : 4 * classes_; }

    // out[...]: (channels, height, width) of one proposal, or, `channels_last`, (height, width, channels).
    void pool(const std::vector<Map>& levels, const Box& proposal, bool channels_last, float* out) const;

    // Adds the boxes that one proposal became: scores (score_columns()), the background last, and deltas (delta_columns()).
    void add(const Box& proposal, const float* scores, const float* deltas, float width, float height, std::vector<Box>* boxes) const;

    // What is left of all of them, the best first.
    std::vector<Box> chosen(std::vector<Box> boxes) const { return suppressed(std::move(boxes), overlap_, most_); }

private:
    std::vector<float> scales_, means_, stds_;
    RoiGrid grid_{};
    bool agnostic_ = false;
    int64_t classes_ = 0, most_ = 0;
    float finest_ = 0, least_score_ = 0, overlap_ = 0;
};

}  // namespace rebnn
