#include "engine/pool.h"

#include <algorithm>
#include <pthread.h>
#include <sched.h>

#include "engine/errors.h"
#include "engine/futex.h"
#include "engine/thread.h"

namespace pintpot {

namespace {

// About 20 microseconds of pauses: a phase of a small layer is shorter, and being woken costs more than that.
constexpr int kMostSpins = 600;
constexpr int kFewestSpins = 20;
constexpr int kMostThreads = 1024;

int allowed_cpus() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return kMostThreads;
    return CPU_COUNT(&set);
}

void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

}  // namespace

Pool::Pool(int threads, const std::vector<int>& cpus) : num_threads_(threads), spins_(size_t(std::max(threads, 1))) {
    need(threads >= 1 && threads <= kMostThreads, text("a pool of %d threads; 1 to %d will do", threads, kMostThreads));
    need(cpus.empty() || int(cpus.size()) == threads, text("%zu cpus for %d threads", cpus.size(), threads));
    for (int cpu : cpus) need(cpu >= 0 && cpu < CPU_SETSIZE, text("there is no cpu %d", cpu));
    // More threads than cores: looking at the barrier only keeps the others from reaching it.
    max_spins_ = threads <= allowed_cpus() ? kMostSpins : 0;
    for (Spin& spin : spins_) spin.budget = max_spins_;
    for (int thread = 1; thread < threads; ++thread) {
        int cpu = cpus.empty() ? -1 : cpus[size_t(thread)];
        threads_.push_back(quiet_thread([this, thread, cpu] {
            if (cpu >= 0) pin_to(cpu);
            worker(thread);
        }));
    }
}

Pool::~Pool() {
    closing_.store(true);
    job_.fetch_add(1);
    futex_wake_all(job_);
    for (std::thread& thread : threads_) thread.join();
}

void Pool::run(const std::function<void(int)>& body, const std::function<void()>* between_chunks) {
    std::lock_guard<std::mutex> only(one_caller_);
    stop_.store(false);
    go_on_ = true;
    next_.store(0);
    error_ = nullptr;
    body_ = &body;
    between_chunks_ = between_chunks;
    if (num_threads_ > 1) {
        job_.fetch_add(1);
        futex_wake_all(job_);
    }
    body(0);
    if (num_threads_ > 1) barrier(0);
    body_ = nullptr;
    if (error_ != nullptr) std::rethrow_exception(error_);
}

void Pool::worker(int thread) noexcept {
    uint32_t seen = 0;
    for (;;) {
        uint32_t job = job_.load();
        if (job == seen) {
            futex_wait(job_, seen);
            continue;
        }
        seen = job;
        if (closing_.load()) return;
        (*body_)(thread);
        barrier(thread);
    }
}

bool Pool::barrier(int thread, const std::function<void()>& finish) {
    uint32_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
        if (finish != nullptr && !stopping()) {
            try {
                finish();
            } catch (...) {
                fail(std::current_exception());
            }
        }
        arrived_.store(0, std::memory_order_relaxed);
        next_.store(0, std::memory_order_relaxed);
        go_on_ = !stop_.load(std::memory_order_relaxed);
        generation_.store(generation + 1);
        if (sleepers_.load() > 0) futex_wake_all(generation_);
        return go_on_;
    }
    int& budget = spins_[size_t(thread)].budget;
    for (int i = 0; i < budget; ++i) {
        pause();
        if (generation_.load(std::memory_order_acquire) != generation) {
            budget = std::min(budget + kFewestSpins, max_spins_);
            return go_on_;
        }
    }
    budget = std::min(std::max(budget / 2, kFewestSpins), max_spins_);
    sleepers_.fetch_add(1);
    while (generation_.load() == generation) futex_wait(generation_, generation);
    sleepers_.fetch_sub(1);
    return go_on_;
}

void Pool::fail(std::exception_ptr error) {
    std::lock_guard<std::mutex> lock(error_mutex_);
    if (error_ == nullptr) error_ = error;
    stop();
}

}  // namespace pintpot
