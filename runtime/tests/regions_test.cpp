// regions_test CARD IN OUT   the second stage of a two-stage detector without ExecuTorch, for the test in Python
//
// IN, int32: channels, levels, height and width of each; proposals; 1 where values come and go channels last. Then float32:
// width and height of the image, the maps, the proposals (left, top, right, bottom), their scores and their deltas.
// OUT, float32: what was read for each proposal, then left, top, right, bottom, score and label of each box.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "../src/regions.hpp"

namespace {

std::string text_of(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

struct Reader {
    std::string bytes;
    size_t at = 0;

    template <class T>
    std::vector<T> take(size_t count) {
        if (count > (bytes.size() - at) / sizeof(T)) throw std::runtime_error("too few bytes");
        std::vector<T> values(count);
        if (count) std::memcpy(values.data(), bytes.data() + at, count * sizeof(T));
        at += count * sizeof(T);
        return values;
    }
};

void write(std::ofstream& file, const std::vector<float>& values) {
    file.write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size() * sizeof(float)));
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 4) return 2;
    const rebnn::Regions regions(rebnn::Json::parse(text_of(argv[1])));
    Reader in{text_of(argv[2])};
    const auto head = in.take<int32_t>(2);
    const auto sizes = in.take<int32_t>(2 * size_t(head[1])), rest = in.take<int32_t>(2);
    const bool last = rest[1];
    const auto image = in.take<float>(2);
    std::vector<std::vector<float>> values;
    std::vector<rebnn::Map> levels;
    for (size_t i = 0; i < size_t(head[1]); ++i) {
        const int64_t c = head[0], h = sizes[2 * i], w = sizes[2 * i + 1];
        values.push_back(in.take<float>(size_t(c * h * w)));
        levels.push_back({values.back().data(), c, h, w, last ? 1 : h * w, last ? c : 1});
    }
    const auto count = size_t(rest[0]), columns = size_t(regions.score_columns()), deltas = size_t(regions.delta_columns());
    const auto corners = in.take<float>(4 * count), scores = in.take<float>(columns * count), moves = in.take<float>(deltas * count);
    std::ofstream out(argv[3], std::ios::binary);
    std::vector<rebnn::Box> boxes;
    for (size_t i = 0; i < count; ++i) {
        const float* at = &corners[4 * i];
        const rebnn::Box proposal{at[0], at[1], at[2], at[3], 0, 0, {}};
        std::vector<float> pooled(size_t(regions.values(head[0])));
        regions.pool(levels, proposal, last, pooled.data());
        write(out, pooled);
        regions.add(proposal, &scores[columns * i], &moves[deltas * i], image[0], image[1], &boxes);
    }
    for (const rebnn::Box& box : regions.chosen(std::move(boxes))) write(out, {box.left, box.top, box.right, box.bottom, box.score, float(box.label)});
    return 0;
} catch (const std::exception& error) {
    std::printf("refused: %s\n", error.what());
    return 1;
}
