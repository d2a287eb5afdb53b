#include <algorithm>
#include <new>

#include "rebnn/rebnn.h"
#include "rebnn/runtime.hpp"
#include "threads.hpp"

struct rebnn_classifier {
    rebnn::Classifier model;
    int32_t classes;
};

struct rebnn_detector {
    rebnn::Detector model;
};

namespace {

thread_local std::string sentence;

// The result of `body`, or `failed` where it throws: no exception crosses a C interface.
template <class Result, class Body>
Result guarded(Result failed, Body body) {
    sentence.clear();
    try {
        return body();
    } catch (const std::bad_alloc&) {
        sentence = "out of memory";
    } catch (const std::exception& error) {
        sentence = error.what();
    }
    return failed;
}

int32_t run(rebnn_classifier* model, const rebnn::Image& image, float* scores, int32_t classes) {
    const auto found = model->model.scores(image);
    if (classes < 0 || size_t(classes) != found.size()) throw rebnn::Error("the network has " + std::to_string(found.size()) + " classes, not " + std::to_string(classes));
    std::copy(found.begin(), found.end(), scores);
    return int32_t(std::max_element(found.begin(), found.end()) - found.begin());
}

int32_t detect(rebnn_detector* model, const rebnn::Image& image, rebnn_box* boxes, int32_t most) {
    const auto found = model->model(image);
    for (size_t i = 0; i < found.size() && i < size_t(most); ++i) {
        const rebnn::Box& box = found[i];
        boxes[i] = {box.left, box.top, box.right, box.bottom, box.score, box.label};
    }
    return int32_t(found.size());
}

rebnn::Image image_of(const uint8_t* pixels, int32_t width, int32_t height, int32_t channels) {
    if (!pixels || width < 1 || height < 1 || channels < 1) throw rebnn::Error("a pointer is null, or a size below 1");
    return {width, height, channels, {pixels, pixels + size_t(width) * size_t(height) * size_t(channels)}};
}

}  // namespace

extern "C" {

const char* rebnn_error(void) { return sentence.c_str(); }

void rebnn_threads(int32_t threads) { rebnn::set_threads(threads); }

rebnn_classifier* rebnn_classifier_open(const char* path) {
    return guarded<rebnn_classifier*>(nullptr, [&] {
        rebnn::Classifier model(path ? path : "");
        const int32_t classes = model.outputs();
        return new rebnn_classifier{std::move(model), classes};
    });
}

void rebnn_classifier_close(rebnn_classifier* model) { delete model; }

int32_t rebnn_classifier_classes(const rebnn_classifier* model) { return model ? model->classes : 0; }

const char* rebnn_classifier_class(const rebnn_classifier* model, int32_t index) {
    const bool named = model && index >= 0 && size_t(index) < model->model.classes().size();
    return named ? model->model.classes()[size_t(index)].c_str() : nullptr;
}

int32_t rebnn_classifier_run(rebnn_classifier* model, const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                             float* scores, int32_t classes) {
    return guarded<int32_t>(-1, [&] {
        if (!model || !scores) throw rebnn::Error("a pointer is null");
        return run(model, image_of(pixels, width, height, channels), scores, classes);
    });
}

int32_t rebnn_classifier_run_file(rebnn_classifier* model, const char* image, float* scores, int32_t classes) {
    return guarded<int32_t>(-1, [&] {
        if (!model || !image || !scores) throw rebnn::Error("a pointer is null");
        return run(model, rebnn::read_image(image), scores, classes);
    });
}

rebnn_detector* rebnn_detector_open(const char* path) {
    return guarded<rebnn_detector*>(nullptr, [&] { return new rebnn_detector{rebnn::Detector(path ? path : "")}; });
}

void rebnn_detector_close(rebnn_detector* model) { delete model; }

int32_t rebnn_detector_classes(const rebnn_detector* model) { return model ? int32_t(model->model.classes().size()) : 0; }

const char* rebnn_detector_class(const rebnn_detector* model, int32_t index) {
    const bool named = model && index >= 0 && size_t(index) < model->model.classes().size();
    return named ? model->model.classes()[size_t(index)].c_str() : nullptr;
}

int32_t rebnn_detector_run(rebnn_detector* model, const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                           rebnn_box* boxes, int32_t most) {
    return guarded<int32_t>(-1, [&] {
        if (!model || !boxes || most < 0) throw rebnn::Error("a pointer is null, or the number of boxes below 0");
        return detect(model, image_of(pixels, width, height, channels), boxes, most);
    });
}

int32_t rebnn_detector_run_file(rebnn_detector* model, const char* image, rebnn_box* boxes, int32_t most) {
    return guarded<int32_t>(-1, [&] {
        if (!model || !image || !boxes || most < 0) throw rebnn::Error("a pointer is null, or the number of boxes below 0");
        return detect(model, rebnn::read_image(image), boxes, most);
    });
}

}  // extern "C"
