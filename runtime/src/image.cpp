#include "image.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace rebnn {
namespace {

constexpr int32_t kLargest = 1 << 15;

void check_image(const Image& image) {
    const bool sound = image.width >= 1 && image.height >= 1 && image.width <= kLargest && image.height <= kLargest && image.channels >= 1;
    if (!sound || image.pixels.size() != size_t(image.width) * size_t(image.height) * size_t(image.channels))
        throw Error("the image's pixels do not fit its width, height and channels");
}

// Where an output pixel lies between two input pixels, and how near to the second.
struct Between {
    int32_t first, second;
    float part;
};

std::vector<Between> between(int32_t from, int32_t to) {
    std::vector<Between> places;
    const double step = double(from) / to;
    for (int32_t i = 0; i < to; ++i) {
        const double at = std::max((i + 0.5) * step - 0.5, 0.0);
        const auto first = std::min(int32_t(at), from - 1);
        places.push_back({first, std::min(first + 1, from - 1), float(std::min(at - first, 1.0))});
    }
    return places;
}

int32_t scaled(int32_t size, double scale) { return std::max(int32_t(size * scale + 0.5), 1); }

// Size after the card's resize, as mmcv computes it.
void target_size(const Image& image, const Json& resize, int32_t* height, int32_t* width) {
    const auto wanted_h = int32_t(resize["height"].integer(1, kLargest)), wanted_w = int32_t(resize["width"].integer(1, kLargest));
    const std::string& mode = resize["mode"].string();
    *height = wanted_h;
    *width = wanted_w;
    if (mode == "exact") return;
    if (mode == "short") {
        const bool wide = image.width > image.height;
        if (wide) *width = int32_t(int64_t(wanted_h) * image.width / image.height);
        else *height = int32_t(int64_t(wanted_h) * image.height / image.width);
        return;
    }
    if (mode == "fit") {
        const double scale = std::min(double(wanted_h) / image.height, double(wanted_w) / image.width);
        *height = std::min(scaled(image.height, scale), wanted_h);
        *width = std::min(scaled(image.width, scale), wanted_w);
        return;
    }
    if (mode != "inside") throw std::runtime_error("the program's card is malformed: an unknown resize");
    const double long_side = std::max(wanted_h, wanted_w), short_side = std::min(wanted_h, wanted_w);
    const double scale = std::min(long_side / std::max(image.height, image.width), short_side / std::min(image.height, image.width));
    *height = scaled(image.height, scale);
    *width = scaled(image.width, scale);
}

}  // namespace

void check_preprocessing(const Json& preprocessing, int32_t channels) {
    if (preprocessing.is_null()) return;
    const auto mean = preprocessing["mean"].floats(), std = preprocessing["std"].floats();
    const std::string& order = preprocessing["channel_order"].string();
    const bool fits = mean.size() == std.size() && (mean.empty() || mean.size() == size_t(channels));
    if (!fits || (order != "rgb" && (order != "bgr" || channels != 3)) || std::count(std.begin(), std.end(), 0.0f))
        throw std::runtime_error("the program's card is malformed: mean, std and channel order are not the network's");
    if (!preprocessing["crop"].is_null()) preprocessing["crop"].boolean();
    Image dot{1, 1, channels, {}};
    int32_t height, width;
    if (!preprocessing["resize"].is_null()) target_size(dot, preprocessing["resize"], &height, &width);
}

Image resized(const Image& image, int32_t height, int32_t width) {
    check_image(image);
    if (image.height == height && image.width == width) return image;
    if (height < 1 || width < 1 || height > kLargest || width > kLargest) throw Error("an image cannot be resized to " + std::to_string(width) + "x" + std::to_string(height));
    const size_t c = size_t(image.channels), row = size_t(image.width) * c;
    const auto columns = between(image.width, width), rows = between(image.height, height);
    Image out{width, height, image.channels, std::vector<uint8_t>(size_t(width) * size_t(height) * c)};
    uint8_t* to = out.pixels.data();
    for (const Between& y : rows) {
        const uint8_t* above = image.pixels.data() + size_t(y.first) * row;
        const uint8_t* below = image.pixels.data() + size_t(y.second) * row;
        for (const Between& x : columns)
            for (size_t channel = 0; channel < c; ++channel) {
                const size_t left = size_t(x.first) * c + channel, right = size_t(x.second) * c + channel;
                const float upper = above[left] + (above[right] - above[left]) * x.part;
                const float lower = below[left] + (below[right] - below[left]) * x.part;
                *to++ = uint8_t(upper + (lower - upper) * y.part + 0.5f);
            }
    }
    return out;
}

Prepared prepared(const Image& image, const Json& preprocessing, const Input& input) {
    const int32_t channels = input.shape[1];
    int32_t height = input.shape[2], width = input.shape[3];
    check_image(image);
    if (image.channels != channels)
        throw Error("the image has " + std::to_string(image.channels) + " channels, the network takes " + std::to_string(channels));
    // a card without a pipeline: to the program's size
    int32_t new_h = input.least[2] == height ? height : image.height, new_w = input.least[3] == width ? width : image.width;
    const bool known = !preprocessing.is_null();
    if (known && !preprocessing["resize"].is_null()) target_size(image, preprocessing["resize"], &new_h, &new_w);
    const Image scaled = resized(image, new_h, new_w);
    const bool crop = known && !preprocessing["crop"].is_null() && preprocessing["crop"].boolean();
    if (!crop && (new_h > height || new_w > width))
        throw Error("the image becomes " + std::to_string(new_w) + "x" + std::to_string(new_h) + ", more than the " + std::to_string(width) + "x" +
                    std::to_string(height) + " that the program was exported for: export it for larger images");
    const auto smallest = [&](int32_t size, size_t d) {
        if (input.least[d] == input.shape[d]) return input.shape[d];
        return std::min(std::max((size + input.multiple - 1) / input.multiple * input.multiple, input.least[d]), input.shape[d]);
    };
    height = smallest(new_h, 2);
    width = smallest(new_w, 3);
    Prepared out;
    out.height = height;
    out.width = width;
    out.scale_x = float(new_w) / float(image.width);
    out.scale_y = float(new_h) / float(image.height);
    // the middle is cut out; what is smaller stands at the left and at the top
    out.left = new_w > width ? int32_t(std::lround((new_w - width) / 2.0)) : 0;
    out.top = new_h > height ? int32_t(std::lround((new_h - height) / 2.0)) : 0;
    const auto mean = known ? preprocessing["mean"].floats() : std::vector<float>(), std = known ? preprocessing["std"].floats() : std::vector<float>();
    const bool flips = known && preprocessing["channel_order"].string() == "bgr";
    const size_t c = size_t(channels);
    out.values.assign(size_t(height) * size_t(width) * c, 0.0f);  // 0 is the mean
    const int32_t rows = std::min(height, new_h), columns = std::min(width, new_w);
    for (int32_t y = 0; y < rows; ++y)
        for (int32_t x = 0; x < columns; ++x) {
            const uint8_t* from = scaled.pixels.data() + (size_t(y + out.top) * size_t(new_w) + size_t(x + out.left)) * c;
            float* to = out.values.data() + (size_t(y) * size_t(width) + size_t(x)) * c;
            for (size_t k = 0; k < c; ++k) {
                const float value = from[flips ? c - 1 - k : k];
                to[k] = mean.empty() ? value : (value - mean[k]) / std[k];
            }
        }
    return out;
}

}  // namespace rebnn
