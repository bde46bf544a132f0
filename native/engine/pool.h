// The threads of a replay: all run the same body in lockstep, phase by phase, with chunks claimed from a counter.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace pintpot {

// A pool runs one body at a time on all its threads; the caller is thread 0. Inside the body `phase` hands out chunks
// and ends in a barrier. A waiting thread looks at the barrier's word for a bounded time and then sleeps; between
// bodies it sleeps at once. When looking does not pay (the machine is shared), the time it looks shrinks.
class Pool {
  public:
    // `cpus` pins thread i to cpus[i]; empty leaves them where the scheduler puts them.
    Pool(int threads, const std::vector<int>& cpus);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return num_threads_; }

    // Runs body(thread) on every thread and returns when all have ended. The body throws only inside `phase` (a thread
    // that left alone would keep the others waiting); the first exception is rethrown here.
    // `between_chunks` is called by the caller's own thread whenever it claims a chunk.
    void run(const std::function<void(int)>& body, const std::function<void()>* between_chunks = nullptr);

    // Claims chunks 0..num_chunks-1, calls work(chunk) for each, then waits for the others. Every thread of the body
    // calls it, in the same order with the same number. False, on all threads alike, once stop() was called.
    // `finish` is called by the thread that came last, before any of them goes on.
    template <class Work>
    bool phase(int thread, int64_t num_chunks, Work&& work, const std::function<void()>& finish = nullptr) {
        while (!stop_.load(std::memory_order_relaxed)) {
            if (thread == 0 && between_chunks_ != nullptr) (*between_chunks_)();
            int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed);
            if (chunk >= num_chunks) break;
            try {
                work(chunk);
            } catch (...) {
                fail(std::current_exception());
            }
        }
        return barrier(thread, finish);
    }

    // Waits for all threads; resets the chunk counter. Returns whether to go on.
    bool barrier(int thread, const std::function<void()>& finish = nullptr);

    // Asks all threads to leave at the next barrier.
    void stop() { stop_.store(true, std::memory_order_relaxed); }
    bool stopping() const { return stop_.load(std::memory_order_relaxed); }
    void fail(std::exception_ptr error);

  private:
    void worker(int thread) noexcept;

    struct alignas(64) Spin {
        int budget;
    };

    const int num_threads_;
    int max_spins_;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> go_on_{true};
    alignas(64) std::atomic<bool> stop_{false};
    alignas(64) std::atomic<uint32_t> job_{0};
    std::atomic<bool> closing_{false};
    const std::function<void(int)>* body_ = nullptr;
    const std::function<void()>* between_chunks_ = nullptr;
    std::mutex one_caller_;
    std::mutex error_mutex_;
    std::exception_ptr error_;
    std::vector<Spin> spins_;
    std::vector<std::thread> threads_;
};

}  // namespace pintpot
