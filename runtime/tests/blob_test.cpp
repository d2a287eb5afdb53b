// blob_test read FILE         the fields of a blob, or the sentence that refuses it, for the test in Python
// blob_test fuzz FILE ROUNDS  changes the blob in many ways and runs whatever is taken; for builds with sanitizers
//                             (with the kernels and -DWITH_LAYERS)
// blob_test json FILE ROUNDS  reads a card, and changed ones; prints a member of the first, or the sentence that refuses it
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../src/blob.hpp"
#include "../src/checksum.hpp"
#include "../src/json.hpp"
#ifdef WITH_LAYERS
#include "../src/layer.hpp"
#endif

namespace {

std::vector<uint8_t> read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

int print(const std::vector<uint8_t>& bytes) {
    rebnn::Blob b;
    if (const char* wrong = rebnn::read_blob(bytes.data(), bytes.size(), &b)) {
        std::printf("refused: %s\n", wrong);
        return 1;
    }
    const rebnn_conv2d_spec& s = b.spec;
    std::printf("%d %d", int(b.kind), b.signs_in + 8 * b.max_pool);
    for (int64_t v : {s.c_in, s.c_out, s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.padding_h, s.padding_w, s.dilation_h,
                      s.dilation_w, s.groups, s.clamp, s.residual_last})
        std::printf(" %" PRId64, v);
    std::printf(" %g %g %d %d %d %d %d\n", s.clamp_low, s.clamp_high, b.x, b.residual, b.floats, b.signs, b.arguments);
    std::printf("%" PRId64 " %08x\n", b.bits_bytes, rebnn::crc32(b.kind == rebnn::Kind::real ? static_cast<const void*>(b.weight) : s.bits, size_t(b.bits_bytes)));
    const float* vectors[] = {s.shift, s.input_scale, s.input_offset, s.alpha,       s.bias,       s.scale,      s.offset,   s.before,
                              s.slope, s.after,       s.last_scale,   s.last_offset, s.sign_shift, s.sign_scale, s.sign_offset};
    for (int i = 0; i < 15; ++i) {
        const int64_t channels = i < 3 ? s.c_in : s.c_out;
        if (vectors[i])
            std::printf("%08x\n", rebnn::crc32(vectors[i], size_t(channels) * 4));
        else
            std::printf("-\n");
    }
    return 0;
}

#ifdef WITH_LAYERS
void sign(std::vector<uint8_t>& bytes) {
    if (bytes.size() < 24) return;
    const uint64_t size = bytes.size();
    std::memcpy(bytes.data() + 16, &size, 8);
    const uint32_t crc = rebnn::crc32(bytes.data() + 16, bytes.size() - 16);
    std::memcpy(bytes.data() + 12, &crc, 4);
}

// Run a layer that was taken on an input of its own, as small as it may be; large layers would take too long.
bool runs(rebnn::Layer& layer) {
    const rebnn::Blob& b = layer.blob();
    const int64_t h = b.kind == rebnn::Kind::linear ? 1 : 5, w = 6;
    int64_t out_h, out_w;
    const rebnn::Sizes sizes{1, h, w};
    if (!layer.output_size(sizes, &out_h, &out_w)) return true;
    if ((layer.c_in() + layer.c_out()) * out_h * out_w > 1 << 22) return true;
    std::vector<float> x(size_t(layer.c_in() * h * w), 0.5f), out(size_t(layer.c_out() * out_h * out_w)), rest(out.size());
    std::vector<uint32_t> signs(size_t((layer.c_out() + 31) / 32 * out_h * out_w));
    const char* wrong = layer.run(x.data(), sizes, true, b.residual < 0 ? nullptr : rest.data(),
                                  b.floats < 0 ? nullptr : out.data(), b.signs < 0 ? nullptr : signs.data(), 1);
    return !wrong;
}

int fuzz(const std::vector<uint8_t>& sound, int rounds) {
    std::mt19937 random(7);
    int refused = 0, ran = 0, failed = 0;
    for (int round = 0; round < rounds; ++round) {
        auto bytes = sound;
        const uint32_t kind = random() % 4;
        if (kind == 0) bytes.resize(random() % (bytes.size() + 1));
        if (kind == 1) bytes.resize(bytes.size() + random() % 64);
        for (uint32_t i = random() % 4; i && !bytes.empty(); --i) {
            // mostly in the header, where a byte decides what is read
            const size_t at = random() % (random() % 4 ? std::min<size_t>(288, bytes.size()) : bytes.size());
            const uint8_t odd[] = {0, 1, 255, 127, 128, uint8_t(random())};
            bytes[at] = odd[random() % 6];
        }
        if (random() % 8) sign(bytes);
        // memory of exactly this size, so that a sanitizer sees the first byte outside
        std::vector<uint8_t> exact(bytes.begin(), bytes.end());
        exact.shrink_to_fit();
        rebnn::Layer layer;
        if (layer.prepare(exact.data(), exact.size()))
            ++refused;
        else if (runs(layer))
            ++ran;
        else
            ++failed;
    }
    std::printf("%d refused, %d run, %d taken but not run\n", refused, ran, failed);
    return 0;
}
#endif

int json(const std::vector<uint8_t>& bytes, int rounds) {
    const auto read = [](const std::string& text) -> std::string {
        try {
            return rebnn::Json::parse(text)["name"].string();
        } catch (const std::runtime_error& error) {
            return error.what();
        }
    };
    const std::string sound(bytes.begin(), bytes.end());
    std::printf("%s\n", read(sound).c_str());
    std::mt19937 random(7);
    for (int round = 0; round < rounds; ++round) {
        std::string text = sound.substr(0, random() % 4 ? sound.size() : random() % (sound.size() + 1));
        for (uint32_t i = random() % 5; i && !text.empty(); --i) text[random() % text.size()] = "[]{}\",:\\ue0-.x\xff"[random() % 16];
        read(text);
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const auto bytes = read_file(argv[2]);
    const int rounds = argc > 3 ? std::atoi(argv[3]) : 0;
    if (!std::strcmp(argv[1], "json")) return json(bytes, rounds);
#ifdef WITH_LAYERS
    if (!std::strcmp(argv[1], "fuzz")) return fuzz(bytes, rounds);
#endif
    return print(bytes);
}
