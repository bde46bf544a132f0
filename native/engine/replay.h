// A recorded program bound to memory: a range of its ops in one call.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/attend.h"
#include "engine/linear.h"
#include "engine/route.h"
#include "engine/rows.h"

namespace pintpot {

// An op that is no work for the processor's threads (a fetch: the ring reads ahead by itself).
class Elsewhere final : public Op {
  public:
    const char* kind() const override { return "elsewhere"; }
    int64_t begin(Context&, int) override { return 0; }
};

// Ops in the order of the program, with the bounds they were recorded for.
struct OpList {
    Bounds bounds;
    std::vector<std::unique_ptr<Op>> ops;

    // What one replay needs beside its buffers, with this many threads: one region that all programs over the same
    // memory may share, since they run one after the other.
    size_t scratch_bytes(int threads) const;
    ScratchNeed need(int threads) const;
};

// Set from another thread or a signal handler; a replay that sees it leaves between two chunks.
struct CancelFlag {
    std::atomic<bool> set{false};
};

class Replay final : Job {
  public:
    // Checks every record. `scratch` holds scratch_bytes(pool.size()) bytes. Throws std::invalid_argument.
    Replay(std::unique_ptr<OpList> list, const KernelTable& kernels, Pool& pool, Ring* ring, const Memory& memory,
           uint8_t* scratch, size_t scratch_bytes, const CancelFlag& cancel);
    Replay(const Replay&) = delete;
    Replay& operator=(const Replay&) = delete;

    // Ops [first, stop). False when it was cancelled. `poll` is asked by the caller's thread every few milliseconds;
    // false cancels too. Op 0 begins a pass over the streamed slots, the last op ends it; when a call throws or is
    // cancelled, the next begins at op 0. Throws std::invalid_argument for a call that cannot be, and what the ring
    // throws.
    bool run(Call& call, int first, int stop, const std::function<bool()>& poll);

    const Bounds& bounds() const { return list_->bounds; }
    int num_ops() const { return int(list_->ops.size()); }
    const char* kind(int op) const { return list_->ops[size_t(op)]->kind(); }
    // Ops done in the call under way, or in the last one.
    int progress() const { return done_.load(std::memory_order_relaxed); }

    void profile(bool on);
    const std::vector<double>& seconds() const { return seconds_; }
    int64_t calls() const { return calls_; }

  private:
    void bind(const Memory& memory, uint8_t* scratch, size_t scratch_bytes);
    void count_strips();
    void link_routes();
    void link_gates();
    void begin_pass(const Call& call, int first);
    int64_t next() override;
    void work(int thread, int64_t chunk) override;
    void op_done();
    bool look_around();

    std::unique_ptr<OpList> list_;
    Pool& pool_;
    Ring* ring_;
    const CancelFlag& cancel_;
    Context context_;
    Known known_;
    std::vector<Visible> attends_;

    // Strips of each ring position that a pass uses, with logits and without; and what is left of them in this pass. Those
    // of experts are all used, once their position is found to be needed.
    std::vector<int32_t> strips_[2];
    std::vector<uint8_t> needs_[2];
    std::vector<std::atomic<int32_t>> strips_left_;
    bool streams_ = false, in_pass_ = false;
    bool with_rows_ = false, every_row_ = false;

    // The op and the phase under way; phase -1 before the first.
    int current_ = 0, phase_ = -1, stop_ = 0;
    std::atomic<int> done_{0};
    std::atomic<bool> given_up_{false};
    const std::function<bool()>* poll_ = nullptr;
    int64_t last_poll_ns_ = 0;
    int looks_ = 0;

    bool profiling_ = false;
    int64_t op_start_ns_ = 0;
    std::vector<double> seconds_;
    int64_t calls_ = 0;
};

}  // namespace pintpot
