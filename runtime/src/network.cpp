#include <algorithm>
#include <cmath>
#include <numeric>

#include "image.hpp"
#include "program.hpp"
#include "rebnn/runtime.hpp"
#include "threads.hpp"

namespace rebnn {
namespace {

std::string as_text(const std::vector<int32_t>& shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + ")";
}

size_t elements_of(const std::vector<int32_t>& shape) {
    size_t elements = 1;
    for (const int32_t size : shape) elements *= size_t(std::max(size, 0));
    return elements;
}

// (N, C, H, W) -> (N, H, W, C)
std::vector<float> to_nhwc(const Tensor& x) {
    const size_t n = size_t(x.shape[0]), c = size_t(x.shape[1]), pixels = size_t(x.shape[2]) * size_t(x.shape[3]);
    std::vector<float> out(x.values.size());
    for (size_t image = 0; image < n; ++image)
        for (size_t channel = 0; channel < c; ++channel)
            for (size_t pixel = 0; pixel < pixels; ++pixel)
                out[(image * pixels + pixel) * c + channel] = x.values[(image * c + channel) * pixels + pixel];
    return out;
}

Tensor copied(const executorch::aten::Tensor& tensor) {
    Tensor out;
    for (const auto size : tensor.sizes()) out.shape.push_back(int32_t(size));
    const float* data = tensor.const_data_ptr<float>();
    out.values.assign(data, data + tensor.numel());
    const auto order = tensor.dim_order();
    if (order.size() != 4 || order[1] != 2) return out;
    const size_t n = size_t(out.shape[0]), c = size_t(out.shape[1]), pixels = size_t(out.shape[2]) * size_t(out.shape[3]);
    for (size_t image = 0; image < n; ++image)
        for (size_t channel = 0; channel < c; ++channel)
            for (size_t pixel = 0; pixel < pixels; ++pixel)
                out.values[(image * c + channel) * pixels + pixel] = data[(image * pixels + pixel) * c + channel];
    return out;
}

}  // namespace


Network::Network(const std::string& path) : program_(std::make_unique<Program>(path)) {}
Network::~Network() = default;
Network::Network(Network&&) noexcept = default;
Network& Network::operator=(Network&&) noexcept = default;

const std::vector<Input>& Network::inputs() const { return program_->inputs(); }
const std::string& Network::card() const { return program_->card_text(); }

std::vector<Tensor> Network::operator()(const std::vector<Tensor>& inputs, Layout layout) {
    const auto& wanted = program_->inputs();
    if (inputs.size() != wanted.size()) throw Error("the network takes " + std::to_string(wanted.size()) + " inputs, not " + std::to_string(inputs.size()));
    std::vector<std::vector<float>> converted(inputs.size());
    std::vector<const float*> data;
    for (size_t i = 0; i < inputs.size(); ++i) {
        if (inputs[i].shape != wanted[i].shape) throw Error("input " + std::to_string(i) + " has the shape " + as_text(inputs[i].shape) + "; the network takes " + as_text(wanted[i].shape));
        if (inputs[i].values.size() != elements_of(wanted[i].shape)) throw Error("input " + std::to_string(i) + " holds " + std::to_string(inputs[i].values.size()) + " values, its shape says " + std::to_string(elements_of(wanted[i].shape)));
        if (wanted[i].is_image && layout == Layout::nchw) converted[i] = to_nhwc(inputs[i]);
        data.push_back(converted[i].empty() ? inputs[i].values.data() : converted[i].data());
    }
    std::vector<Tensor> results;
    for (const auto& tensor : program_->run(data)) results.push_back(copied(tensor));
    return results;
}

Classifier::Classifier(const std::string& path) : network_(path) {
    try {
        const Json& card = network_.program_->card();
        if (card["kind"].string() != "classifier") throw Error(path + " is a " + card["kind"].string() + ", no classifier of images");
        if (network_.inputs().size() != 1 || !network_.inputs()[0].is_image || network_.inputs()[0].shape[0] != 1) throw Error(path + " does not take one image");
        if (!card["classes"].is_null())
            for (const Json& name : card["classes"].array()) classes_.push_back(name.string());
        check_preprocessing(card["preprocessing"], network_.inputs()[0].shape[1]);
        outputs_ = network_.program_->outputs();
    } catch (const Error&) {
        throw;
    } catch (const std::runtime_error& error) {
        throw Error(path + ": " + error.what());
    }
}

std::vector<float> Classifier::scores(const Image& image) {
    const auto& shape = network_.inputs()[0].shape;
    const std::vector<float> x = prepared(image, network_.program_->card()["preprocessing"], shape[1], shape[2], shape[3]).values;
    const auto results = network_.program_->run({x.data()});
    if (results.empty() || int64_t(results[0].numel()) != outputs_) throw Error("the classifier gives other scores than its file says");
    const float* logits = results[0].const_data_ptr<float>();
    std::vector<float> scores(logits, logits + results[0].numel());
    const float largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (float& score : scores) sum += score = std::exp(score - largest);
    for (float& score : scores) score = float(score / sum);
    return scores;
}

std::vector<Label> Classifier::operator()(const Image& image, size_t most) {
    const std::vector<float> all = scores(image);
    std::vector<int32_t> order(all.size());
    std::iota(order.begin(), order.end(), 0);
    most = std::min(most, order.size());
    std::partial_sort(order.begin(), order.begin() + std::ptrdiff_t(most), order.end(), [&](int32_t a, int32_t b) {
        return all[size_t(a)] != all[size_t(b)] ? all[size_t(a)] > all[size_t(b)] : a < b;
    });
    std::vector<Label> labels;
    for (size_t i = 0; i < most; ++i) {
        const auto index = size_t(order[i]);
        labels.push_back({order[i], index < classes_.size() ? classes_[index] : std::to_string(index), all[index]});
    }
    return labels;
}

}  // namespace rebnn
