#include "engine/attend_plan.h"

#include <algorithm>

#include "engine/op.h"

namespace pintpot {

namespace {

constexpr int32_t kBlockRows = 256;       // queries times heads that share what they read of the cache
constexpr int64_t kTasksOfThread = 6;    // about, where keys are split
constexpr int32_t kHeadsOfThread = 4;    // that keep threads evenly busy without a split
constexpr size_t kBlocksOfThread = 8;    // likewise with all their heads

}  // namespace

int64_t AttendPlan::room(const AttendShape& shape, const Bounds& bounds, int threads) {
    int64_t segments = num_segments(bounds.context);
    if (threads == 1 || segments == 1 || shape.kv_heads >= kHeadsOfThread * threads) return 0;
    return std::min(bounds.tokens, kFewTokens) * segments;
}

size_t AttendPlan::scratch_bytes(const AttendShape& shape, const Bounds& bounds, int threads) {
    return size_t(room(shape, bounds, threads) * shape.heads * partial_floats(shape.head_dim)) * sizeof(float);
}

AttendPlan::AttendPlan(const AttendShape& shape, const Bounds& bounds, int threads)
    : shape_(shape), threads_(threads), room_(room(shape, bounds, threads)) {
    size_t most = size_t(bounds.tokens);
    blocks_.reserve(most);
    tasks_.reserve(most + size_t(room_));
    // A split has two segments or more.
    unfinished_.reset(new std::atomic<int32_t>[size_t((room_ / 2 + 1) * shape_.kv_heads)]());
}

AttendTask AttendPlan::block(const std::vector<Run>& runs, int32_t run, int32_t first, int32_t tokens) const {
    int32_t stop = runs[size_t(run)].first_position + first + tokens;
    int32_t segments = int32_t(num_segments(stop));
    int64_t keys = shape_.window == 0 ? stop : std::min(stop, shape_.window + tokens);
    return {run, first, tokens, 0, segments, segments, 0, -1, 1, keys * tokens};
}

// Whole pages, where there are some: then rows of the products come in whole panels.
int32_t AttendPlan::tokens_of_block() const {
    int32_t most = std::max(1, kBlockRows * shape_.kv_heads / shape_.heads), page = int32_t(kPageTokens);
    return most > page ? most / page * page : most;
}

void AttendPlan::cut(const std::vector<Run>& runs) {
    blocks_.clear(), tasks_.clear();
    taken_ = 0, num_splits_ = 0;
    int32_t most = tokens_of_block();
    int64_t segments = 0;
    for (size_t run = 0; run < runs.size(); ++run)
        for (int32_t first = 0; first < runs[run].num_tokens; first += most) {
            blocks_.push_back(block(runs, int32_t(run), first, std::min(most, runs[run].num_tokens - first)));
            segments += blocks_.back().num_segments * shape_.kv_heads;
        }
    auto longer = [](const AttendTask& a, const AttendTask& b) { return a.num_keys > b.num_keys; };
    std::sort(blocks_.begin(), blocks_.end(), longer);
    int64_t share = kTasksOfThread * threads_;
    for (const AttendTask& whole : blocks_) add(whole, std::max<int64_t>(1, (segments + share - 1) / share));
    if (num_splits_ > 0) std::sort(tasks_.begin(), tasks_.end(), longer);
    heads_together_ = num_splits_ == 0 && busy_without_heads();
}

// The heads of a page lie side by side, so whoever reads one had better read them all.
bool AttendPlan::busy_without_heads() const {
    size_t threads = size_t(threads_);
    bool even = tasks_.size() % threads == 0 && tasks_.front().num_keys <= tasks_.back().num_keys * 9 / 8;
    return even || tasks_.size() >= kBlocksOfThread * threads;
}

void AttendPlan::add(AttendTask whole, int64_t most_segments) {
    int64_t wanted = int64_t(whole.tokens) * whole.num_segments;
    if (whole.num_segments <= most_segments || taken_ + wanted > room_) {
        tasks_.push_back(whole);
        return;
    }
    int32_t pieces = int32_t((whole.num_segments + most_segments - 1) / most_segments);
    int64_t keys = whole.num_keys / whole.tokens;
    AttendTask piece = whole;
    piece.partials = taken_ * shape_.kv_heads * row_floats();
    piece.split = num_splits_, piece.pieces = pieces;
    for (int64_t i = 0; i < pieces; ++i) {
        piece.segment = int32_t(i * whole.num_segments / pieces);
        piece.stop = int32_t((i + 1) * whole.num_segments / pieces);
        piece.num_keys = (std::min(keys, piece.stop * kSegmentTokens) - piece.segment * kSegmentTokens) * whole.tokens;
        tasks_.push_back(piece);
    }
    for (int32_t head = 0; head < shape_.kv_heads; ++head)
        unfinished_[size_t(num_splits_ * shape_.kv_heads + head)].store(pieces, std::memory_order_relaxed);
    taken_ += wanted;
    ++num_splits_;
}

void AttendPlan::work(const KernelTable& kernels, AttendCall call, int64_t chunk, float* partials) {
    const AttendTask& task = task_of(chunk);
    call.kv_head = heads_together_ ? 0 : int32_t(chunk % shape_.kv_heads);
    const int32_t stop = heads_together_ ? shape_.kv_heads : call.kv_head + 1;
    for (; call.kv_head < stop; ++call.kv_head) one_head(kernels, call, task, partials);
}

void AttendPlan::one_head(const KernelTable& kernels, const AttendCall& call, const AttendTask& task, float* partials) {
    if (task.split < 0) {
        kernels.attend(&call);
        return;
    }
    float* mine = partials + task.partials + call.kv_head * task.num_segments * task.tokens * row_floats();
    kernels.attend_segments(&call, task.segment, task.stop, mine);
    std::atomic<int32_t>& left = unfinished_[size_t(task.split * shape_.kv_heads + call.kv_head)];
    if (left.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    kernels.attend_merge(&call, mine, task.num_segments);
    left.store(task.pieces, std::memory_order_relaxed);  // for whoever does the same tasks again
}

}  // namespace pintpot
