#include <algorithm>

#include "boxes.hpp"
#include "image.hpp"
#include "program.hpp"
#include "rebnn/runtime.hpp"
#include "regions.hpp"
#include "threads.hpp"

namespace rebnn {

Detector::Detector(const std::string& path) : network_(path) {
    Program& program = *network_.program_;
    classes_ = classes_of(program, path, "detector");
    try {
        const Json& card = program.card()["detector"];
        decoder_ = std::make_unique<Decoder>(card);
        if (card["regions"].is_null()) return;
        regions_ = std::make_unique<Regions>(card["regions"]);
    } catch (const std::runtime_error& error) {
        throw Error(path + ": " + error.what());
    }
    rois_ = program.load("rois");
    const auto& inputs = program.inputs(rois_);
    const bool fits = inputs.size() == 1 && !inputs[0].is_integer && inputs[0].shape.size() == (inputs[0].is_image ? 4u : 2u) && inputs[0].shape[0] > 0;
    if (!fits) throw Error(path + " has a second method that takes something else than regions");
}

Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;
Detector& Detector::operator=(Detector&&) noexcept = default;

void Detector::measured(const char* name) {
    const double now = thread_milliseconds();
    parts_.push_back({name, now - since_});
    since_ = now;
}

std::vector<Map> Detector::maps_of(const float* image, const std::vector<int32_t>& shape) {
    std::vector<Map> maps;
    for (const auto& tensor : network_.program_->run({{image, shape}})) {
        const auto order = tensor.dim_order();
        if (tensor.dim() != 4 || tensor.size(0) != 1 || order[0] != 0) throw Error("the detector gives something else than maps");
        const int64_t c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
        const bool last = order[1] == 2;
        maps.push_back({tensor.const_data_ptr<float>(), c, h, w, last ? 1 : h * w, last ? c : 1});
    }
    return maps;
}

// `maps` are those of the proposals, then the levels that regions are read from.
std::vector<Box> Detector::from_regions(const std::vector<Map>& maps, float width, float height) {
    const size_t own = decoder_->maps();
    if (maps.size() != own + regions_->levels()) throw Error("the detector gives another number of maps than its card says");
    const std::vector<Map> levels(maps.begin() + std::ptrdiff_t(own), maps.end());
    const std::vector<Box> proposals = decoder_->decode({maps.begin(), maps.begin() + std::ptrdiff_t(own)}, {width, height});  // an RPN's sizes are those of its input
    measured("proposals");
    const Input& input = network_.program_->inputs(rois_)[0];
    const size_t batch = size_t(input.shape[0]), values = size_t(regions_->values(levels[0].channels));
    size_t taken = 1;
    for (size_t d = 1; d < input.shape.size(); ++d) taken *= size_t(input.shape[d]);
    for (const Map& level : levels)
        if (level.channels != levels[0].channels || taken != values) throw Error("the detector's second method takes other regions than its maps have");
    std::vector<float> pooled(batch * values);
    std::vector<Box> boxes;
    double pooling = 0, heads = 0;
    for (size_t first = 0; first < proposals.size(); first += batch) {
        const size_t count = std::min(batch, proposals.size() - first);
        const double begin = thread_milliseconds();
        for (size_t i = 0; i < count; ++i) regions_->pool(levels, proposals[first + i], input.is_image, &pooled[i * values]);
        const double middle = thread_milliseconds();
        const auto results = network_.program_->run({{pooled.data(), input.shape}}, rois_);
        const auto fits = [&](size_t at, int64_t columns) { return results[at].dim() == 2 && results[at].size(0) == int64_t(batch) && results[at].size(1) == columns; };
        if (results.size() != 2 || !fits(0, regions_->score_columns()) || !fits(1, regions_->delta_columns())) throw Error("the detector's second method gives other results than its card says");
        const float *scores = results[0].const_data_ptr<float>(), *deltas = results[1].const_data_ptr<float>();
        for (size_t i = 0; i < count; ++i)
            regions_->add(proposals[first + i], scores + i * size_t(regions_->score_columns()), deltas + i * size_t(regions_->delta_columns()), width, height, &boxes);
        pooling += middle - begin;
        heads += thread_milliseconds() - middle;
    }
    parts_.push_back({"regions", pooling});
    parts_.push_back({"heads", heads});
    since_ = thread_milliseconds();
    return regions_->chosen(std::move(boxes));
}

std::vector<Box> Detector::operator()(const Image& image) {
    parts_.clear();
    since_ = thread_milliseconds();
    const Input& input = network_.inputs()[0];
    const Prepared x = prepared(image, network_.program_->card()["preprocessing"], input);
    const auto width = float(image.width) * x.scale_x, height = float(image.height) * x.scale_y;
    measured("image");
    const std::vector<Map> maps = maps_of(x.values.data(), {1, input.shape[1], x.height, x.width});
    measured("maps");
    std::vector<Box> boxes = regions_ ? from_regions(maps, width, height) : decoder_->decode(maps, {width, height, x.scale_x, x.scale_y});
    measured("boxes");
    for (Box& box : boxes) {
        box.left /= x.scale_x;
        box.right /= x.scale_x;
        box.top /= x.scale_y;
        box.bottom /= x.scale_y;
        box.name = name_of(classes_, box.label);
    }
    return boxes;
}

}  // namespace rebnn
