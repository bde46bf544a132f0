#include "engine/attend.h"

#include <algorithm>

#include "engine/errors.h"

namespace pintpot {

namespace {

constexpr int32_t kTokensOfChunk = 4;

int64_t page_bytes(const CacheView& cache) {
    int64_t values = kPageTokens * cache.head_dim;
    return cache.format == kCacheF32 ? values * 4 : cache.format == kCacheF16 ? values * 2 : values + values / 32 * 2;
}

}  // namespace

Attend::Attend(const AttendRecord& record) : record_(record) {
    const RopeCall& rope = record_.rope;
    need(rope.cache.kv_heads > 0 && rope.heads > 0 && rope.heads % rope.cache.kv_heads == 0,
         text("%d heads do not divide among %d key heads", rope.heads, rope.cache.kv_heads));
    need(rope.cache.head_dim > 0 && rope.cache.head_dim % 32 == 0 && rope.cache.head_dim <= kMaxHeadDim,
         text("heads of %d columns; multiples of 32 up to %d will do", rope.cache.head_dim, int(kMaxHeadDim)));
    need(rope.rope_dim >= 0 && rope.rope_dim % 2 == 0 && rope.rope_dim <= rope.cache.head_dim,
         text("%d rotated columns of %d", rope.rope_dim, rope.cache.head_dim));
    need(rope.cache.format >= kCacheF16 && rope.cache.format <= kCacheF32, "a cache of no known format");
    need(record_.window >= 0 && record_.sinks >= 0 && record_.num_pages > 0, "a window, sinks or pages below 0");
}

AttendShape Attend::shape() const {
    const CacheView& cache = record_.rope.cache;
    return {record_.rope.heads, cache.kv_heads, cache.head_dim, record_.window};
}

ScratchNeed Attend::scratch(const Bounds& bounds, int threads) const {
    ScratchNeed need;
    need.shared = AttendPlan::scratch_bytes(shape(), bounds, threads);
    return need;
}

void Attend::bind(const Memory& memory, const Bounds& bounds, Ring*, int threads) {
    const RopeCall& rope = record_.rope;
    auto floats = [&](const float* address, int64_t number, const char* what) {
        memory.check(address, number * int64_t(sizeof(float)), sizeof(float), what);
    };
    int64_t head_dim = rope.cache.head_dim;
    floats(record_.qkv, bounds.tokens * (rope.heads + 2 * rope.cache.kv_heads) * head_dim, "the input of an attend");
    floats(record_.out, int64_t(bounds.tokens) * rope.heads * head_dim, "the output of an attend");
    if (rope.rope_dim > 0) floats(record_.table, int64_t(bounds.context) * rope.rope_dim, "the rotary table");
    need(record_.num_given >= 0 && record_.num_given <= kMostGiven, "fewer than 0 or too many angles given");
    if (record_.num_given > 0) floats(record_.given, record_.num_given * rope.rope_dim, "the angles given");
    if (rope.q_norm != nullptr) floats(rope.q_norm, head_dim, "a norm of queries");
    if (rope.k_norm != nullptr) floats(rope.k_norm, head_dim, "a norm of keys");
    int64_t bytes = int64_t(record_.num_pages) * rope.cache.kv_heads * page_bytes(rope.cache);
    memory.check(rope.cache.k, bytes, 4, "the cache of keys");
    memory.check(rope.cache.v, bytes, 4, "the cache of values");
    stores_.reserve(size_t(bounds.tokens));
    plan_ = std::make_unique<AttendPlan>(shape(), bounds, threads);
}

void Attend::store(Context& context, int32_t token) const {
    const Call& call = *context.call;
    size_t i = size_t(token);
    float* qkv = record_.qkv + int64_t(token) * (record_.rope.heads + 2 * record_.rope.cache.kv_heads) * record_.rope.cache.head_dim;
    int64_t turn = call.turns[i], dim = record_.rope.rope_dim;
    const float* angles = turn < 0 ? record_.given + ~turn * dim : record_.table + turn * dim;
    context.kernels->rope_store(&record_.rope, angles, qkv, call.positions[i], call.pages_of(call.sequence[i]), qkv);
}

int64_t Attend::begin(Context& context, int phase) {
    const Call& call = *context.call;
    if (phase == 1) return plan_->num_chunks();
    plan_->cut(call.runs);
    // Then who attends for a sequence stores its token: nobody else reads it or writes to its page.
    stores_with_work_ = plan_->whole() && size_t(call.num_tokens) == call.runs.size();
    if (stores_with_work_) return 0;
    if (call.num_tokens > kFewTokens) {
        plan_stores(call);
        return int64_t(stores_.size());
    }
    for (int32_t token = 0; token < call.num_tokens; ++token) store(context, token);
    return 0;
}

// Keys of one page share cache lines, so no two threads store into the same page.
void Attend::plan_stores(const Call& call) {
    stores_.clear();
    for (const Run& run : call.runs)
        for (int32_t first = 0; first < run.num_tokens;) {
            int32_t left = int32_t(kPageTokens) - (run.first_position + first) % int32_t(kPageTokens);
            int32_t stop = std::min(run.num_tokens, first + left), begin = run.first_token + first;
            bool joins = !stores_.empty() && stores_.back().stop - stores_.back().first < kTokensOfChunk;
            if (joins) stores_.back().stop = run.first_token + stop;
            else stores_.push_back({begin, run.first_token + stop});
            first = stop;
        }
}

void Attend::work(Context& context, int phase, int64_t chunk, int) {
    if (phase == 1) {
        const AttendTask& task = plan_->task_of(chunk);
        if (stores_with_work_) store(context, context.call->runs[size_t(task.run)].first_token);
        plan_->work(*context.kernels, call_of(context, task), chunk, reinterpret_cast<float*>(context.shared));
        return;
    }
    const Stores& mine = stores_[size_t(chunk)];
    for (int32_t token = mine.first; token < mine.stop; ++token) store(context, token);
}

AttendCall Attend::call_of(const Context& context, const AttendTask& task) const {
    const RopeCall& rope = record_.rope;
    const Run& run = context.call->runs[size_t(task.run)];
    int64_t head_dim = rope.cache.head_dim, first = run.first_token + task.first;
    AttendCall call{};
    call.cache = rope.cache;
    call.heads = rope.heads;
    call.scale = record_.scale;
    call.window = record_.window;
    call.sinks = record_.sinks;
    call.rounded = record_.rounded;
    call.num_tokens = task.tokens;
    call.first_position = run.first_position + task.first;
    call.pages = context.call->pages_of(run.sequence);
    call.q_stride = (rope.heads + 2 * rope.cache.kv_heads) * head_dim;
    call.out_stride = rope.heads * head_dim;
    call.q = record_.qkv + first * call.q_stride;
    call.out = record_.out + first * call.out_stride;
    return call;
}

}  // namespace pintpot
