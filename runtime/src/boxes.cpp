#include "boxes.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace rebnn {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

float overlap(const Box& a, const Box& b) {
    const float w = std::min(a.right, b.right) - std::max(a.left, b.left), h = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
    if (w <= 0 || h <= 0) return 0;
    const float both = w * h, all = (a.right - a.left) * (a.bottom - a.top) + (b.right - b.left) * (b.bottom - b.top) - both;
    return all > 0 ? both / all : 0;
}

float between(float value, float low, float high) { return std::min(std::max(value, low), high); }

}  // namespace

Box moved(const Box& box, const float deltas[4], const std::vector<float>& means, const std::vector<float>& stds) {
    // MMDetection limits the size's delta to a ratio of 1000 / 16
    static const float most = std::abs(std::log(16.0f / 1000.0f));
    float d[4];
    for (size_t i = 0; i < 4; ++i) d[i] = deltas[i] * stds[i] + means[i];
    const float w = box.right - box.left, h = box.bottom - box.top;
    const float cx = (box.left + box.right) / 2 + w * d[0], cy = (box.top + box.bottom) / 2 + h * d[1];
    const float half_w = w * std::exp(between(d[2], -most, most)) / 2, half_h = h * std::exp(between(d[3], -most, most)) / 2;
    return {cx - half_w, cy - half_h, cx + half_w, cy + half_h, box.score, box.label, {}};
}

Box clipped(Box box, float width, float height) {
    box.left = between(box.left, 0, width);
    box.right = between(box.right, 0, width);
    box.top = between(box.top, 0, height);
    box.bottom = between(box.bottom, 0, height);
    return box;
}

std::vector<Box> suppressed(std::vector<Box> boxes, float most_overlap, int64_t most) {
    std::stable_sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.score > b.score; });
    std::vector<Box> kept;
    for (Box& one : boxes) {
        const bool covered = std::any_of(kept.begin(), kept.end(), [&](const Box& box) { return box.label == one.label && overlap(box, one) > most_overlap; });
        if (!covered) kept.push_back(std::move(one));
        if (int64_t(kept.size()) == most) break;
    }
    return kept;
}

Decoder::Decoder(const Json& card) {
    const std::string& coder = card["coder"].string();
    if (coder != "distance" && coder != "delta") throw std::runtime_error("the program's card is malformed: an unknown box coder");
    distances_ = coder == "distance";
    sigmoid_ = card["sigmoid"].boolean();
    factors_ = card["factors"].boolean();
    proposes_ = !card["regions"].is_null();
    classes_ = card["classes"].integer(1, 1 << 20);
    before_nms_ = card["nms_pre"].integer(1, 1 << 24);
    most_ = card["max_per_img"].integer(1, 1 << 20);
    least_score_ = float(card["score_thr"].number());
    // a little below the least score's: what is under it needs no exponential
    if (least_score_ > 0 && least_score_ < 0.999f) least_logit_ = std::log(least_score_ / (1 - least_score_)) - 0.01f;
    overlap_ = float(card["iou_threshold"].number());
    least_size_ = float(card["min_bbox_size"].number());
    means_ = card["means"].floats();
    stds_ = card["stds"].floats();
    if (!distances_ && (means_.size() != 4 || stds_.size() != 4)) throw std::runtime_error("the program's card is malformed: means and stds of boxes");
    for (const Json& row : card["levels"].array()) {
        const auto stride = row["stride"].floats();
        Level level{};
        if (stride.size() != 2) throw std::runtime_error("the program's card is malformed: a stride");
        level.stride_x = stride[0];
        level.stride_y = stride[1];
        for (const Json& prior : row["priors"].array()) {
            level.priors.push_back(prior.floats());
            if (level.priors.back().size() != (distances_ ? 2u : 4u)) throw std::runtime_error("the program's card is malformed: a prior");
        }
        if (level.priors.empty()) throw std::runtime_error("the program's card is malformed: a level without priors");
        levels_.push_back(std::move(level));
    }
    if (levels_.empty()) throw std::runtime_error("the program's card is malformed: no levels");
}

Box Decoder::box_of(const Level& level, const std::vector<float>& prior, const Map& boxes, int64_t first, int64_t pixel) const {
    const float x = float(pixel % boxes.width) * level.stride_x, y = float(pixel / boxes.width) * level.stride_y;
    float d[4];
    for (int64_t i = 0; i < 4; ++i) d[i] = boxes.at(first + i, pixel);
    if (!distances_) return moved({x + prior[0], y + prior[1], x + prior[2], y + prior[3], 0, 0, {}}, d, means_, stds_);
    const float px = x + prior[0], py = y + prior[1];
    return {px - d[0], py - d[1], px + d[2], py + d[3], 0, 0, {}};
}

std::vector<Box> Decoder::candidates_of(size_t at, const std::vector<Map>& maps, const Picture& picture) const {
    const Level& level = levels_[at];
    const Map& scores = maps[at];
    const Map& boxes = maps[levels_.size() + at];
    const auto priors = int64_t(level.priors.size()), columns = classes_ + !sigmoid_, pixels = scores.height * scores.width;
    struct Found {
        float score;
        int64_t pixel, prior, label;
    };
    std::vector<Found> found;
    for (int64_t pixel = 0; pixel < pixels; ++pixel)
        for (int64_t prior = 0; prior < priors; ++prior) {
            double sum = 0;
            float largest = -INFINITY;
            if (!sigmoid_) {
                for (int64_t c = 0; c < columns; ++c) largest = std::max(largest, scores.at(prior * columns + c, pixel));
                for (int64_t c = 0; c < columns; ++c) sum += std::exp(scores.at(prior * columns + c, pixel) - largest);
            }
            for (int64_t c = 0; c < classes_; ++c) {
                const float value = scores.at(prior * columns + c, pixel);
                if (sigmoid_ && value < least_logit_) continue;
                const float score = sigmoid_ ? sigmoid(value) : float(std::exp(value - largest) / sum);
                if (score > least_score_) found.push_back({score, pixel, prior, c});
            }
        }
    // the best, of equal ones those that come first
    const auto better = [](const Found& a, const Found& b) {
        if (a.score != b.score) return a.score > b.score;
        return a.pixel != b.pixel ? a.pixel < b.pixel : a.prior != b.prior ? a.prior < b.prior : a.label < b.label;
    };
    const auto count = std::min(int64_t(found.size()), before_nms_);
    std::partial_sort(found.begin(), found.begin() + count, found.end(), better);
    found.resize(size_t(count));
    const float least_width = least_size_ * picture.scale_x, least_height = least_size_ * picture.scale_y;
    std::vector<Box> out;
    for (const Found& one : found) {
        Box box = clipped(box_of(level, level.priors[size_t(one.prior)], boxes, one.prior * 4, one.pixel), picture.width, picture.height);
        if (!std::isfinite(box.left + box.top + box.right + box.bottom)) continue;
        if (least_size_ >= 0 && (box.right - box.left <= least_width || box.bottom - box.top <= least_height)) continue;
        box.label = int32_t(proposes_ ? int64_t(at) : one.label);
        box.score = factors_ ? one.score * sigmoid(maps[2 * levels_.size() + at].at(one.prior, one.pixel)) : one.score;
        out.push_back(box);
    }
    return out;
}

std::vector<Box> Decoder::decode(const std::vector<Map>& maps, const Picture& picture) const {
    if (maps.size() != this->maps()) throw Error("the detector gives another number of maps than its card says");
    std::vector<Box> all;
    for (size_t at = 0; at < levels_.size(); ++at) {
        const auto priors = int64_t(levels_[at].priors.size());
        const int64_t channels[] = {priors * (classes_ + !sigmoid_), priors * 4, priors};
        for (size_t kind = 0; kind < maps.size() / levels_.size(); ++kind) {
            const Map& map = maps[kind * levels_.size() + at];
            if (map.channels != channels[kind] || map.height != maps[at].height || map.width != maps[at].width) throw Error("the detector gives maps of other sizes than its card says");
        }
        const auto found = candidates_of(at, maps, picture);
        all.insert(all.end(), found.begin(), found.end());
    }
    return suppressed(std::move(all), overlap_, most_);
}

}  // namespace rebnn
