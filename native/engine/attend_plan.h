// How attention is shared among threads: which queries, which keys, in which order.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "engine/call.h"
#include "kernels/kernels.h"

namespace pintpot {

struct AttendShape {
    int32_t heads, kv_heads, head_dim, window;
};

// A piece of work for each key head: query tokens [first, first + tokens) of a run, and segments [segment, stop) of their keys.
struct AttendTask {
    int32_t run, first, tokens, segment, stop;
    int32_t num_segments;  // that their keys have; of these a task that is not split has all
    int64_t partials;      // where the partial results of a split begin, in floats
    int32_t split, pieces; // its number, or -1; tasks of each key head
    int64_t num_keys;      // about, for the order
};

// Queries go in blocks. Where blocks and key heads would leave threads idle, the keys of the longest blocks are split as
// well; their partial results lie in scratch memory of a fixed size until the last of them is done. No cut changes a bit.
class AttendPlan {
  public:
    AttendPlan(const AttendShape& shape, const Bounds& bounds, int threads);
    static size_t scratch_bytes(const AttendShape& shape, const Bounds& bounds, int threads);

    void cut(const std::vector<Run>& runs);
    // Every task, for all key heads at once or for each of them.
    int64_t num_chunks() const { return int64_t(tasks_.size()) * chunks_of_task(); }
    const AttendTask& task_of(int64_t chunk) const { return tasks_[size_t(chunk / chunks_of_task())]; }
    // Whether a chunk is all that there is to do for its tokens.
    bool whole() const { return heads_together_; }
    // `call`: of the tokens of the chunk's task; its key head is filled in here.
    void work(const KernelTable& kernels, AttendCall call, int64_t chunk, float* partials);

  private:
    // Partial results that there is room for: tokens times segments, of all heads.
    static int64_t room(const AttendShape& shape, const Bounds& bounds, int threads);
    int64_t row_floats() const { return shape_.heads / shape_.kv_heads * partial_floats(shape_.head_dim); }
    int32_t chunks_of_task() const { return heads_together_ ? 1 : shape_.kv_heads; }
    bool busy_without_heads() const;
    int32_t tokens_of_block() const;
    void one_head(const KernelTable& kernels, const AttendCall& call, const AttendTask& task, float* partials);
    AttendTask block(const std::vector<Run>& runs, int32_t run, int32_t first, int32_t tokens) const;
    void add(AttendTask whole, int64_t most_segments);

    AttendShape shape_;
    int threads_;
    int64_t room_, taken_ = 0;
    int32_t num_splits_ = 0;
    bool heads_together_ = false;
    std::vector<AttendTask> blocks_, tasks_;
    std::unique_ptr<std::atomic<int32_t>[]> unfinished_;  // tasks of each split and key head
};

}  // namespace pintpot
