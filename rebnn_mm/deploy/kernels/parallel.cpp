#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "rebnn_kernels.h"

namespace rebnn {
namespace {

std::atomic<rebnn_gomp_parallel> gomp_parallel{nullptr};

// Threads take the next task as they come free: which one computes a task does not change its result.
struct Queue {
    std::atomic<int64_t> next{0};
    int64_t tasks;
    void (*body)(void*, int64_t);
    void* data;

    static void drain(void* queue) {
        auto* self = static_cast<Queue*>(queue);
        for (int64_t task; (task = self->next.fetch_add(1, std::memory_order_relaxed)) < self->tasks;)
            self->body(self->data, task);
    }
};

// Without a pool to share, starting threads anew (some 20 us each) is the simple thing that cannot clash.
void drain_with_std_threads(Queue* queue, int32_t threads) {
    std::vector<std::thread> helpers;
    try {
        for (int32_t i = 1; i < threads; ++i) helpers.emplace_back(Queue::drain, queue);
    } catch (const std::system_error&) {
        // the system has no more threads: those that started, and this one, do all of it
    }
    Queue::drain(queue);
    for (auto& helper : helpers) helper.join();
}

}  // namespace

void parallel_for(int64_t tasks, int32_t threads, void (*body)(void*, int64_t), void* data) {
    threads = int32_t(std::min<int64_t>(threads, tasks));
    if (threads <= 1) {
        for (int64_t task = 0; task < tasks; ++task) body(data, task);
        return;
    }
    Queue queue;
    queue.tasks = tasks;
    queue.body = body;
    queue.data = data;
    if (auto parallel = gomp_parallel.load(std::memory_order_acquire)) {
        parallel(Queue::drain, &queue, unsigned(threads), 0);
    } else {
        drain_with_std_threads(&queue, threads);
    }
}

}  // namespace rebnn

extern "C" void rebnn_set_parallel(rebnn_gomp_parallel parallel) {
    rebnn::gomp_parallel.store(parallel, std::memory_order_release);
}
