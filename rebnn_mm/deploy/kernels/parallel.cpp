#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "rebnn_kernels.h"

namespace rebnn {
namespace {

std::atomic<rebnn_gomp_parallel> gomp_parallel{nullptr};

// Threads take the next task as they come free: which one computes a task does not change its result.
struct Queue {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    int64_t tasks;
    void (*body)(void*, int64_t);
    void* data;

    static void drain(void* queue) noexcept {
        auto* self = static_cast<Queue*>(queue);
        try {
            for (int64_t task; (task = self->next.fetch_add(1, std::memory_order_relaxed)) < self->tasks;)
                self->body(self->data, task);
        } catch (...) {
            self->failed.store(true, std::memory_order_relaxed);
            self->next.store(self->tasks, std::memory_order_relaxed);
        }
    }
};

// Without a pool to share, starting threads anew (some 20 us each) is the simple thing that cannot clash.
void drain_with_std_threads(Queue* queue, int32_t threads) {
    std::vector<std::thread> helpers;
    try {
        helpers.reserve(size_t(threads) - 1);
        for (int32_t i = 1; i < threads; ++i) helpers.emplace_back(Queue::drain, queue);
    } catch (const std::exception&) {
        // no more threads (system_error) or memory (bad_alloc, from the vector or from a thread's own start): those
        // that started, and this one, do all of it. Nothing may leave here before they are joined.
    }
    Queue::drain(queue);
    for (auto& helper : helpers) helper.join();
}

}  // namespace

bool parallel_for(int64_t tasks, int32_t threads, void (*body)(void*, int64_t), void* data) {
    threads = int32_t(std::min<int64_t>(threads, tasks));
    Queue queue;
    queue.tasks = tasks;
    queue.body = body;
    queue.data = data;
    if (threads <= 1) {
        Queue::drain(&queue);
    } else if (auto parallel = gomp_parallel.load(std::memory_order_acquire)) {
        parallel(Queue::drain, &queue, unsigned(threads), 0);
    } else {
        drain_with_std_threads(&queue, threads);
    }
    return !queue.failed.load(std::memory_order_relaxed);
}

}  // namespace rebnn

extern "C" void rebnn_set_parallel(rebnn_gomp_parallel parallel) {
    rebnn::gomp_parallel.store(parallel, std::memory_order_release);
}
