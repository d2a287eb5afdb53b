// From bit counts to finished floats, for any instruction set `Isa` (see isa_generic.cpp for what one offers).
#pragma once

#include "kernel.h"

// Accumulators must stay in registers, so loops over them are unrolled by the compiler, not left to its judgement.
#if defined(__clang__)
#define REBNN_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define REBNN_UNROLL _Pragma("GCC unroll 16")
#else
#define REBNN_UNROLL
#endif

namespace rebnn {
namespace {

// The float epilogue of `Isa::kWidth` results; the order of operations is the training layers', bit for bit.
// `At` gives a row's values for these results: neighbouring channels, or one channel broadcast over pixels.
template <class Isa, class At>
REBNN_INLINE typename Isa::Vec finish(int32_t epilogue, typename Isa::Vec y, const typename Isa::Vec* residual, At at) {
    y = Isa::mul(y, at(kAlphaRow));
    if (epilogue & kBias) y = Isa::add(y, at(kBiasRow));
    if (epilogue & kAffine) y = Isa::fma(y, at(kScaleRow), at(kOffsetRow));
    if (residual) y = Isa::add(y, *residual);
    if (epilogue & kRPReLU) y = Isa::add(Isa::prelu(Isa::add(y, at(kBeforeRow)), at(kSlopeRow)), at(kAfterRow));
    return y;
}

// Output pixels one after the other through the batch, with what the tile needs of each.
struct OutputCursor {
    OutputCursor(const Conv& conv, int64_t index, int64_t group) : conv(conv), group_word(group * conv.plan->words) {
        x = index % conv.out_w;
        y = index / conv.out_w % conv.out_h;
        image = index / conv.out_w / conv.out_h;
        locate();
    }

    void next() {
        field += conv.plan->stride_w * conv.pixel_words();
        if (++x < conv.out_w) return;
        x = 0;
        if (++y == conv.out_h) {
            y = 0;
            ++image;
        }
        locate();
    }

    const int32_t* corrections() const { return row_corrections + conv.column_class[x] * conv.plan->channels(); }

    const uint32_t* field;  // first word of the receptive field

private:
    void locate() {
        const int64_t row = image * conv.padded_h + y * conv.plan->stride_h;
        field = conv.packed + (row * conv.padded_w + x * conv.plan->stride_w) * conv.pixel_words() + group_word;
        row_corrections = conv.corrections + conv.row_class[y] * conv.column_classes * conv.plan->channels();
    }

    const Conv& conv;
    const int64_t group_word;
    const int32_t* row_corrections;
    int64_t image, y, x;
};

// M pixels times N vectors of output channels.
template <class Isa, int M, int N>
struct Tile {
    static constexpr int kParts = N * Isa::kLanes / Isa::kWidth;

    const uint32_t* fields[M];
    const int32_t* corrections[M];  // from the tile's first channel on
    typename Isa::Int counts[M][kParts];

    REBNN_INLINE void count(const Conv& conv, OutputCursor& pixel, int64_t group, int64_t vector) {
        const Plan& plan = *conv.plan;
        for (int m = 0; m < M; ++m, pixel.next()) {
            fields[m] = pixel.field;
            corrections[m] = pixel.corrections() + group * plan.out_padded + vector * Isa::kLanes;
        }
        const char* weights = plan.at<char>(plan.weights) + (group * plan.vectors() + vector) * plan.vector_bytes();
        Isa::template count<M, N>(conv, fields, weights, counts);
    }

    // `channels` valid ones of pixels that lie c_out floats apart, from offset `out` of the output.
    REBNN_INLINE void store_nhwc(const Conv& conv, int64_t padded_channel, int64_t channels, int64_t out) const {
        const Plan& plan = *conv.plan;
        REBNN_UNROLL
        for (int part = 0; part < kParts; ++part) {
            const int64_t at = part * Isa::kWidth, left = channels - at;
            if (left <= 0) break;
            auto row = [&](Row which) { return Isa::load(plan.row(which) + padded_channel + at); };
            REBNN_UNROLL
            for (int m = 0; m < M; ++m) {
                const int64_t target = out + m * plan.c_out + at;
                const auto y = Isa::result(corrections[m] + at, counts[m][part]);
                if (left >= Isa::kWidth) {
                    typename Isa::Vec residual;
                    if (conv.residual) residual = Isa::load(conv.residual + target);
                    Isa::store(conv.out + target, finish<Isa>(plan.epilogue, y, conv.residual ? &residual : nullptr, row));
                } else {
                    typename Isa::Vec residual;
                    if (conv.residual) residual = Isa::load_partial(conv.residual + target, left);
                    Isa::store_partial(conv.out + target, left,
                                       finish<Isa>(plan.epilogue, y, conv.residual ? &residual : nullptr, row));
                }
            }
        }
    }

    // The integer results as floats, a row of N * kLanes for each pixel.
    REBNN_INLINE void store_raw(float* out) const {
        REBNN_UNROLL
        for (int part = 0; part < kParts; ++part) {
            REBNN_UNROLL
            for (int m = 0; m < M; ++m)
                Isa::store(out + m * N * Isa::kLanes + part * Isa::kWidth,
                           Isa::result(corrections[m] + part * Isa::kWidth, counts[m][part]));
        }
    }
};

// Pixels [first, last) times N vectors of a group, in tiles of M pixels and one smaller. Results go to the output if it
// is channels_last, and unfinished to `raw`, [pixel][N * kLanes], if not.
template <class Isa, int M, int N>
void compute_tiles(const Conv& conv, int64_t group, int64_t vector, OutputCursor& pixel, int64_t first, int64_t last,
                   float* raw) {
    const Plan& plan = *conv.plan;
    const int64_t within = vector * Isa::kLanes;
    for (; last - first >= M; first += M) {
        Tile<Isa, M, N> tile;
        tile.count(conv, pixel, group, vector);
        if (raw) {
            tile.store_raw(raw);
            raw += M * N * Isa::kLanes;
        } else {
            tile.store_nhwc(conv, group * plan.out_padded + within, plan.out_group - within,
                            first * plan.c_out + group * plan.out_group + within);
        }
    }
    if constexpr (M > 1) {
        if (first < last) compute_tiles<Isa, M - 1, N>(conv, group, vector, pixel, first, last, raw);
    }
}

// Results of a block, [pixel][N * kLanes], to one channel's pixels after the other. A block's pixels may
// belong to several images: `count` of them are one image's.
template <class Isa, int N>
void finish_nchw(const Conv& conv, const float* raw, int64_t padded_channel, int64_t channels, int64_t count,
                 int64_t out) {
    const Plan& plan = *conv.plan;
    constexpr int64_t kStride = N * Isa::kLanes;
    const int64_t plane = conv.out_h * conv.out_w;
    for (int64_t c = 0; c < channels && c < kStride; ++c) {
        auto row = [&](Row which) { return Isa::broadcast(plan.row(which)[padded_channel + c]); };
        for (int64_t p = 0; p < count; p += Isa::kWidth) {
            const int64_t left = count - p < Isa::kWidth ? count - p : Isa::kWidth;
            const int64_t target = out + c * plane + p;
            float column[Isa::kWidth] = {};
            for (int64_t i = 0; i < left; ++i) column[i] = raw[(p + i) * kStride + c];
            typename Isa::Vec residual;
            if (conv.residual) residual = Isa::load_partial(conv.residual + target, left);
            Isa::store_partial(conv.out + target, left,
                               finish<Isa>(plan.epilogue, Isa::load(column), conv.residual ? &residual : nullptr, row));
        }
    }
}

template <class Isa, int N>
void compute_nchw(const Conv& conv, const Block& block, int64_t vector, OutputCursor& pixel) {
    const Plan& plan = *conv.plan;
    constexpr int64_t kStride = N * Isa::kLanes, kBatch = 48;
    const int64_t within = vector * Isa::kLanes, plane = conv.out_h * conv.out_w;
    const int64_t channel = block.group * plan.out_group + within, channels = plan.out_group - within;
    alignas(64) float raw[kBatch * kStride];
    for (int64_t first = block.first_pixel, next; first < block.last_pixel; first = next) {
        const int64_t image = first / plane;
        next = first + kBatch;
        if (next > block.last_pixel) next = block.last_pixel;
        if (next > (image + 1) * plane) next = (image + 1) * plane;
        compute_tiles<Isa, Isa::kPixels, N>(conv, block.group, vector, pixel, first, next, raw);
        finish_nchw<Isa, N>(conv, raw, block.group * plan.out_padded + within, channels, next - first,
                            (image * plan.c_out + channel) * plane + first % plane);
    }
}

template <class Isa, int N>
void compute_vectors(const Conv& conv, const Block& block, int64_t vector) {
    OutputCursor pixel(conv, block.first_pixel, block.group);
    if (conv.channels_last) {
        compute_tiles<Isa, Isa::kPixels, N>(conv, block.group, vector, pixel, block.first_pixel, block.last_pixel,
                                            nullptr);
    } else {
        compute_nchw<Isa, N>(conv, block, vector, pixel);
    }
}

template <class Isa>
void compute_block(const Conv& conv, const Block& block) {
    if (block.vectors == Isa::kVectors) return compute_vectors<Isa, Isa::kVectors>(conv, block, block.vector);
    for (int64_t i = 0; i < block.vectors; ++i) compute_vectors<Isa, 1>(conv, block, block.vector + i);
}

}  // namespace
}  // namespace rebnn
