// What every op of a replay offers, and what it may use while it runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/call.h"
#include "engine/pool.h"
#include "engine/ring.h"
#include "kernels/kernels.h"

namespace pintpot {

// Up to this many tokens the part of an op that comes before its product is done by the thread that begins the phase;
// from there on it is a phase of its own.
constexpr int32_t kFewTokens = 4;

struct ScratchNeed {
    size_t shared = 0;      // bytes that all threads of an op use together
    size_t per_thread = 0;  // bytes of each thread's own
};

// Everything an op may touch during one replay.
struct Context {
    const KernelTable* kernels = nullptr;
    Pool* pool = nullptr;
    Ring* ring = nullptr;
    Call* call = nullptr;
    uint8_t* shared = nullptr;
    uint8_t* per_thread = nullptr;
    size_t per_thread_bytes = 0;
    std::vector<std::atomic<int32_t>>* strips_left = nullptr;  // of each ring position, in this pass
    Ring::KeepWaiting keep_waiting;                            // for the caller's thread
    Ring::KeepWaiting keep_waiting_apart;                      // for the others

    uint8_t* scratch_of(int thread) const { return per_thread + size_t(thread) * per_thread_bytes; }
    const Ring::KeepWaiting& patience_of(int thread) const { return thread == 0 ? keep_waiting : keep_waiting_apart; }
};

// Where addresses may point: the check of a record's addresses, at binding time.
class Memory {
  public:
    virtual ~Memory() = default;
    // Throws std::invalid_argument unless [address, address + bytes) is ours and aligned.
    virtual void check(const void* address, int64_t bytes, size_t alignment, const char* what) const = 0;
};

class Op {
  public:
    virtual ~Op() = default;
    virtual const char* kind() const = 0;
    virtual ScratchNeed scratch(const Bounds&, int threads) const { return threads > 0 ? ScratchNeed() : ScratchNeed(); }
    // Checks the record against what it is bound to. Throws std::invalid_argument.
    virtual void bind(const Memory&, const Bounds&, Ring*, int threads) { (void)threads; }

    virtual int num_phases() const { return 1; }
    // One thread alone, after everything before is done: prepares a phase, or does what is too little to share, and
    // says how many chunks are left for `work`.
    virtual int64_t begin(Context&, int phase) = 0;
    virtual void work(Context&, int phase, int64_t chunk, int thread) { (void)phase, (void)chunk, (void)thread; }
};

inline size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace pintpot
