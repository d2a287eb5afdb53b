// From an image's pixels to a network's input, by what the file's card says.
#pragma once

#include <vector>

#include "json.hpp"
#include "rebnn/runtime.hpp"

namespace rebnn {

// One image as the network takes it, and how its pixels lie in it: x_there = x_here * scale_x - left.
struct Prepared {
    std::vector<float> values;  // NHWC, a batch of one
    int32_t height = 0, width = 0;
    float scale_x = 1, scale_y = 1;
    int32_t left = 0, top = 0;
};

// Throws std::runtime_error with a sentence unless a card's preprocessing is one for `channels` channels.
void check_preprocessing(const Json& preprocessing, int32_t channels);

// Resize, cut or fill up to a size that `input` takes, order channels, normalize; `preprocessing` was checked. Where it
// takes several sizes, this is the smallest that the resized image fits into. Throws Error for an image of other channels.
Prepared prepared(const Image& image, const Json& preprocessing, const Input& input);

// Bilinear, without smoothing, as OpenCV's INTER_LINEAR up to rounding.
Image resized(const Image& image, int32_t height, int32_t width);

}  // namespace rebnn
