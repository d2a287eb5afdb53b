#include "blob.hpp"

#include <cstring>

#include "checksum.hpp"

namespace rebnn {
namespace {

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "blobs are little-endian, and so must be the processor"
#endif

constexpr size_t kHeader = 288, kAlignment = 16, kVectors = 15;
constexpr int64_t kLargest = int64_t(1) << 20;   // of any size, as for the kernels
constexpr int64_t kTimes = 64;                   // of nearest upsampling, so that a result's size fits into 64 bits
constexpr int64_t kProducts = int64_t(1) << 24;  // in a sum: float32 counts exactly up to there
enum Flags : uint32_t { kClamp = 1, kResidualLast = 2, kSignsIn = 4, kMaxPool = 8 };
constexpr uint32_t kAllowed[] = {kClamp | kResidualLast | kSignsIn, kClamp | kResidualLast | kSignsIn, kClamp | kMaxPool, 0};  // of each Kind

template <class T>
T read_at(const uint8_t* bytes, size_t offset) {
    T value;
    std::memcpy(&value, bytes + offset, sizeof(T));
    return value;
}

bool within(int64_t value, int64_t least) { return value >= least && value <= kLargest; }

// Whether the sizes are those of a convolution, so that products of them fit into 64 bits.
bool is_convolution(const rebnn_conv2d_spec& s) {
    for (int64_t size : {s.c_in, s.c_out, s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.dilation_h, s.dilation_w, s.groups})
        if (!within(size, 1)) return false;
    if (!within(s.padding_h, 0) || !within(s.padding_w, 0) || s.c_in % s.groups || s.c_out % s.groups) return false;
    return s.kernel_h * s.kernel_w <= kProducts && s.kernel_h * s.kernel_w * (s.c_in / s.groups) <= kProducts;
}

bool is_linear(const rebnn_conv2d_spec& s) {
    return s.kernel_h * s.kernel_w * s.stride_h * s.stride_w * s.dilation_h * s.dilation_w * s.groups == 1 &&
           s.padding_h == 0 && s.padding_w == 0;
}

// Whether the kernels of real-valued convolutions have such sizes.
bool is_real(const rebnn_conv2d_spec& s) {
    return s.stride_h == s.stride_w && s.padding_h == s.padding_w && s.dilation_h * s.dilation_w * s.groups == 1 &&
           s.c_out * s.kernel_h <= kProducts && s.kernel_h * s.kernel_w * s.c_in * ((s.c_out + 63) / 64) <= kProducts;
}

// Whether the sizes are those of nearest upsampling, which repeats a pixel `stride` times in each direction.
bool is_nearest(const rebnn_conv2d_spec& s) {
    if (s.c_in != s.c_out || s.stride_h > kTimes || s.stride_w > kTimes) return false;
    return s.kernel_h * s.kernel_w * s.dilation_h * s.dilation_w * s.groups == 1 && s.padding_h == 0 && s.padding_w == 0;
}

bool fits(Kind kind, const rebnn_conv2d_spec& s) {
    if (!is_convolution(s)) return false;
    switch (kind) {
        case Kind::linear: return is_linear(s);
        case Kind::real: return is_real(s);
        case Kind::nearest: return is_nearest(s);
        default: return true;
    }
}

// Bytes of the weight.
int64_t weight_bytes(Kind kind, const rebnn_conv2d_spec& s) {
    const int64_t elements = s.c_out * s.kernel_h * s.kernel_w * (s.c_in / s.groups);
    return kind == Kind::nearest ? 0 : kind == Kind::real ? 4 * elements : (elements + 7) / 8;
}

// Whether inputs stand in front of results, all of them at places of their own, and nothing else is there. The shortcut
// may be the input itself.
bool are_places(const Blob& b) {
    const int32_t inputs = b.residual < 0 || b.residual == b.x ? 1 : 2, results = (b.floats >= 0) + (b.signs >= 0);
    if (results == 0 || b.arguments != inputs + results || b.x < 0 || b.x >= inputs || b.residual >= inputs) return false;
    for (int32_t place : {b.floats, b.signs})
        if (place >= 0 && (place < inputs || place >= b.arguments)) return false;
    return b.floats != b.signs && b.residual >= -1 && b.floats >= -1 && b.signs >= -1;
}

// Vectors that belong together are there both or not at all.
bool are_pairs(const rebnn_conv2d_spec& s) {
    return s.alpha && !s.scale == !s.offset && !s.input_scale == !s.input_offset && !s.last_scale == !s.last_offset &&
           !s.sign_scale == !s.sign_offset;
}

const char* read_spec(const uint8_t* bytes, Blob* blob) {
    const auto kind = read_at<uint32_t>(bytes, 24), flags = read_at<uint32_t>(bytes, 28);
    if (kind > uint32_t(Kind::nearest) || flags & ~kAllowed[kind] || read_at<uint32_t>(bytes, 156)) return "the layer is of an unknown kind: build this library anew";
    blob->kind = Kind(kind);
    blob->max_pool = flags & kMaxPool;
    blob->signs_in = flags & kSignsIn;
    rebnn_conv2d_spec& s = blob->spec;
    int64_t* sizes[] = {&s.c_in,      &s.c_out,     &s.kernel_h,   &s.kernel_w,   &s.stride_h, &s.stride_w,
                        &s.padding_h, &s.padding_w, &s.dilation_h, &s.dilation_w, &s.groups};
    for (size_t i = 0; i < 11; ++i) *sizes[i] = read_at<int64_t>(bytes, 32 + 8 * i);
    if (!fits(blob->kind, s)) return "the 1-bit layer has sizes that no layer has";
    s.clamp = flags & kClamp ? 1 : 0;
    s.residual_last = flags & kResidualLast ? 1 : 0;
    s.clamp_low = read_at<double>(bytes, 120);
    s.clamp_high = read_at<double>(bytes, 128);
    if (blob->kind == Kind::real && !s.clamp) return "a real-valued convolution lacks its clamp";
    if (s.clamp && !(s.clamp_low <= s.clamp_high)) return "the 1-bit layer's clamp is empty";
    int32_t* places[] = {&blob->x, &blob->residual, &blob->floats, &blob->signs, &blob->arguments};
    for (size_t i = 0; i < 5; ++i) *places[i] = read_at<int32_t>(bytes, 136 + 4 * i);
    if (!blob->on_bits() && (blob->residual >= 0 || blob->signs >= 0)) return "a real-valued layer has a shortcut or signs";
    return are_places(*blob) ? nullptr : "the 1-bit layer's arguments are misplaced";
}

const char* read_parts(const uint8_t* bytes, size_t size, Blob* blob) {
    rebnn_conv2d_spec& s = blob->spec;
    const float** vectors[kVectors] = {
        &s.shift, &s.input_scale, &s.input_offset, &s.alpha,       &s.bias,       &s.scale,      &s.offset,     &s.before,
        &s.slope, &s.after,       &s.last_scale,   &s.last_offset, &s.sign_shift, &s.sign_scale, &s.sign_offset};
    const int64_t weight = weight_bytes(blob->kind, s);
    size_t at = kHeader;
    for (size_t part = 0; part <= kVectors; ++part) {
        const auto count = read_at<int64_t>(bytes, 160 + 8 * part);
        if (count == -1 && part > 0) continue;
        const int64_t wanted = part == 0 ? weight : 4 * (part <= 3 ? s.c_in : s.c_out);
        if (count != wanted) return "the 1-bit layer holds a vector of another length than its channels";
        if (uint64_t(count) > size - at) return "the 1-bit layer is cut off";
        if (part == 0 && blob->kind == Kind::real)
            blob->weight = reinterpret_cast<const float*>(bytes + at);
        else if (part == 0)
            s.bits = bytes + at;
        else
            *vectors[part - 1] = reinterpret_cast<const float*>(bytes + at);
        const size_t padded = (size_t(count) + kAlignment - 1) / kAlignment * kAlignment;
        if (padded > size - at) return "the 1-bit layer is cut off";
        at += padded;
    }
    if (at != size) return "the 1-bit layer holds more than its vectors";
    blob->bits_bytes = weight;
    if (!blob->on_bits()) {
        for (size_t i = 0; i < kVectors; ++i) {
            const bool wanted = blob->kind == Kind::real && (vectors[i] == &s.scale || vectors[i] == &s.offset);
            if (wanted != (*vectors[i] != nullptr)) return "a real-valued convolution has other vectors than scale and offset, or upsampling has any";
        }
        return nullptr;
    }
    if (!are_pairs(s)) return "the 1-bit layer lacks one of its vectors";
    if (blob->signs < 0 && (s.sign_shift || s.sign_scale)) return "the 1-bit layer prepares signs that it does not return";
    if (blob->signs_in && (s.shift || s.input_scale)) return "the 1-bit layer shifts signs";
    return nullptr;
}

}  // namespace

const char* read_blob(const void* data, size_t size, Blob* blob) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    if (!data || size < kHeader || std::memcmp(bytes, "REBNNDEL", 8)) return "these are not the bytes of a 1-bit layer";
    if (reinterpret_cast<uintptr_t>(data) % alignof(float)) return "the bytes of the 1-bit layer are not aligned";
    const auto version = read_at<uint32_t>(bytes, 8);
    if (version < kBlobVersion) return "the 1-bit layer was written by an older version: export the program again";
    if (version > kBlobVersion) return "the 1-bit layer was written by a newer version: build this library anew";
    if (read_at<uint64_t>(bytes, 16) != size) return "the 1-bit layer is cut off";
    if (crc32(bytes + 16, size - 16) != read_at<uint32_t>(bytes, 12)) return "the 1-bit layer is damaged: its checksum is wrong";
    *blob = Blob{};
    if (const char* wrong = read_spec(bytes, blob)) return wrong;
    return read_parts(bytes, size, blob);
}

}  // namespace rebnn
