#include "engine/attend.h"

#include <algorithm>

#include "engine/errors.h"

namespace pintpot {

namespace {

constexpr int32_t kQueryBlock = 16;
constexpr int32_t kTokensOfChunk = 4;

int64_t page_bytes(const CacheView& cache) {
    int64_t values = kPageTokens * cache.head_dim;
    return cache.format == kCacheF32 ? values * 4 : cache.format == kCacheF16 ? values * 2 : values + values / 32 * 2;
}

int64_t num_segments(int64_t positions) { return (positions + kSegmentTokens - 1) / kSegmentTokens; }

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
    unfinished_.reset(new std::atomic<int32_t>[size_t(kFewTokens * rope.cache.kv_heads)]());
}

// Partial sums of the few tokens for which a long cache is shared among threads.
ScratchNeed Attend::scratch(const Bounds& bounds, int threads) const {
    ScratchNeed need;
    int64_t segments = num_segments(bounds.context);
    if (segments > 1 && may_split(threads))
        need.shared = size_t(std::min(bounds.tokens, kFewTokens)) * size_t(record_.rope.heads) *
                      size_t(record_.rope.cache.head_dim + 16) * size_t(segments) * sizeof(float);
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
    if (rope.rope_dim > 0) floats(rope.table, int64_t(bounds.context) * rope.rope_dim, "the rotary table");
    if (rope.q_norm != nullptr) floats(rope.q_norm, head_dim, "a norm of queries");
    if (rope.k_norm != nullptr) floats(rope.k_norm, head_dim, "a norm of keys");
    int64_t bytes = int64_t(record_.num_pages) * rope.cache.kv_heads * page_bytes(rope.cache);
    memory.check(rope.cache.k, bytes, 4, "the cache of keys");
    memory.check(rope.cache.v, bytes, 4, "the cache of values");
    threads_ = threads;
    tasks_.reserve(size_t(bounds.tokens) / kQueryBlock + size_t(bounds.sequences) +
                   size_t(kFewTokens * num_segments(bounds.context)));
}

void Attend::store(Context& context, int32_t token) const {
    const Call& call = *context.call;
    size_t i = size_t(token);
    float* qkv = record_.qkv + int64_t(token) * (record_.rope.heads + 2 * record_.rope.cache.kv_heads) * record_.rope.cache.head_dim;
    context.kernels->rope_store(&record_.rope, qkv, call.positions[i], call.pages_of(call.sequence[i]), qkv);
}

int64_t Attend::begin(Context& context, int phase) {
    const Call& call = *context.call;
    bool few = call.num_tokens <= kFewTokens;
    if (phase == 0 && !few) return (call.num_tokens + kTokensOfChunk - 1) / kTokensOfChunk;
    if (phase == 0) {
        for (int32_t token = 0; token < call.num_tokens; ++token) store(context, token);
        return 0;
    }
    tasks_.clear();
    few && may_split(threads_) ? plan_segments(call) : plan_blocks(call);
    return int64_t(tasks_.size()) * record_.rope.cache.kv_heads;
}

void Attend::plan_segments(const Call& call) {
    int64_t partials = 0;
    for (size_t i = 0; i < call.runs.size(); ++i) {
        const Run& run = call.runs[i];
        int32_t segments = int32_t(num_segments(int64_t(run.first_position) + run.num_tokens));
        for (int32_t head = 0; head < record_.rope.cache.kv_heads; ++head)
            unfinished_[i * size_t(record_.rope.cache.kv_heads) + size_t(head)].store(segments, std::memory_order_relaxed);
        for (int32_t segment = 0; segment < segments; ++segment)
            tasks_.push_back({int32_t(i), 0, run.num_tokens, segments == 1 ? -1 : segment, partials, segments});
        partials += int64_t(segments) * run.num_tokens * record_.rope.heads * (record_.rope.cache.head_dim + 16);
    }
}

// Blocks of queries, those that see the most keys first.
void Attend::plan_blocks(const Call& call) {
    for (size_t i = 0; i < call.runs.size(); ++i) {
        const Run& run = call.runs[i];
        for (int32_t first = (run.num_tokens - 1) / kQueryBlock * kQueryBlock; first >= 0; first -= kQueryBlock)
            tasks_.push_back({int32_t(i), first, std::min(kQueryBlock, run.num_tokens - first), -1, 0, 0});
    }
}

void Attend::work(Context& context, int phase, int64_t chunk, int) {
    if (phase == 1) {
        int64_t heads = record_.rope.cache.kv_heads;
        attend(context, tasks_[size_t(chunk / heads)], int32_t(chunk % heads));
        return;
    }
    int32_t first = int32_t(chunk) * kTokensOfChunk, stop = std::min(context.call->num_tokens, first + kTokensOfChunk);
    for (int32_t token = first; token < stop; ++token) store(context, token);
}

AttendCall Attend::call_of(const Context& context, const Task& task, int32_t kv_head) const {
    const RopeCall& rope = record_.rope;
    const Run& run = context.call->runs[size_t(task.run)];
    int64_t head_dim = rope.cache.head_dim, first = run.first_token + task.first;
    AttendCall call{};
    call.cache = rope.cache;
    call.heads = rope.heads;
    call.kv_head = kv_head;
    call.scale = record_.scale;
    call.window = record_.window;
    call.sinks = record_.sinks;
    call.num_tokens = task.tokens;
    call.first_position = run.first_position + task.first;
    call.pages = context.call->pages_of(run.sequence);
    call.q_stride = (rope.heads + 2 * rope.cache.kv_heads) * head_dim;
    call.out_stride = rope.heads * head_dim;
    call.q = record_.qkv + first * call.q_stride;
    call.out = record_.out + first * call.out_stride;
    return call;
}

void Attend::attend(Context& context, const Task& task, int32_t kv_head) {
    AttendCall call = call_of(context, task, kv_head);
    if (task.segment < 0) {
        context.kernels->attend(&call);
        return;
    }
    int64_t floats = int64_t(task.tokens) * group() * (record_.rope.cache.head_dim + 16);
    float* partials = reinterpret_cast<float*>(context.shared) + task.partials + kv_head * task.num_segments * floats;
    context.kernels->attend_segment(&call, task.segment, partials + task.segment * floats);
    std::atomic<int32_t>& left = unfinished_[size_t(task.run * record_.rope.cache.kv_heads + kv_head)];
    if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) context.kernels->attend_merge(&call, partials, task.num_segments);
}

}  // namespace pintpot
