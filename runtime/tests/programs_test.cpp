// programs_test MODEL IMAGE [MODEL IMAGE ...]    results of each model alone, in turn with the others, opened and closed in
//                                                turn, and in two threads at once; they must be the same
// programs_test fuzz MODEL IMAGE ROUNDS FILE     changes a layer of the program in many ways, seals layer and program anew,
//                                                writes it to FILE, opens and runs it; for builds with sanitizers
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../src/checksum.hpp"
#include "rebnn/runtime.hpp"

namespace {

struct Pair {
    std::string model, image;
};

// A model and what it finds in an image, as text.
class Opened {
public:
    explicit Opened(const Pair& pair) : image_(rebnn::read_image(pair.image)) {
        if (rebnn::kind_of(rebnn::Network(pair.model)) == "detector")
            detector_ = std::make_unique<rebnn::Detector>(pair.model);
        else
            classifier_ = std::make_unique<rebnn::Classifier>(pair.model);
    }

    std::string operator()() {
        std::string text;
        char line[160];
        const auto add = [&](float a, float b, float c, float d, float score, int label) {
            std::snprintf(line, sizeof(line), "%.9g %.9g %.9g %.9g %.9g %d\n", a, b, c, d, score, label);
            text += line;
        };
        if (detector_)
            for (const rebnn::Box& box : (*detector_)(image_)) add(box.left, box.top, box.right, box.bottom, box.score, box.label);
        else
            for (const rebnn::Label& label : (*classifier_)(image_)) add(0, 0, 0, 0, label.score, label.index);
        return text;
    }

private:
    rebnn::Image image_;
    std::unique_ptr<rebnn::Classifier> classifier_;
    std::unique_ptr<rebnn::Detector> detector_;
};

void expect(const std::string& found, const std::string& wanted, const Pair& pair, const char* where) {
    if (found != wanted) throw std::runtime_error(pair.model + " gives other results " + where);
}

void together(const std::vector<Pair>& pairs) {
    std::vector<std::string> wanted;
    for (const Pair& pair : pairs) wanted.push_back(Opened(pair)());
    std::vector<std::unique_ptr<Opened>> open;
    for (const Pair& pair : pairs) open.push_back(std::make_unique<Opened>(pair));
    for (int round = 0; round < 2; ++round)
        for (size_t i = 0; i < pairs.size(); ++i) expect((*open[i])(), wanted[i], pairs[i], "in turn with others");
    // memory of one that is closed becomes that of the next
    const auto work = [&](size_t first) -> std::string {
        try {
            for (size_t k = 0; k < 2 * pairs.size(); ++k) {
                const size_t i = (first + k) % pairs.size();
                expect(Opened(pairs[i])(), wanted[i], pairs[i], first ? "beside another thread" : "opened anew");
            }
            return "";
        } catch (const std::exception& error) {
            return error.what();
        }
    };
    if (const std::string wrong = work(0); !wrong.empty()) throw std::runtime_error(wrong);
    std::string results[2];
    std::thread threads[2];
    for (size_t i = 0; i < 2; ++i) threads[i] = std::thread([&, i] { results[i] = work(i + 1); });
    for (std::thread& thread : threads) thread.join();
    for (const std::string& wrong : results)
        if (!wrong.empty()) throw std::runtime_error(wrong);
    size_t lines = 0;
    for (const std::string& text : wanted) lines += size_t(std::count(text.begin(), text.end(), '\n'));
    std::printf("%zu programs, %zu results, the same each time\n", pairs.size(), lines);
}

void put(std::string* bytes, size_t at, uint64_t value, size_t size) { std::memcpy(&(*bytes)[at], &value, size); }

// Checksums of a layer that begins at `at`, then of the program; false where its size leads outside.
bool sign(std::string* bytes, size_t at, size_t size) {
    if (size < 24 || size > bytes->size() - at) return false;
    const auto* data = reinterpret_cast<const uint8_t*>(bytes->data());
    put(bytes, at + 12, rebnn::crc32(data + at + 16, size - 16), 4);
    put(bytes, bytes->size() - 20, rebnn::crc32(data, bytes->size() - 32), 4);
    return true;
}

void fuzz(const Pair& pair, int rounds, const std::string& path) {
    std::ifstream file(pair.model, std::ios::binary);
    const std::string sound{std::istreambuf_iterator<char>(file), {}};
    std::vector<size_t> layers;
    for (size_t at = sound.find("REBNNDEL"); at != std::string::npos; at = sound.find("REBNNDEL", at + 1)) layers.push_back(at);
    if (layers.empty()) throw std::runtime_error("the program has no layer of ours");
    std::mt19937 random(7);
    int refused = 0, ran = 0;
    for (int round = 0; round < rounds; ++round) {
        std::string bytes = sound;
        const size_t at = layers[random() % layers.size()];
        uint64_t size;
        std::memcpy(&size, sound.data() + at + 16, 8);
        for (uint32_t i = 1 + random() % 2; i; --i) {
            // mostly in the header, a byte, or a whole number by a little
            const size_t place = at + 24 + random() % (random() % 4 ? 264 : size_t(size) - 24);
            const uint8_t odd[] = {0, 1, 255, 2, uint8_t(bytes[place] + 1), uint8_t(bytes[place] - 1)};
            bytes[place] = char(odd[random() % 6]);
        }
        if (!sign(&bytes, at, size_t(size))) continue;
        std::ofstream(path, std::ios::binary) << bytes;
        try {
            Opened({path, pair.image})();
            ++ran;
        } catch (const rebnn::Error&) {
            ++refused;
        }
    }
    std::printf("%d refused, %d run\n", refused, ran);
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc == 6 && !std::strcmp(argv[1], "fuzz")) {
        fuzz({argv[2], argv[3]}, std::atoi(argv[4]), argv[5]);
        return 0;
    }
    std::vector<Pair> pairs;
    for (int i = 1; i + 1 < argc; i += 2) pairs.push_back({argv[i], argv[i + 1]});
    if (pairs.empty()) return 2;
    together(pairs);
    return 0;
} catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
}
