#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace rebnn {

// CRC-32 as zlib computes it, four bytes at a time: a gigabyte a second, without a library.
class Crc32 {
public:
    void add(const void* data, size_t size) {
        const auto* bytes = static_cast<const uint8_t*>(data);
        uint32_t crc = crc_;
        for (; size >= 4; size -= 4, bytes += 4) {
            crc ^= uint32_t(bytes[0]) | uint32_t(bytes[1]) << 8 | uint32_t(bytes[2]) << 16 | uint32_t(bytes[3]) << 24;
            crc = table()[3][crc & 255] ^ table()[2][crc >> 8 & 255] ^ table()[1][crc >> 16 & 255] ^ table()[0][crc >> 24];
        }
        for (; size; --size, ++bytes) crc = table()[0][(crc ^ *bytes) & 255] ^ crc >> 8;
        crc_ = crc;
    }

    uint32_t value() const { return ~crc_; }

private:
    using Tables = std::array<std::array<uint32_t, 256>, 4>;

    static const Tables& table() {
        static const Tables tables = [] {
            Tables made{};
            for (uint32_t byte = 0; byte < 256; ++byte) {
                uint32_t crc = byte;
                for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
                made[0][byte] = crc;
            }
            for (uint32_t byte = 0; byte < 256; ++byte)
                for (size_t i = 1; i < 4; ++i) made[i][byte] = made[i - 1][byte] >> 8 ^ made[0][made[i - 1][byte] & 255];
            return made;
        }();
        return tables;
    }

    uint32_t crc_ = ~uint32_t(0);
};

inline uint32_t crc32(const void* data, size_t size) {
    Crc32 crc;
    crc.add(data, size);
    return crc.value();
}

}  // namespace rebnn
