// The threads of a replay: they take chunks of one phase after another, and no thread waits for one that has none.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <vector>

#include "engine/thread.h"

namespace pintpot {

// Work in phases: all chunks of a phase are done before the next phase begins.
class Job {
  public:
    virtual ~Job() = default;
    // One thread alone, after the last chunk of a phase (and once before the first): how many chunks the next phase has,
    // 0 when the job is done.
    virtual int64_t next() = 0;
    virtual void work(int thread, int64_t chunk) = 0;
};

// Chunks are claimed from a counter; who finishes the last one of a phase begins the next. A phase therefore waits only
// for threads that hold a chunk: one that sleeps, or that the scheduler has put aside for somebody else's work, joins
// when it is back. A thread without a chunk looks for the next phase for a bounded time and then sleeps; between jobs
// it sleeps at once. On a machine that is shared it looks for a short time only.
class Pool {
  public:
    static constexpr int64_t kMostChunks = (int64_t(1) << 20) - 4096;

    // Runs fn(data) on so many threads of another library, the caller among them, and returns when all have (the form of
    // OpenMP's GOMP_parallel).
    using Fork = void (*)(void (*fn)(void*), void* data, unsigned threads, unsigned flags);

    // `cpus` pins thread i to cpus[i]; empty leaves them where the scheduler puts them. With `fork` the pool has no
    // threads of its own: two sets of threads that look for work take each other's processors.
    Pool(int threads, const std::vector<int>& cpus, Fork fork = nullptr);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return num_threads_; }

    // Held by whoever is at work with the threads and the memory behind them; run() takes it too.
    std::recursive_mutex& turn() { return turn_; }

    // Runs the job to its end; the caller is thread 0. The first exception of next() or work() ends it early and is
    // rethrown here.
    void run(Job& job);
    // Asks for an early end: chunks not yet begun are passed over.
    void stop() { stop_.store(true, std::memory_order_relaxed); }
    bool stopping() const { return stop_.load(std::memory_order_relaxed); }

    // One phase: work(thread, chunk) for each chunk.
    void run(int64_t chunks, const std::function<void(int, int64_t)>& work);

  private:
    void dismiss();
    // Phase number (24 bits), chunks of the phase (20), next chunk (20): one word, so that who claims a chunk knows whose
    // it is. The upper half stays as it is during a phase; sleepers wait for it to change.
    struct Ticket {
        explicit Ticket(uint64_t value) : word(value) {}
        uint64_t word;
        int64_t chunks() const { return int64_t(word >> 20 & 0xFFFFF); }
        int64_t next() const { return int64_t(word & 0xFFFFF); }
        bool has_chunk() const { return next() < chunks(); }
        uint32_t upper() const { return uint32_t(word >> 32); }
    };
    static constexpr uint64_t kOnePhase = uint64_t(1) << 40;

    void worker(int thread);
    // Takes part in the job to its end.
    void join_in(int thread);
    void run_on_lent();
    // Takes part until `ticket` has no chunk to give; returns it.
    Ticket take_part(int thread);
    void begin_next(int thread);
    void look_around(int thread);
    void judge_neighbours(int thread);
    void wait_beyond(const Ticket& ticket, int thread);
    void fail(std::exception_ptr error);

    struct alignas(64) Spin {
        int budget = 0;
        int64_t since_ns = 0, cpu_ns = 0, slept_ns = 0;
    };

    const int num_threads_;
    const Fork fork_;
    int max_spins_;
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int64_t> done_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    alignas(64) std::atomic<bool> stop_{false};
    std::atomic<bool> closing_{false};
    Job* job_ = nullptr;
    std::recursive_mutex turn_;
    std::mutex error_mutex_;
    std::exception_ptr error_;
    std::vector<Spin> spins_;
    Crew crew_;
};

}  // namespace pintpot
