#include "plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rebnn {
namespace {

// 32 bits of a little-endian bit stream from any position, without reading behind its `total` bits.
class BitReader {
public:
    BitReader(const uint8_t* bytes, int64_t total) : bytes_(bytes), size_((total + 7) / 8) {}

    uint32_t read(int64_t position, int64_t count) const {
        const int64_t byte = position / 8, shift = position % 8;
        uint64_t value = 0;
        for (int64_t i = 0; i < 5 && byte + i < size_; ++i) value |= uint64_t(bytes_[byte + i]) << (8 * i);
        value >>= shift;
        return uint32_t(count >= kWordBits ? value : value & ((uint64_t(1) << count) - 1));
    }

private:
    const uint8_t* bytes_;
    int64_t size_;
};

int popcount(uint32_t bits) {
    int count = 0;
    for (; bits; bits &= bits - 1) ++count;
    return count;
}

template <class T>
T* write_at(Plan* plan, int64_t offset) {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(plan) + offset);
}

// One output channel's bits of a depthwise layer: a bit for each tap.
void write_depthwise(const BitReader& bits, int64_t channel, Plan* plan) {
    auto* words = write_at<uint32_t>(plan, plan->weights) + channel / kWordBits;
    auto* sums = write_at<int32_t>(plan, plan->tap_sums) + channel;
    for (int64_t tap = 0; tap < plan->taps(); ++tap) {
        const uint32_t bit = bits.read(channel * plan->taps() + tap, 1);
        words[tap * plan->words] |= bit << (channel % kWordBits);
        sums[tap * plan->channels()] = bit ? 1 : -1;
    }
}

// One output channel's bits into its lane, and the sums of its signs, tap by tap.
void write_channel(const Layout& layout, const BitReader& bits, int64_t channel, Plan* plan) {
    const int64_t group = channel / plan->out_group, within = channel % plan->out_group;
    const int64_t vector = group * plan->vectors() + within / plan->lanes, lane = within % plan->lanes;
    auto* words = write_at<uint32_t>(plan, plan->weights + vector * plan->vector_bytes());
    auto* bytes = write_at<uint8_t>(plan, plan->weights + vector * plan->vector_bytes());
    auto* sums = write_at<int32_t>(plan, plan->tap_sums) + group * plan->out_padded + within;
    for (int64_t tap = 0; tap < plan->taps(); ++tap) {
        const int64_t start = (channel * plan->taps() + tap) * plan->in_group;
        int64_t ones = 0;
        uint32_t previous = 0;
        for (int64_t word = 0; word < plan->words; ++word) {
            const uint32_t value = bits.read(start + word * kWordBits, plan->in_group - word * kWordBits);
            const uint32_t stored = plan->word_pairs && word % 2 ? value ^ previous : value;
            const int64_t slot = (tap * plan->words + word) * plan->lanes;
            if (layout.nibbles) {
                for (int64_t i = 0; i < 8; ++i) bytes[slot * 8 + i * plan->lanes + lane] = stored >> (4 * i) & 15;
            } else {
                words[slot + lane] = stored;
            }
            ones += popcount(value);
            previous = value;
        }
        sums[tap * plan->channels()] = int32_t(2 * ones - plan->in_group);
    }
}

// `neutral` stands where there are no values: what changes no bit of any float. Adding -0.0 keeps zeros of both signs,
// adding 0.0 would not.
void write_row(const float* values, float neutral, Row row, Plan* plan) {
    float* out = write_at<float>(plan, plan->rows) + row * plan->channels();
    std::fill_n(out, plan->channels(), neutral);
    if (!values) return;
    for (int64_t group = 0; group < plan->groups; ++group)
        std::copy_n(values + group * plan->out_group, plan->out_group, out + group * plan->out_padded);
}

void write_input(const float* values, int64_t offset, Plan* plan) {
    if (values) std::copy_n(values, plan->c_in, write_at<float>(plan, offset));
}

// FNV-1a of the sizes that tables depend on.
uint32_t hash(const Plan& plan) {
    uint32_t key = 2166136261u;
    for (int64_t value : {plan.c_in, plan.c_out, plan.kernel_h, plan.kernel_w, plan.stride_h, plan.stride_w,
                          plan.padding_h, plan.padding_w, plan.dilation_h, plan.dilation_w, plan.groups, plan.word_size,
                          plan.lanes, plan.weights, plan.bytes})
        for (int i = 0; i < 8; ++i) key = (key ^ uint32_t(value >> (8 * i) & 255)) * 16777619u;
    return key;
}

// The next part of the plan, 64-byte aligned.
int64_t reserve(int64_t bytes, Plan* plan) {
    const int64_t start = plan->bytes;
    plan->bytes += round_up(bytes, kAlignment);
    return start;
}

}  // namespace

bool plan_header(const Layout& layout, const rebnn_conv2d_spec& spec, Plan* plan) {
    // Products of sizes below stay far inside 64 bits when each size does not exceed this.
    constexpr int64_t kLargest = int64_t(1) << 20;
    const int64_t sizes[] = {spec.c_in,     spec.c_out,    spec.kernel_h,   spec.kernel_w,  spec.stride_h,
                             spec.stride_w, spec.dilation_h, spec.dilation_w, spec.groups};
    for (int64_t size : sizes)
        if (size < 1 || size > kLargest) return false;
    for (int64_t padding : {spec.padding_h, spec.padding_w})
        if (padding < 0 || padding > kLargest) return false;
    if (spec.c_in % spec.groups || spec.c_out % spec.groups) return false;
    *plan = Plan{};
    plan->magic = kPlanMagic;
    const bool activation = spec.before || spec.slope || spec.after, tail = spec.clamp || spec.last_scale;
    plan->parts = (activation ? kActivation : 0) | (tail ? kTail : 0);
    plan->residual_last = spec.residual_last != 0;
    plan->clamp_low = spec.clamp ? float(spec.clamp_low) : -INFINITY;
    plan->clamp_high = spec.clamp ? float(spec.clamp_high) : INFINITY;
    plan->c_in = spec.c_in;
    plan->c_out = spec.c_out;
    plan->kernel_h = spec.kernel_h;
    plan->kernel_w = spec.kernel_w;
    plan->stride_h = spec.stride_h;
    plan->stride_w = spec.stride_w;
    plan->padding_h = spec.padding_h;
    plan->padding_w = spec.padding_w;
    plan->dilation_h = spec.dilation_h;
    plan->dilation_w = spec.dilation_w;
    plan->depthwise = spec.groups > 1 && spec.groups == spec.c_in && spec.groups == spec.c_out;
    plan->groups = plan->depthwise ? 1 : spec.groups;
    plan->in_group = spec.c_in / plan->groups;
    plan->out_group = spec.c_out / plan->groups;
    // float32 holds every integer up to 2^24: beyond it the training layers are not exact either
    if (plan->products() > int64_t(1) << 24) return false;
    plan->words = (plan->in_group + kWordBits - 1) / kWordBits;
    plan->word_pairs = layout.word_pairs && plan->words % 2 == 0 && !plan->depthwise;
    plan->word_size = layout.nibbles && !plan->depthwise ? 2 : 1;
    plan->lanes = layout.lanes;
    plan->out_padded = round_up(plan->out_group, layout.lanes);
    plan->bytes = round_up(sizeof(Plan), kAlignment);
    const int64_t vector_bytes = plan->groups * plan->vectors() * plan->vector_bytes();
    plan->weights = reserve(plan->depthwise ? plan->taps() * plan->words * 4 : vector_bytes, plan);
    plan->tap_sums = reserve(plan->taps() * plan->channels() * 4, plan);
    plan->rows = reserve(kRows * plan->channels() * 4, plan);
    plan->shift = spec.shift ? reserve(plan->c_in * 4, plan) : 0;
    plan->input_scale = spec.input_scale ? reserve(plan->c_in * 4, plan) : 0;
    plan->input_offset = spec.input_scale ? reserve(plan->c_in * 4, plan) : 0;
    plan->key = hash(*plan);
    return true;
}

void plan_contents(const Layout& layout, const rebnn_conv2d_spec& spec, Plan* plan) {
    std::memset(write_at<char>(plan, sizeof(Plan)), 0, size_t(plan->bytes) - sizeof(Plan));
    const BitReader bits(spec.bits, plan->c_out * plan->products());
    for (int64_t channel = 0; channel < plan->c_out; ++channel)
        plan->depthwise ? write_depthwise(bits, channel, plan) : write_channel(layout, bits, channel, plan);
    write_row(spec.alpha, 1.f, kAlphaRow, plan);
    write_row(spec.bias, -0.f, kBiasRow, plan);
    write_row(spec.scale, 1.f, kScaleRow, plan);
    write_row(spec.offset, -0.f, kOffsetRow, plan);
    write_row(spec.before, -0.f, kBeforeRow, plan);
    write_row(spec.slope, 1.f, kSlopeRow, plan);
    write_row(spec.after, -0.f, kAfterRow, plan);
    write_row(spec.last_scale, 1.f, kLastScaleRow, plan);
    write_row(spec.last_offset, -0.f, kLastOffsetRow, plan);
    write_row(spec.sign_shift, -0.f, kSignShiftRow, plan);
    write_row(spec.sign_scale, 1.f, kSignScaleRow, plan);
    write_row(spec.sign_offset, -0.f, kSignOffsetRow, plan);
    write_input(spec.shift, plan->shift, plan);
    write_input(spec.input_scale, plan->input_scale, plan);
    write_input(spec.input_offset, plan->input_offset, plan);
}

}  // namespace rebnn
