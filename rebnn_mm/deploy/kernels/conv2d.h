#pragma once

#include "kernel.h"

namespace rebnn {

// Run one layer; `conv` holds plan, n, h, w, channels_last, x, residual and out. Returns a rebnn_status.
int32_t run(const Kernel& kernel, Conv conv, int32_t threads);

// Run one pooling; `pool` holds n, h, w, c, x, scale, offset and out. Returns a rebnn_status.
int32_t run_pool(const Kernel& kernel, Pool pool, int32_t threads);

}  // namespace rebnn
