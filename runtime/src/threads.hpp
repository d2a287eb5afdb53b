#pragma once

#include <cstdint>

namespace rebnn {

// Threads of 1-bit layers and of XNNPACK, for the whole process: both take them from ExecuTorch's one pool. 1 at first.
int32_t threads();
void set_threads(int32_t threads);

// What a delegate of this thread refused last; an error code is all that ExecuTorch hands on. Empty where it did not.
const char* last_error();
void set_last_error(const char* sentence);

// CPU time of the calling thread, which other programs on the machine hardly disturb.
double thread_milliseconds();

// Such time that this thread spent in layers of the delegate.
double milliseconds_in_layers();
void add_milliseconds_in_layers(double more);

}  // namespace rebnn
