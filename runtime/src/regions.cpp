#include "regions.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace rebnn {

Regions::Regions(const Json& card) {
    for (const float stride : card["strides"].floats()) {
        if (!(stride > 0)) throw std::runtime_error("the program's card is malformed: a stride of regions");
        scales_.push_back(1 / stride);
    }
    if (scales_.empty()) throw std::runtime_error("the program's card is malformed: regions without levels");
    grid_ = {card["height"].integer(1, 64), card["width"].integer(1, 64), card["samples"].integer(0, 64)};
    finest_ = float(card["finest_scale"].number());
    means_ = card["means"].floats();
    stds_ = card["stds"].floats();
    if (!(finest_ > 0) || means_.size() != 4 || stds_.size() != 4) throw std::runtime_error("the program's card is malformed: how regions become boxes");
    agnostic_ = card["agnostic"].boolean();
    classes_ = card["classes"].integer(1, 1 << 20);
    most_ = card["max_per_img"].integer(1, 1 << 20);
    least_score_ = float(card["score_thr"].number());
    overlap_ = float(card["iou_threshold"].number());
}

void Regions::pool(const std::vector<Map>& levels, const Box& proposal, bool channels_last, float* out) const {
    const float side = std::sqrt((proposal.right - proposal.left) * (proposal.bottom - proposal.top));
    const float level = std::floor(std::log2(side / finest_ + 1e-6f));
    const auto at = size_t(std::min(std::max(level, 0.0f), float(levels.size() - 1)));
    const int64_t bins = grid_.height * grid_.width;
    roi_align(levels[at], proposal, scales_[at], grid_, out, channels_last ? levels[at].channels : 1, channels_last ? 1 : bins);
}

void Regions::add(const Box& proposal, const float* scores, const float* deltas, float width, float height, std::vector<Box>* boxes) const {
    const float largest = *std::max_element(scores, scores + score_columns());
    double sum = 0;
    for (int64_t c = 0; c < score_columns(); ++c) sum += std::exp(scores[c] - largest);
    for (int64_t c = 0; c < classes_; ++c) {
        const auto score = float(std::exp(scores[c] - largest) / sum);
        if (!(score > least_score_)) continue;
        Box box = clipped(moved(proposal, deltas + (agnostic_ ? 0 : 4 * c), means_, stds_), width, height);
        if (!std::isfinite(box.left + box.top + box.right + box.bottom)) continue;
        box.label = int32_t(c);
        box.score = score;
        boxes->push_back(std::move(box));
    }
}

}  // namespace rebnn
