// rebnn: 1-bit networks from a file that rebnn_mm exported (.pte), without Python and torch.
//
//   rebnn::Classifier model("model.pte");
//   for (const rebnn::Label& label : model(rebnn::read_image("image.jpg")))
//       std::printf("%s %.3f\n", label.name.c_str(), label.score);
//
// Everything that can be wrong with a file, an image or an input is a rebnn::Error, whose what() is a sentence. A model
// is for one thread at a time; several models run at once, each in its own thread.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace rebnn {

class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// 8 bits a channel, channels interleaved, RGB where there are three, rows without gaps.
struct Image {
    int32_t width = 0, height = 0, channels = 3;
    std::vector<uint8_t> pixels;
};

// PPM and PGM (binary) always, JPEG and PNG where the library was built with libjpeg and libpng.
Image read_image(const std::string& path);

// Threads of every model in this process; 1 unless this is called.
void set_threads(int32_t threads);

// CPU time that layers in our kernels took in this thread so far; the rest of a network's is XNNPACK's.
double milliseconds_in_layers();

struct Tensor {
    std::vector<int32_t> shape;  // of images (N, C, H, W), whatever their memory order
    std::vector<float> values;   // in the order that `layout` of the input says; results are in that of their shape
};

enum class Layout { nchw, nhwc };

// What a file's program takes and how much memory it plans.
struct Input {
    std::vector<int32_t> shape;  // the largest, for which memory is planned
    std::vector<int32_t> least;  // the smallest; the same where a program takes one size
    int32_t multiple = 1;        // height and width are multiples of it
    bool is_image = false;       // 4-d float, lies in memory as NHWC
    bool is_integer = false;     // int64, given as floats that are whole numbers

    bool takes(const std::vector<int32_t>& given) const;
};

// One instruction of a program: an operator, or what was handed to an engine as a whole.
struct Step {
    double milliseconds;  // CPU time of the calling thread
    bool own;  // computed by this library's kernels, not by XNNPACK's or ExecuTorch's
};

class Program;
class Decoder;
class Regions;
struct Map;

// Any network: tensors in, tensors out.
class Network {
public:
    // A program's functions beside `forward` have names: 'rois' of a two-stage detector.
    explicit Network(const std::string& path, const std::string& method = "forward");
    ~Network();
    Network(Network&&) noexcept;
    Network& operator=(Network&&) noexcept;

    const std::vector<Input>& inputs() const;
    const std::string& card() const;  // the JSON text that the exporter wrote

    // Each tensor has a shape that its input takes. Images are converted where their layout is not NHWC.
    std::vector<Tensor> operator()(const std::vector<Tensor>& inputs, Layout layout = Layout::nchw);

    // The median time of each instruction, in their order, over `repeat` calls.
    std::vector<Step> profile(const std::vector<Tensor>& inputs, int repeat, Layout layout = Layout::nchw);

private:
    friend class Classifier;
    friend class Detector;
    friend std::string kind_of(const Network& network);
    std::unique_ptr<Program> program_;
};

struct Label {
    int32_t index;
    std::string name;
    float score;  // scores of all classes add up to 1
};

// Images in, labels out; resizing, channel order and normalization are those of the file's card.
class Classifier {
public:
    explicit Classifier(const std::string& path);

    // The best `most` labels, best first.
    std::vector<Label> operator()(const Image& image, size_t most = 5);

    // Scores of all classes.
    std::vector<float> scores(const Image& image);
    const std::vector<std::string>& classes() const { return classes_; }  // empty where the file names none
    int32_t outputs() const { return outputs_; }                          // number of classes

private:
    Network network_;
    int32_t outputs_ = 0;
    std::vector<std::string> classes_;
};

struct Box {
    float left, top, right, bottom;  // pixels of the image that was given
    float score;
    int32_t label;
    std::string name;
};

// CPU time of one part of a call.
struct Part {
    const char* name;
    double milliseconds;
};

// Images in, boxes out, best first: a one-stage detector with deltas of anchors (RetinaNet, ATSS) or distances from points
// (FCOS, RTMDet), or a two-stage one like Faster R-CNN.
class Detector {
public:
    explicit Detector(const std::string& path);
    ~Detector();
    Detector(Detector&&) noexcept;
    Detector& operator=(Detector&&) noexcept;

    std::vector<Box> operator()(const Image& image);
    const std::vector<std::string>& classes() const { return classes_; }
    const std::vector<Part>& parts() const { return parts_; }  // of the last call

private:
    std::vector<Map> maps_of(const float* image, const std::vector<int32_t>& shape);
    std::vector<Box> from_regions(const std::vector<Map>& maps, float width, float height);
    void measured(const char* name);

    Network network_;
    std::vector<std::string> classes_;
    std::unique_ptr<Decoder> decoder_;
    std::unique_ptr<Regions> regions_;  // of a two-stage detector
    size_t rois_ = 0;                   // its second method
    std::vector<Part> parts_;
    double since_ = 0;
};

// 'classifier', 'detector' or 'network': what a file holds.
std::string kind_of(const Network& network);

}  // namespace rebnn
