#pragma once

#include <cstdint>

namespace rebnn {

// Tasks for each thread, so that one that is interrupted leaves work to the others.
constexpr int64_t kTasksPerThread = 4;

// body(data, i) for every i in [0, tasks), each once, in any order, on up to `threads` threads. False if a body threw:
// no exception may leave a thread, so the tasks that were not begun are dropped, and the caller reports the failure.
bool parallel_for(int64_t tasks, int32_t threads, void (*body)(void* data, int64_t task), void* data);

template <class Body>
bool parallel_for(int64_t tasks, int32_t threads, Body body) {
    return parallel_for(tasks, threads, [](void* data, int64_t task) { (*static_cast<Body*>(data))(task); }, &body);
}

}  // namespace rebnn
