// attend: rotates and stores the new keys and values, then attends over the pages of the cache.
#pragma once

#include <memory>
#include <vector>

#include "engine/attend_plan.h"
#include "engine/op.h"

namespace pintpot {

struct AttendRecord {
    float* qkv;  // [tokens][(heads + 2 kv_heads) * head_dim]; the queries are rotated in place
    float* out;  // [tokens][heads * head_dim]
    RopeCall rope;
    const float* table;  // [context][rope_dim]: rope_dim/2 cosines, then sines
    const float* given;  // the same, for turns that are no position
    int64_t num_given;
    float scale;
    int32_t num_pages;  // of the cache
    int32_t window, sinks;
    int32_t rounded;  // products (kernels.h, `Rounded`)
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
    int64_t num_given() const { return record_.num_given; }
    Visible visible() const { return {record_.window, record_.sinks, record_.num_pages}; }

  private:
    // Tokens [first, stop) whose keys and values one thread stores.
    struct Stores {
        int32_t first, stop;
    };

    AttendShape shape() const;
    void store(Context& context, int32_t token) const;
    void plan_stores(const Call& call);
    AttendCall call_of(const Context& context, const AttendTask& task) const;

    AttendRecord record_;
    std::vector<Stores> stores_;
    bool stores_with_work_ = false;
    std::unique_ptr<AttendPlan> plan_;
};

}  // namespace pintpot
