// Mean over all pixels of each channel in torch's order of sums, for any instruction set `Isa` (see isa_generic.cpp).
#pragma once

#include "kernel.h"

namespace rebnn {
namespace {

// torch sums contiguous pixels with vectors of `lanes`, four vectors side by side, and adds every 16 sums to a sum of the
// next level; what fills no vector comes first when the lanes are added up (ATen/native/cpu/SumKernel.cpp). Here channels
// lie in the vector, and torch's lanes beside each other in memory.
template <class Isa>
struct PixelSum {
    using Vec = typename Isa::Vec;
    static constexpr int64_t kSide = 4, kLevels = 4, kLevelPower = 4, kMostLanes = 16;

    template <class Load>
    static Vec of(const float* x, int64_t c, int64_t pixels, int64_t lanes, const Load& load) {
        Vec sums[kLevels][kSide * kMostLanes];
        const int64_t width = kSide * lanes, steps = pixels / width, vectors = pixels / lanes;
        const int64_t levels = steps >> kLevelPower ? kLevels : 1;  // small maps need no other
        for (int64_t level = 0; level < levels; ++level)
            for (int64_t i = 0; i < width; ++i) sums[level][i] = Isa::broadcast(0.f);
        const float* pixel = x;
        const auto add = [&](int64_t i) {
            sums[0][i] = Isa::add(sums[0][i], load(pixel));
            pixel += c;
        };
        for (int64_t step = 0; step < steps;) {
            for (int64_t i = 0; i < width; ++i) add(i);
            if (++step % (int64_t(1) << kLevelPower) != 0) continue;
            for (int64_t level = 1; level < kLevels; ++level) {
                for (int64_t i = 0; i < width; ++i) {
                    sums[level][i] = Isa::add(sums[level][i], sums[level - 1][i]);
                    sums[level - 1][i] = Isa::broadcast(0.f);
                }
                if (step >> (level * kLevelPower) & ((1 << kLevelPower) - 1)) break;
            }
        }
        for (int64_t level = 1; level < levels; ++level)
            for (int64_t i = 0; i < width; ++i) sums[0][i] = Isa::add(sums[0][i], sums[level][i]);
        for (int64_t vector = steps * kSide; vector < vectors; ++vector)
            for (int64_t lane = 0; lane < lanes; ++lane) add(lane);
        for (int64_t side = 1; side < kSide; ++side)
            for (int64_t lane = 0; lane < lanes; ++lane)
                sums[0][lane] = Isa::add(sums[0][lane], sums[0][side * lanes + lane]);
        Vec total = Isa::broadcast(0.f);
        for (int64_t rest = vectors * lanes; rest < pixels; ++rest, pixel += c) total = Isa::add(total, load(pixel));
        for (int64_t lane = 0; lane < lanes; ++lane) total = Isa::add(total, sums[0][lane]);
        return total;
    }
};

// The image's sums over its pixels, to out.
template <class Isa>
void sum_pixels(const float* x, int64_t c, int64_t pixels, int64_t lanes, float* out) {
    const int64_t whole = c - c % Isa::kWidth, left = c - whole;
    for (int64_t channel = 0; channel < whole; channel += Isa::kWidth) {
        const auto load = [](const float* p) { return Isa::load(p); };
        Isa::store(out + channel, PixelSum<Isa>::of(x + channel, c, pixels, lanes, load));
    }
    if (left) {
        const auto load = [&](const float* p) { return Isa::load_partial(p, left); };
        Isa::store_partial(out + whole, left, PixelSum<Isa>::of(x + whole, c, pixels, lanes, load));
    }
}

}  // namespace
}  // namespace rebnn
