#include "threads.hpp"

#include <executorch/runtime/core/function_ref.h>

#include <atomic>
#include <cstddef>
#include <ctime>

#include "rebnn_kernels.h"

// The wheel carries this class in its libraries, not in its headers.
namespace executorch::extension::threadpool {
class ThreadPool {
public:
    bool _unsafe_reset_threadpool(unsigned int threads);
    size_t get_thread_count() const;
    void run(runtime::FunctionRef<void(size_t)> body, size_t range);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace rebnn {
namespace {

std::atomic<int32_t> wanted{1};
thread_local const char* refused = "";
thread_local double milliseconds = 0;

void on_the_pool(void (*body)(void*), void* data, unsigned threads, unsigned) {
    executorch::extension::threadpool::get_threadpool()->run([&](size_t) { body(data); }, threads);
}

}  // namespace

int32_t threads() { return wanted.load(std::memory_order_relaxed); }

void set_threads(int32_t threads) {
    threads = threads < 1 ? 1 : threads;
    // one thread needs no pool, and asking for it would start one
    auto* pool = threads > 1 ? executorch::extension::threadpool::get_threadpool() : nullptr;
    if (pool && pool->get_thread_count() != size_t(threads)) pool->_unsafe_reset_threadpool(unsigned(threads));
    rebnn_set_parallel(pool ? on_the_pool : nullptr);
    wanted.store(threads, std::memory_order_relaxed);
}

const char* last_error() { return refused; }
void set_last_error(const char* sentence) { refused = sentence; }

double thread_milliseconds() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return double(now.tv_sec) * 1e3 + double(now.tv_nsec) / 1e6;
}

double milliseconds_in_layers() { return milliseconds; }
void add_milliseconds_in_layers(double more) { milliseconds += more; }

}  // namespace rebnn
