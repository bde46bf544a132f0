// Sleeping and waking on half of a 64-bit word, and the pause between two looks at it.
#pragma once

#include <atomic>
#include <climits>
#include <cstdint>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pintpot {

static_assert(sizeof(std::atomic<uint64_t>) == 8, "a futex is one half of a 64-bit word");

// The upper half of a 64-bit word, as the kernel sees it.
inline uint32_t* upper_half(std::atomic<uint64_t>& word) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "written for little-endian machines");
    return reinterpret_cast<uint32_t*>(&word) + 1;
}

// Sleeps while *word is `expected`; may wake without a reason.
inline void futex_wait(uint32_t* word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

inline void futex_wake_all(uint32_t* word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield" ::: "memory");
#endif
}

}  // namespace pintpot
