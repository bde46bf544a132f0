// attend: rotates and stores the new keys and values, then attends over the pages of the cache.
#pragma once

#include <memory>
#include <vector>

#include "engine/op.h"

namespace pintpot {

struct AttendRecord {
    float* qkv;  // [tokens][(heads + 2 kv_heads) * head_dim]; the queries are rotated in place
    float* out;  // [tokens][heads * head_dim]
    RopeCall rope;
    float scale;
    int32_t num_pages;  // of the cache
    int32_t window, sinks;
};

class Attend final : public Op {
  public:
    explicit Attend(const AttendRecord& record);
    const char* kind() const override { return "attend"; }
    ScratchNeed scratch(const Bounds& bounds, int threads) const override;
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int num_phases() const override { return 2; }
    int64_t begin(Context& context, int phase) override;
    void work(Context& context, int phase, int64_t chunk, int thread) override;
    Visible visible() const { return {record_.window, record_.sinks, record_.num_pages}; }

  private:
    // A piece of work: query tokens [first, first + tokens) of a run, and one segment of the keys or (-1) all of them.
    struct Task {
        int32_t run, first, tokens, segment;
        int64_t partials;  // where the partial sums of its run begin, in floats
        int32_t num_segments;
    };

    int32_t group() const { return record_.rope.heads / record_.rope.cache.kv_heads; }
    bool may_split(int threads) const { return threads > 1 && record_.rope.cache.kv_heads < 3 * threads; }
    void store(Context& context, int32_t token) const;
    void plan_segments(const Call& call);
    void plan_blocks(const Call& call);
    AttendCall call_of(const Context& context, const Task& task, int32_t kv_head) const;
    void attend(Context& context, const Task& task, int32_t kv_head);

    AttendRecord record_;
    std::vector<Task> tasks_;
    std::unique_ptr<std::atomic<int32_t>[]> unfinished_;  // segments of each run (at most kFewTokens) and kv head
    int threads_ = 1;
};

}  // namespace pintpot
