// Threads that leave signals to the interpreter's own threads.
#pragma once

#include <csignal>
#include <thread>
#include <utility>

namespace pintpot {

template <class Body>
std::thread quiet_thread(Body&& body) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    struct Restore {
        const sigset_t& mask;
        ~Restore() { pthread_sigmask(SIG_SETMASK, &mask, nullptr); }
    } restore{before};
    return std::thread(std::forward<Body>(body));
}

}  // namespace pintpot
