// rebnn_run MODEL.pte IMAGE [--repeat N] [--threads N] [--top N]   labels of an image, and times
// rebnn_run MODEL.pte IMAGE --detector [...]                       score, name, left, top, right, bottom of boxes
// rebnn_run MODEL.pte --input FILE ... [--output FILE]             raw float32 inputs (images NCHW) to raw results
// rebnn_run MODEL.pte --noise [--repeat N] [--profile]             times only; of each instruction
//   --method NAME   with --input and --noise: another of the program's functions than forward
//   --size H W      with --input and --noise: of images, where the program takes several
//   --profile       with --detector: the time of each part of the last call
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "rebnn/runtime.hpp"

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point since) { return std::chrono::duration<double, std::milli>(Clock::now() - since).count(); }

double cpu_milliseconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto of = [](timeval time) { return double(time.tv_sec) * 1e3 + double(time.tv_usec) / 1e3; };
    return of(usage.ru_utime) + of(usage.ru_stime);
}

// Not getrusage's: that of a process that was forked starts with its parent's.
double peak_megabytes() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;)
        if (word == "VmHWM:") {
            double kilobytes = 0;
            status >> kilobytes;
            return kilobytes / 1024;
        }
    return 0;
}

struct Options {
    std::string model, image, output, method = "forward";
    std::vector<std::string> inputs;
    bool noise = false, detector = false, profile = false;
    int repeat = 0, threads = 1, top = 5, height = 0, width = 0;
};

int number(const char* text, const char* name, int least, int most) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (!*text || *end || value < least || value > most) throw rebnn::Error(std::string(name) + " " + text + ": a whole number, " + std::to_string(least) + " to " + std::to_string(most));
    return int(value);
}

Options parsed(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const auto value = [&]() -> const char* {
            if (i + 1 >= argc) throw rebnn::Error(word + " needs a value");
            return argv[++i];
        };
        if (word == "--repeat") options.repeat = number(value(), "--repeat", 0, 1000000);
        else if (word == "--threads") options.threads = number(value(), "--threads", 1, 256);
        else if (word == "--top") options.top = number(value(), "--top", 1, 100000);
        else if (word == "--input") options.inputs.push_back(value());
        else if (word == "--output") options.output = value();
        else if (word == "--method") options.method = value();
        else if (word == "--size") {
            options.height = number(value(), "--size", 1, 1 << 15);
            options.width = number(value(), "--size", 1, 1 << 15);
        }
        else if (word == "--noise") options.noise = true;
        else if (word == "--profile") options.profile = true;
        else if (word == "--detector") options.detector = true;
        else if (word.rfind("--", 0) == 0) throw rebnn::Error(word + " is no option; see the head of rebnn_run.cpp");
        else if (options.model.empty()) options.model = word;
        else if (options.image.empty()) options.image = word;
        else throw rebnn::Error("one model and one image, what is " + word + "?");
    }
    if (options.profile && !options.image.empty() && !options.detector) throw rebnn::Error("--profile goes with --noise, --input or --detector");
    if (options.model.empty() || options.image.empty() + options.inputs.empty() + !options.noise != 2)
        throw rebnn::Error("usage: rebnn_run MODEL.pte IMAGE [--detector] | --input FILE ... | --noise  [--output FILE] [--method NAME] [--size H W] [--repeat N] [--profile] [--threads N] [--top N]");
    return options;
}

// Time of each of `repeat` calls, printed as smallest and median.
template <class Call>
void print_times(int repeat, Call call) {
    if (!repeat) return;
    std::vector<double> wall, cpu, binary;
    for (int i = 0; i < repeat; ++i) {
        const auto begin = Clock::now();
        const double before = cpu_milliseconds(), layers = rebnn::milliseconds_in_layers();
        call();
        wall.push_back(milliseconds(begin));
        cpu.push_back(cpu_milliseconds() - before);
        binary.push_back(rebnn::milliseconds_in_layers() - layers);
    }
    std::sort(wall.begin(), wall.end());
    std::sort(cpu.begin(), cpu.end());
    std::sort(binary.begin(), binary.end());
    const size_t middle = size_t(repeat) / 2;
    std::printf("%d calls: min %.3f ms, median %.3f ms; CPU time median %.3f ms; in own kernels %.3f ms\n", repeat, wall.front(), wall[middle], cpu[middle], binary[middle]);
}

void classify(const Options& options) {
    const auto begin = Clock::now();
    rebnn::Classifier model(options.model);
    const double loaded = milliseconds(begin);
    const rebnn::Image image = rebnn::read_image(options.image);
    const auto labels = model(image, size_t(options.top));
    const double first = milliseconds(begin);
    for (const auto& label : labels) std::printf("%.4f  %s\n", label.score, label.name.c_str());
    std::printf("loaded in %.1f ms, first result after %.1f ms\n", loaded, first);
    print_times(options.repeat, [&] { model.scores(image); });
}

void detect(const Options& options) {
    const auto begin = Clock::now();
    rebnn::Detector model(options.model);
    const double loaded = milliseconds(begin);
    const rebnn::Image image = rebnn::read_image(options.image);
    const auto boxes = model(image);
    const double first = milliseconds(begin);
    for (size_t i = 0; i < boxes.size() && i < size_t(options.top); ++i) {
        const rebnn::Box& box = boxes[i];
        std::printf("%.4f  %s  %.1f %.1f %.1f %.1f\n", box.score, box.name.c_str(), box.left, box.top, box.right, box.bottom);
    }
    std::printf("%zu boxes; loaded in %.1f ms, first result after %.1f ms\n", boxes.size(), loaded, first);
    print_times(options.repeat, [&] { model(image); });
    if (options.profile)
        for (const rebnn::Part& part : model.parts()) std::printf("part %s: %.3f ms\n", part.name, part.milliseconds);
}

// In the order in which the program computes; the export says what each one is.
void print_steps(const std::vector<rebnn::Step>& steps) {
    double own = 0, rest = 0;
    for (size_t i = 0; i < steps.size(); ++i) {
        std::printf("step %zu: %.4f ms, %s\n", i, steps[i].milliseconds, steps[i].own ? "own" : "other");
        (steps[i].own ? own : rest) += steps[i].milliseconds;
    }
    std::printf("own kernels %.3f ms, others %.3f ms\n", own, rest);
}

std::vector<float> read_floats(const std::string& path, size_t count) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    if (!file && bytes.empty()) throw rebnn::Error(path + " cannot be read");
    if (bytes.size() != count * sizeof(float)) throw rebnn::Error(path + " holds " + std::to_string(bytes.size()) + " bytes, the network's input has " + std::to_string(count * sizeof(float)));
    std::vector<float> values(count);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

void compute(const Options& options) {
    const auto begin = Clock::now();
    rebnn::Network model(options.model, options.method);
    const double loaded = milliseconds(begin);
    if (!options.noise && options.inputs.size() != model.inputs().size()) throw rebnn::Error("the network takes " + std::to_string(model.inputs().size()) + " inputs: --input for each");
    std::vector<rebnn::Tensor> inputs;
    for (size_t i = 0; i < model.inputs().size(); ++i) {
        const rebnn::Input& input = model.inputs()[i];
        std::vector<int32_t> shape = input.shape;
        if (input.is_image && options.height) {
            shape[2] = options.height;
            shape[3] = options.width;
        }
        size_t count = 1;
        for (const int32_t size : shape) count *= size_t(size);
        std::vector<float> values(count);
        uint32_t state = 1;
        for (float& value : values) {
            state = state * 1664525u + 1013904223u;
            value = input.is_integer ? float(state >> 31) : float(int32_t(state)) / float(1u << 31);
        }
        if (!options.noise) values = read_floats(options.inputs[i], count);
        inputs.push_back({shape, std::move(values)});
    }
    // noise is noise in any order: times are then those of the network alone
    const auto layout = options.noise ? rebnn::Layout::nhwc : rebnn::Layout::nchw;
    const auto results = model(inputs, layout);
    std::printf("loaded in %.1f ms, first result after %.1f ms\n", loaded, milliseconds(begin));
    if (!options.output.empty()) {
        std::ofstream file(options.output, std::ios::binary);
        for (const auto& result : results) file.write(reinterpret_cast<const char*>(result.values.data()), std::streamsize(result.values.size() * sizeof(float)));
        if (!file.flush()) throw rebnn::Error(options.output + " cannot be written");
    }
    print_times(options.repeat, [&] { model(inputs, layout); });
    if (options.profile) print_steps(model.profile(inputs, std::max(options.repeat, 1), layout));
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const Options options = parsed(argc, argv);
        rebnn::set_threads(options.threads);
        if (options.image.empty()) compute(options);
        else if (options.detector) detect(options);
        else classify(options);
        std::printf("peak memory %.1f MB\n", peak_megabytes());
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "rebnn_run: %s\n", error.what());
        return 1;
    }
}
