#include "engine/replay.h"

#include <algorithm>
#include <tuple>

#include "engine/clock.h"
#include "engine/errors.h"

namespace pintpot {

namespace {

constexpr int64_t kPollNs = 20 * 1000 * 1000;
constexpr int kLooksPerClock = 16;

}  // namespace

ScratchNeed OpList::need(int threads) const {
    ScratchNeed total;
    for (const auto& op : ops) {
        ScratchNeed one = op->scratch(bounds, threads);
        total.shared = std::max(total.shared, one.shared);
        total.per_thread = std::max(total.per_thread, one.per_thread);
    }
    return {round_up(total.shared, kBlock), round_up(total.per_thread, kBlock)};
}

size_t OpList::scratch_bytes(int threads) const {
    ScratchNeed total = need(threads);
    return total.shared + size_t(threads) * total.per_thread;
}

Replay::Replay(std::unique_ptr<OpList> list, const KernelTable& kernels, Pool& pool, Ring* ring, const Memory& memory,
               uint8_t* scratch, size_t scratch_bytes, const CancelFlag& cancel)
    : list_(std::move(list)), pool_(pool), ring_(ring), cancel_(cancel), known_{INT32_MAX, INT32_MAX, INT32_MAX},
      strips_left_(ring == nullptr ? 0 : ring->order().size()) {
    context_.kernels = &kernels;
    context_.pool = &pool;
    context_.ring = ring;
    context_.strips_left = &strips_left_;
    context_.keep_waiting = [this] { return look_around(); };
    context_.keep_waiting_apart = [this] { return !pool_.stopping() && !given_up_.load(std::memory_order_relaxed); };
    bind(memory, scratch, scratch_bytes);
    link_routes();
    link_gates();
    count_strips();
    seconds_.assign(list_->ops.size(), 0.0);
}

void Replay::bind(const Memory& memory, uint8_t* scratch, size_t scratch_bytes) {
    ScratchNeed wanted = list_->need(pool_.size());
    size_t total = list_->scratch_bytes(pool_.size());
    need(scratch_bytes >= total, text("a scratch region of %zu bytes where %zu are needed", scratch_bytes, total));
    if (total > 0) memory.check(scratch, int64_t(total), kBlock, "the scratch region");
    context_.shared = scratch;
    context_.per_thread = scratch + wanted.shared;
    context_.per_thread_bytes = wanted.per_thread;
    for (const auto& op : list_->ops) {
        op->bind(memory, list_->bounds, ring_, pool_.size());
        if (auto* embed = dynamic_cast<Embed*>(op.get())) {
            known_.words = std::min(known_.words, embed->vocabulary());
            known_.rows = std::min(known_.rows, embed->num_given());
        }
        if (auto* give = dynamic_cast<Give*>(op.get())) known_.rows = std::min(known_.rows, give->num_given());
        if (auto* sample = dynamic_cast<Sample*>(op.get())) known_.words = std::min(known_.words, sample->vocabulary());
        if (auto* linear = dynamic_cast<Linear*>(op.get())) every_row_ = every_row_ || linear->wants_every_row();
        if (auto* attend = dynamic_cast<Attend*>(op.get())) {
            attends_.push_back(attend->visible());
            known_.angles = std::min(known_.angles, attend->num_given());
        }
    }
    std::sort(attends_.begin(), attends_.end(), [](const Visible& a, const Visible& b) {
        return std::tie(a.window, a.sinks, a.num_pages) < std::tie(b.window, b.sinks, b.num_pages);
    });
    attends_.erase(std::unique(attends_.begin(), attends_.end(),
                               [](const Visible& a, const Visible& b) {
                                   return a.window == b.window && a.sinks == b.sinks && a.num_pages == b.num_pages;
                               }),
                   attends_.end());
}

// A slot is released when its last strip was used, so ops must use slots in the order in which they come: otherwise one
// op would wait for a slot that only a later op makes room for.
void Replay::count_strips() {
    size_t positions = strips_left_.size();
    for (auto& strips : strips_) strips.assign(positions, 0);
    // What the pieces of a position belong to: one op's expert, or none of any.
    constexpr int64_t kNobody = -2, kEverybody = -1;
    std::vector<int64_t> owners(positions, kNobody);
    uint32_t latest = 0;
    for (size_t i = 0; i < list_->ops.size(); ++i) {
        auto* linear = dynamic_cast<Linear*>(list_->ops[i].get());
        auto* experts = dynamic_cast<Experts*>(list_->ops[i].get());
        if (linear == nullptr && experts == nullptr) continue;
        bool over_rows = linear != nullptr ? linear->over_rows() : experts->over_rows();
        uint32_t so_far = latest;
        for (const Weight& weight : linear != nullptr ? linear->weights() : experts->weights()) {
            for (const Piece& piece : weight.pieces) {
                streams_ = true;
                need(piece.position >= so_far, "the slots of the ring do not come in the order in which ops need them");
                latest = std::max(latest, piece.position);
                strips_[1][piece.position] += int32_t(piece.num_strips);
                if (!over_rows) strips_[0][piece.position] += int32_t(piece.num_strips);
                int64_t owner = experts == nullptr ? kEverybody : int64_t(i) * (int64_t(1) << 31) + weight.expert_of(piece);
                need(owners[piece.position] == kNobody || owners[piece.position] == owner, "a slot belongs to one expert of one op");
                owners[piece.position] = owner;
            }
        }
    }
    for (int i = 0; i < 2; ++i)
        for (size_t p = 0; p < positions; ++p)
            needs_[i].push_back(strips_[i][p] == 0 ? Ring::kSkipped : owners[p] == kEverybody ? Ring::kNeeded : Ring::kOpen);
    for (size_t p = 0; p < positions; ++p)
        if (owners[p] >= 0) ring_->open(uint32_t(p));
}

// Who chooses experts says so to all that go by it, before the first of them runs.
void Replay::link_routes() {
    for (size_t i = 0; i < list_->ops.size(); ++i) {
        auto* experts = dynamic_cast<Experts*>(list_->ops[i].get());
        if (experts == nullptr) continue;
        Route* route = nullptr;
        for (size_t j = 0; j < i; ++j) {
            auto* found = dynamic_cast<Route*>(list_->ops[j].get());
            if (found != nullptr && found->choice() == experts->choice()) route = found;
        }
        need(route != nullptr, "nobody has chosen the experts of an op");
        need(route->over_rows() == experts->over_rows(), "experts are chosen for the rows that meet them");
        route->feed(experts);
    }
}

void Replay::link_gates() {
    for (size_t i = 0; i + 1 < list_->ops.size(); ++i) {
        auto* first = dynamic_cast<Linear*>(list_->ops[i].get());
        auto* next = dynamic_cast<Linear*>(list_->ops[i + 1].get());
        if (first != nullptr && next != nullptr) first->gate_for(*next, pool_.size());
    }
}

void Replay::begin_pass(const Call& call, int first) {
    if (!streams_) return;
    if (first > 0) {
        need(in_pass_, "a replay that streams begins at its first op");
        need(with_rows_ == (call.num_rows > 0), "the parts of one pass agree on whether logits are wanted");
        return;
    }
    with_rows_ = call.num_rows > 0;
    ring_->begin_pass(needs_[with_rows_].data());
    for (size_t i = 0; i < strips_left_.size(); ++i) strips_left_[i].store(strips_[with_rows_][i], std::memory_order_relaxed);
    in_pass_ = true;
}

bool Replay::run(Call& call, int first, int stop, const std::function<bool()>& poll) {
    need(first >= 0 && first <= stop && stop <= num_ops(), text("ops %d to %d of %d", first, stop, num_ops()));
    const Bounds &have = call.bounds, &wanted = bounds();
    need(have.tokens <= wanted.tokens && have.rows <= wanted.rows && have.sequences <= wanted.sequences && have.context <= wanted.context,
         "the call has larger bounds than the replay");
    call.prepare(known_, attends_);
    if (every_row_) call.check_every_row();
    begin_pass(call, first);
    context_.call = &call;
    current_ = first, phase_ = -1, stop_ = stop;
    done_.store(0, std::memory_order_relaxed);
    given_up_.store(false);
    poll_ = &poll;
    last_poll_ns_ = op_start_ns_ = now_ns();
    ++calls_;
    try {
        pool_.run(*this);
    } catch (...) {
        if (in_pass_) ring_->end_pass(false);
        in_pass_ = false;
        throw;
    }
    bool whole = !given_up_.load();
    if (in_pass_ && (!whole || stop == num_ops())) {
        ring_->end_pass(whole);
        in_pass_ = false;
    }
    return whole;
}

// One thread alone: the next phase that has chunks, with everything before it that needs no other thread.
int64_t Replay::next() {
    while (current_ < stop_) {
        if (cancel_.set.load(std::memory_order_relaxed)) given_up_.store(true);
        if (given_up_.load(std::memory_order_relaxed)) return 0;
        Op& op = *list_->ops[size_t(current_)];
        if (++phase_ == op.num_phases()) {
            op_done();
            continue;
        }
        int64_t chunks = op.begin(context_, phase_);
        if (chunks > 0) return chunks;
    }
    return 0;
}

void Replay::work(int thread, int64_t chunk) {
    if (thread == 0 && ++looks_ % kLooksPerClock == 0 && !look_around()) return;
    list_->ops[size_t(current_)]->work(context_, phase_, chunk, thread);
}

void Replay::op_done() {
    if (profiling_) {
        int64_t now = now_ns();
        seconds_[size_t(current_)] += double(now - op_start_ns_) * 1e-9;
        op_start_ns_ = now;
    }
    ++current_;
    phase_ = -1;
    done_.fetch_add(1, std::memory_order_relaxed);
}

// The caller's thread alone, since only it may ask the interpreter. False: leave.
bool Replay::look_around() {
    int64_t now = now_ns();
    bool leave = cancel_.set.load(std::memory_order_relaxed);
    if (now - last_poll_ns_ >= kPollNs) {
        last_poll_ns_ = now;
        if (poll_ != nullptr && *poll_ && !(*poll_)()) leave = true;
    }
    if (leave) {
        given_up_.store(true);
        pool_.stop();
    }
    return !leave && !pool_.stopping();
}

void Replay::profile(bool on) {
    profiling_ = on;
    std::fill(seconds_.begin(), seconds_.end(), 0.0);
    calls_ = 0;
}

}  // namespace pintpot
