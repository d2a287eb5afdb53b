// One elementwise step of a unit that trains: sizes, and the channels that threads share.
#include "conv2d.h"
#include "parallel.h"

namespace rebnn {
namespace {

// What each step reads and writes has to be there; what may be missing is in the comment of rebnn_unit_step.
bool is_complete(const Unit& u, int32_t step) {
    switch (step) {
        case REBNN_UNIT_COUNTS: return u.values && u.counts_out && u.sums;
        case REBNN_UNIT_FORWARD: return u.counts && u.scale && u.offset && u.out;
        case REBNN_UNIT_BACKWARD: return u.values && u.counts && u.scale && u.offset && u.out && u.sums;
        case REBNN_UNIT_NORM: return u.values && u.counts && u.scale && u.offset && u.slope && u.out;
        case REBNN_UNIT_SIGNS: return (u.values || u.code) && u.out;
        case REBNN_UNIT_ENCODE: return u.values && u.code_out;
        case REBNN_UNIT_INPUT: return u.values && (u.x || u.code) && u.out && u.sums;
        case REBNN_UNIT_WEIGHT: return u.values && u.x && u.scale && u.out && u.sums;
        default: return false;
    }
}

}  // namespace

int32_t run_unit(const Kernel& kernel, int32_t step, const Unit& unit, int64_t size, int32_t threads) {
    if (threads < 1 || step < 0 || step >= kUnitStepCount) return REBNN_BAD_ARGUMENT;
    if (unit.c < 1 || unit.plane < 1 || !is_of_size(size, {unit.n, unit.c, unit.plane})) return REBNN_BAD_ARGUMENT;
    if (!is_complete(unit, step)) return REBNN_BAD_ARGUMENT;
    const auto function = (*kernel.unit_steps)[step];
    const bool done = parallel_for(unit.c, threads, [&](int64_t channel) { function(unit, channel); });
    return done ? REBNN_OK : REBNN_OUT_OF_MEMORY;
}

}  // namespace rebnn
