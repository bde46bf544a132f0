// Nanoseconds: of the clock, of this thread's own computing, and of its sleep.
#pragma once

#include <cstdint>
#include <ctime>

namespace pintpot {

inline int64_t now_ns() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

inline int64_t own_cpu_ns() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

inline thread_local int64_t slept_ns = 0;

// Counts its lifetime as slept.
class Asleep {
  public:
    Asleep() : since_(now_ns()) {}
    ~Asleep() { slept_ns += now_ns() - since_; }
    Asleep(const Asleep&) = delete;
    Asleep& operator=(const Asleep&) = delete;

  private:
    int64_t since_;
};

}  // namespace pintpot
