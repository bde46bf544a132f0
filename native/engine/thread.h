// Threads that leave signals to the interpreter's own threads.
#pragma once

#include <csignal>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "engine/errors.h"

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

// Threads that are joined before they are forgotten, also where the system starts some of them and then no more.
class Crew {
  public:
    Crew() = default;
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;
    ~Crew() { join(); }

    // One more thread. Where there can be none, `stop` tells those before it to end, and SystemError says why.
    template <class Body, class Stop>
    void start(Body&& body, Stop&& stop) {
        threads_.emplace_back();
        try {
            threads_.back() = quiet_thread(std::forward<Body>(body));
        } catch (const std::system_error& error) {
            stop();
            join();
            int number = error.code().value();
            throw SystemError(number, text("cannot start a thread: %s", std::strerror(number)));
        }
    }

    void join() {
        for (std::thread& thread : threads_)
            if (thread.joinable()) thread.join();
        threads_.clear();
    }

  private:
    std::vector<std::thread> threads_;
};

}  // namespace pintpot
