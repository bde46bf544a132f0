#include "engine/pool.h"

#include <algorithm>
#include <pthread.h>
#include <sched.h>
#include <utility>

#include "engine/clock.h"
#include "engine/errors.h"
#include "engine/futex.h"
#include "engine/thread.h"

namespace pintpot {

namespace {

// About 400 microseconds of pauses, for parts of a prompt's ops end as much apart, and being woken costs 50 on a virtual
// machine; and about 3.
constexpr int kMostSpins = 16000;
constexpr int kFewestSpins = 100;
constexpr int kMostThreads = 1024;
// One part in so many of its time that a thread may be kept from running: readers of the disk take less.
constexpr int64_t kShared = 8;

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

Pool::Pool(int threads, const std::vector<int>& cpus, Fork fork)
    : num_threads_(threads), fork_(fork), spins_(size_t(std::max(threads, 1))) {
    need(threads >= 1 && threads <= kMostThreads, text("a pool of %d threads; 1 to %d will do", threads, kMostThreads));
    need(cpus.empty() || int(cpus.size()) == threads, text("%zu cpus for %d threads", cpus.size(), threads));
    need(cpus.empty() || fork == nullptr, "threads of others are not pinned");
    for (int cpu : cpus) need(cpu >= 0 && cpu < CPU_SETSIZE, text("there is no cpu %d", cpu));
    // More threads than cores: looking at the barrier only keeps the others from reaching it.
    max_spins_ = threads <= allowed_cpus() ? kMostSpins : 0;
    for (Spin& spin : spins_) spin.budget = max_spins_;
    for (int thread = 1; thread < threads && fork == nullptr; ++thread) {
        int cpu = cpus.empty() ? -1 : cpus[size_t(thread)];
        auto body = [this, thread, cpu] {
            if (cpu >= 0) pin_to(cpu);
            worker(thread);
        };
        crew_.start(body, [this] { dismiss(); });
    }
}

Pool::~Pool() {
    dismiss();
    crew_.join();
}

void Pool::dismiss() {
    closing_.store(true);
    ticket_.fetch_add(kOnePhase);
    futex_wake_all(upper_half(ticket_));
}

void Pool::run(Job& job) {
    std::lock_guard<std::recursive_mutex> turn(turn_);
    stop_.store(false);
    error_ = nullptr;
    job_ = &job;
    if (fork_ != nullptr && num_threads_ > 1) {
        run_on_lent();
    } else {
        begin_next(0);
        join_in(0);
    }
    job_ = nullptr;
    if (error_ != nullptr) std::rethrow_exception(error_);
}

void Pool::run(int64_t chunks, const std::function<void(int, int64_t)>& work) {
    struct OnePhase final : Job {
        OnePhase(int64_t chunks, const std::function<void(int, int64_t)>& work) : left(chunks), call(work) {}
        int64_t next() override { return std::exchange(left, 0); }
        void work(int thread, int64_t chunk) override { call(thread, chunk); }
        int64_t left;
        const std::function<void(int, int64_t)>& call;
    } job(chunks, work);
    run(job);
}

void Pool::join_in(int thread) {
    if (num_threads_ > 1) look_around(thread);
    for (;;) {
        Ticket ticket = take_part(thread);
        if (ticket.chunks() == 0) break;
        wait_beyond(ticket, thread);
    }
    if (num_threads_ > 1) judge_neighbours(thread);
}

// Threads that come late find the job ended, and leave.
void Pool::run_on_lent() {
    struct Lent {
        Pool& pool;
        std::thread::id caller;
        std::atomic<int> others;
    } lent{*this, std::this_thread::get_id(), 0};
    begin_next(0);
    auto join = [](void* data) {
        Lent& lent = *static_cast<Lent*>(data);
        lent.pool.join_in(std::this_thread::get_id() == lent.caller ? 0 : ++lent.others);
    };
    if (Ticket(ticket_.load()).chunks() > 0) fork_(join, &lent, unsigned(num_threads_), 0);
}

void Pool::worker(int thread) {
    look_around(thread);
    while (!closing_.load()) {
        Ticket ticket = take_part(thread);
        if (ticket.chunks() == 0) judge_neighbours(thread);
        wait_beyond(ticket, thread);
        if (ticket.chunks() == 0) look_around(thread);
    }
}

// At the beginning of a job.
void Pool::look_around(int thread) {
    Spin& spin = spins_[size_t(thread)];
    spin.since_ns = now_ns(), spin.cpu_ns = own_cpu_ns(), spin.slept_ns = slept_ns;
}

// At its end. A thread that wanted to run and often could not shares its processor: looking for the next phase then takes
// time from whoever has it, perhaps from the very thread that is waited for.
void Pool::judge_neighbours(int thread) {
    Spin& spin = spins_[size_t(thread)];
    int64_t awake = now_ns() - spin.since_ns - (slept_ns - spin.slept_ns), ran = own_cpu_ns() - spin.cpu_ns;
    bool shared = awake > 0 && (awake - ran) * kShared > awake;
    spin.budget = shared ? std::min(kFewestSpins, max_spins_) : max_spins_;
}

Pool::Ticket Pool::take_part(int thread) {
    for (;;) {
        Ticket ticket(ticket_.load(std::memory_order_acquire));
        if (!ticket.has_chunk()) return ticket;
        ticket = Ticket(ticket_.fetch_add(1, std::memory_order_acq_rel));
        if (!ticket.has_chunk()) return ticket;
        if (!stopping()) {
            try {
                job_->work(thread, ticket.next());
            } catch (...) {
                fail(std::current_exception());
            }
        }
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == ticket.chunks()) begin_next(thread);
    }
}

// By the only thread that is inside the job at this moment.
void Pool::begin_next(int thread) {
    int64_t chunks = 0;
    if (!stopping()) {
        try {
            chunks = job_->next();
            need(chunks >= 0 && chunks <= kMostChunks, text("a phase of %lld chunks", static_cast<long long>(chunks)));
        } catch (...) {
            fail(std::current_exception());
            chunks = 0;
        }
    }
    if (stopping()) chunks = 0;
    done_.store(0, std::memory_order_relaxed);
    uint64_t phase = ticket_.load(std::memory_order_relaxed) / kOnePhase;
    ticket_.store((phase + 1) * kOnePhase + (uint64_t(chunks) << 20));
    // A single chunk is for this thread; the end of a job matters only to the caller, and to threads that are lent for it.
    bool concerns_others = chunks == 0 ? thread != 0 || fork_ != nullptr : chunks > 1;
    if (concerns_others && sleepers_.load() > 0) futex_wake_all(upper_half(ticket_));
}

void Pool::wait_beyond(const Ticket& ticket, int thread) {
    int& budget = spins_[size_t(thread)].budget;
    auto unchanged = [&] { return Ticket(ticket_.load()).upper() == ticket.upper(); };
    if (ticket.chunks() > 0) {
        for (int i = 0; i < budget; ++i) {
            pause();
            if (!unchanged()) return;
        }
        budget = std::min(std::max(budget / 2, kFewestSpins), max_spins_);
    }
    Asleep asleep;
    sleepers_.fetch_add(1);
    while (unchanged() && !closing_.load()) futex_wait(upper_half(ticket_), ticket.upper());
    sleepers_.fetch_sub(1);
}

void Pool::fail(std::exception_ptr error) {
    std::lock_guard<std::mutex> lock(error_mutex_);
    if (error_ == nullptr) error_ = error;
    stop();
}

}  // namespace pintpot
