#include <algorithm>
#include <cmath>
#include <numeric>

#include "image.hpp"
#include "program.hpp"
#include "rebnn/runtime.hpp"
#include "threads.hpp"

namespace rebnn {

std::vector<std::string> classes_of(const Program& program, const std::string& path, const char* kind) {
    try {
        const Json& card = program.card();
        if (card["kind"].string() != kind) throw Error(path + " is a " + card["kind"].string() + ", no " + kind + " of images");
        if (program.inputs().size() != 1 || !program.inputs()[0].is_image || program.inputs()[0].shape[0] != 1) throw Error(path + " does not take one image");
        check_preprocessing(card["preprocessing"], program.inputs()[0].shape[1]);
        std::vector<std::string> classes;
        if (!card["classes"].is_null())
            for (const Json& name : card["classes"].array()) classes.push_back(name.string());
        return classes;
    } catch (const Error&) {
        throw;
    } catch (const std::runtime_error& error) {
        throw Error(path + ": " + error.what());
    }
}

std::string name_of(const std::vector<std::string>& classes, int32_t index) {
    return size_t(index) < classes.size() ? classes[size_t(index)] : std::to_string(index);
}

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

// "(1, 3, 64, 64)", or where several are taken "(1, 3, 32 to 64, 32 to 64), multiples of 32".
std::string sizes_of(const Input& input) {
    if (input.least == input.shape) return as_text(input.shape) + " only: for another size export another program";
    std::string text = "(";
    for (size_t d = 0; d < input.shape.size(); ++d) {
        if (input.least[d] != input.shape[d]) text += (d ? ", " : "") + std::to_string(input.least[d]) + " to " + std::to_string(input.shape[d]);
        else text += (d ? ", " : "") + std::to_string(input.shape[d]);
    }
    return text + "), height and width multiples of " + std::to_string(input.multiple);
}

}  // namespace

bool Input::takes(const std::vector<int32_t>& given) const {
    if (given.size() != shape.size()) return false;
    for (size_t d = 0; d < shape.size(); ++d)
        if (given[d] < least[d] || given[d] > shape[d] || (least[d] != shape[d] && given[d] % multiple)) return false;
    return true;
}

Network::Network(const std::string& path, const std::string& method) : program_(std::make_unique<Program>(path, method)) {}
Network::~Network() = default;
Network::Network(Network&&) noexcept = default;
Network& Network::operator=(Network&&) noexcept = default;

const std::vector<Input>& Network::inputs() const { return program_->inputs(); }
const std::string& Network::card() const { return program_->card_text(); }

namespace {

// The values of inputs whose sizes were checked, in the order that a program takes; `converted` keeps some.
std::vector<Given> values_of(const std::vector<Input>& wanted, const std::vector<Tensor>& inputs, Layout layout,
                                    std::vector<std::vector<float>>* converted) {
    if (inputs.size() != wanted.size()) throw Error("the network takes " + std::to_string(wanted.size()) + " inputs, not " + std::to_string(inputs.size()));
    converted->resize(inputs.size());
    std::vector<Given> data;
    for (size_t i = 0; i < inputs.size(); ++i) {
        if (!wanted[i].takes(inputs[i].shape)) throw Error("input " + std::to_string(i) + " has the shape " + as_text(inputs[i].shape) + "; the network takes " + sizes_of(wanted[i]));
        if (inputs[i].values.size() != elements_of(inputs[i].shape)) throw Error("input " + std::to_string(i) + " holds " + std::to_string(inputs[i].values.size()) + " values, its shape says " + std::to_string(elements_of(inputs[i].shape)));
        std::vector<float>& own = (*converted)[i];
        if (wanted[i].is_image && layout == Layout::nchw) own = to_nhwc(inputs[i]);
        data.push_back({own.empty() ? inputs[i].values.data() : own.data(), inputs[i].shape});
    }
    return data;
}

}  // namespace

std::vector<Tensor> Network::operator()(const std::vector<Tensor>& inputs, Layout layout) {
    std::vector<std::vector<float>> converted;
    std::vector<Tensor> results;
    for (const auto& tensor : program_->run(values_of(program_->inputs(), inputs, layout, &converted))) results.push_back(copied(tensor));
    return results;
}

std::vector<Step> Network::profile(const std::vector<Tensor>& inputs, int repeat, Layout layout) {
    std::vector<std::vector<float>> converted;
    return program_->profile(values_of(program_->inputs(), inputs, layout, &converted), repeat);
}

Classifier::Classifier(const std::string& path) : network_(path) {
    classes_ = classes_of(*network_.program_, path, "classifier");
    outputs_ = network_.program_->outputs();
}

std::vector<float> Classifier::scores(const Image& image) {
    const auto& shape = network_.inputs()[0].shape;
    const std::vector<float> x = prepared(image, network_.program_->card()["preprocessing"], network_.inputs()[0]).values;
    const auto results = network_.program_->run({{x.data(), shape}});
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
    for (size_t i = 0; i < most; ++i) labels.push_back({order[i], name_of(classes_, order[i]), all[size_t(order[i])]});
    return labels;
}

std::string kind_of(const Network& network) {
    try {
        return network.program_->card()["kind"].string();
    } catch (const std::runtime_error& error) {
        throw Error(error.what());
    }
}

}  // namespace rebnn
