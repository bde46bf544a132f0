#include "engine/experts.h"

#include <algorithm>

#include "engine/errors.h"

namespace pintpot {

namespace {

bool is_float(int32_t format) { return format == kF32 || format == kF16 || format == kBF16; }

}  // namespace

Experts::Experts(ExpertsRecord record, const KernelTable& kernels)
    : record_(std::move(record)), pairs_(record_.experts, record_.chosen) {
    need(!record_.weights.empty(), "experts without a weight");
    need(record_.experts > 0 && record_.chosen > 0 && record_.chosen <= record_.experts, "a token meets some of the experts");
    need(record_.planes >= 0 && record_.planes <= kBrainRows, "int8 activations have one plane or two, or are bfloat16");
    bool whole = record_.gathers == (record_.shares != nullptr) && record_.gathers == (record_.products != nullptr);
    need(whole && (record_.gathers || record_.residual == nullptr), "only what gathers has shares, products and a residual");
    columns_ = record_.weights[0].columns;
    width_ = 0;
    uses_floats_ = uses_int8_ = false;
    for (Weight& weight : record_.weights) {
        need(weight.columns == columns_ && weight.num_apart == 0, "the weights of experts have the same columns, none apart");
        need(weight.experts == record_.experts, "the weights of experts are of as many");
        weight.measure(kernels);
        width_ += weight.rows / weight.experts;
        (record_.planes == 0 || is_float(weight.format) ? uses_floats_ : uses_int8_) = true;
    }
}

int64_t Experts::count(const Context& context) const { return over_rows() ? context.call->num_rows : context.call->num_tokens; }

ScratchNeed Experts::scratch(const Bounds& bounds, int) const {
    ScratchNeed need;
    int64_t rows = pairs(bounds);
    need.shared = uses_floats_ ? round_up(size_t(rows * columns_) * sizeof(float), 64) : 0;
    if (uses_int8_) need.shared += size_t(rows * quantized_bytes(columns_, record_.planes));
    if (uses_int8_ && !uses_floats_) need.per_thread = size_t(std::min(rows, kPanelTokens) * columns_) * sizeof(float);
    return need;
}

uint8_t* Experts::quantized(const Context& context, int64_t num_pairs) const {
    return context.shared + (uses_floats_ ? round_up(size_t(num_pairs * columns_) * sizeof(float), 64) : 0);
}

void Experts::bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) {
    int64_t rows = pairs(bounds), tokens = rows / record_.chosen, gates = is_gate(record_.prologue) ? 2 : 1;
    auto values = [&](const void* address, int64_t number, const char* what) {
        memory.check(address, number * int64_t(sizeof(float)), sizeof(float), what);
    };
    values(record_.x, (record_.gathers ? rows : tokens) * columns_ * gates, "the input of experts");
    values(record_.choice, rows, "the choice of experts");
    values(record_.out, (record_.gathers ? tokens : rows) * width_, "the output of experts");
    need((record_.prologue == Prologue::kRmsNorm) == (record_.norm != nullptr), "rmsnorm and its weight come together");
    if (record_.norm != nullptr) values(record_.norm, columns_, "a norm");
    if (record_.gathers) {
        values(record_.shares, rows, "the shares of experts");
        values(record_.products, rows * width_, "the products of experts");
    }
    if (record_.residual != nullptr) values(record_.residual, tokens * width_, "a residual");
    int64_t strips = 0;
    for (Weight& weight : record_.weights) {
        weight.bind(memory, ring, true);
        for (const Piece& piece : weight.pieces)
            need(weight.expert_of(piece) == weight.expert_of_strip(piece.first_strip + piece.num_strips - 1),
                 "a piece of experts is of one of them");
        strips += weight.num_strips() + int64_t(weight.pieces.size());
    }
    need(strips <= Pool::kMostChunks, "experts of too many strips");
    threads_ = threads;
    pairs_.reserve(tokens);
    parts_.reserve(size_t(std::min(rows, rows / kPanelTokens + record_.experts)));
}

int64_t Experts::begin(Context& context, int phase) {
    int64_t tokens = count(context), rows = tokens * record_.chosen;
    if (tokens == 0) return 0;
    bool few = tokens <= kFewTokens;
    if (phase == 0) {
        pairs_.group(record_.choice, tokens);
        cut_parts();
        if (!few) return int64_t(parts_.size());
        // Any thread's own scratch will do: no other thread is inside the replay.
        for (const Part& part : parts_) prepare(context, part, rows, context.scratch_of(0));
        return 0;
    }
    if (phase == 1) {
        cut_chunks(few ? threads_ == 1 ? kAloneCut : kFewTokensCut : kManyTokensCut);
        return int64_t(chunks_.size());
    }
    if (!few) return (tokens + kPanelTokens - 1) / kPanelTokens;
    gather(*context.kernels, 0, tokens);
    return 0;
}

void Experts::work(Context& context, int phase, int64_t chunk, int thread) {
    int64_t tokens = count(context), rows = tokens * record_.chosen, first = chunk * kPanelTokens;
    if (phase == 0) prepare(context, parts_[size_t(chunk)], rows, context.scratch_of(thread));
    else if (phase == 1) multiply(context, chunks_[size_t(chunk)], rows, thread);
    else gather(*context.kernels, first, std::min(first + kPanelTokens, tokens));
}

// Panels of each group: rows of two groups never lie in one.
void Experts::cut_parts() {
    parts_.clear();
    for (const Pairs::Group& group : pairs_.groups())
        for (int64_t first = 0; first < group.count; first += kPanelTokens)
            parts_.push_back({&group, group.first + first, group.first + std::min(first + kPanelTokens, group.count)});
}

void Experts::apply_prologue(const KernelTable& kernels, int64_t row, float* to) const {
    if (record_.prologue == Prologue::kRmsNorm) kernels.rmsnorm(record_.x + row * columns_, record_.norm, columns_, record_.eps, to);
    else if (record_.prologue == Prologue::kSwiGlu) kernels.swiglu(record_.x + row * 2 * columns_, columns_, to);
    else if (record_.prologue == Prologue::kGeGlu) kernels.geglu(record_.x + row * 2 * columns_, columns_, to);
    else std::copy_n(record_.x + row * columns_, columns_, to);
}

// The rows that the pairs of a panel meet the weights with. A panel laid out by itself has the bytes that it has in the run.
void Experts::prepare(Context& context, const Part& part, int64_t num_pairs, uint8_t* own) const {
    float* to = uses_floats_ ? floats(context) + part.first * columns_ : reinterpret_cast<float*>(own);
    for (int64_t pair = part.first; pair < part.last; ++pair)
        apply_prologue(*context.kernels, record_.gathers ? pair : pairs_.token_of(pair), to + (pair - part.first) * columns_);
    if (!uses_int8_) return;
    int64_t width = quantized_bytes(columns_, record_.planes), number = part.last - part.first;
    context.kernels->quantize(to, columns_, columns_, record_.planes, number, 0, number,
                              quantized(context, num_pairs) + part.first * width);
}

// What rests in memory first, then the pieces on disk as they come through the ring.
void Experts::cut_chunks(const Cut& cut) {
    chunks_.clear();
    for (const Pairs::Group& group : pairs_.groups()) {
        int64_t column = 0;
        for (const Weight& weight : record_.weights) {
            if (weight.resident_strips > 0)
                cut_run(cut, {&weight, &group, nullptr, weight.resident_of(group.expert), 0, weight.resident_strips, column});
            column += weight.rows / weight.experts;
        }
    }
    size_t streamed = chunks_.size();
    for (const Pairs::Group& group : pairs_.groups()) {
        int64_t column = 0;
        for (const Weight& weight : record_.weights) {
            auto [piece, stop] = weight.pieces_of(group.expert);
            for (; piece != stop; ++piece) {
                int64_t inside = piece->first_strip - group.expert * weight.expert_strips();
                cut_run(cut, {&weight, &group, &*piece, nullptr, 0, piece->num_strips, column + inside * kStripRows});
            }
            column += weight.rows / weight.experts;
        }
    }
    std::stable_sort(chunks_.begin() + int64_t(streamed), chunks_.end(),
                     [](const Chunk& a, const Chunk& b) { return a.piece->position < b.piece->position; });
}

void Experts::cut_run(const Cut& cut, Chunk run) {
    int64_t strips = run.num_strips, width = run.weight->strip_bytes, parts = cut.parts(strips * width);
    for (int64_t part = 0; part < parts; ++part) {
        int64_t begin = std::min(cut.begin(part, parts, strips), strips), end = std::min(cut.begin(part + 1, parts, strips), strips);
        if (begin >= end) continue;
        chunks_.push_back(run);
        chunks_.back().offset = begin;
        chunks_.back().num_strips = end - begin;
        chunks_.back().column += begin * kStripRows;
    }
}

void Experts::multiply(Context& context, const Chunk& chunk, int64_t num_pairs, int thread) const {
    const Weight& weight = *chunk.weight;
    const Pairs::Group& group = *chunk.group;
    const uint8_t* strips = chunk.strips;
    if (chunk.piece != nullptr) {
        strips = context.ring->wait(chunk.piece->position, context.patience_of(thread));
        if (strips == nullptr) return;
        strips += chunk.piece->offset;
    }
    bool as_float = record_.planes == 0 || is_float(weight.format);
    StripsCall call{};
    call.format = weight.format;
    call.planes = record_.planes;
    call.strips = strips + chunk.offset * weight.strip_bytes;
    call.num_strips = chunk.num_strips;
    call.k = columns_;
    call.x = as_float ? floats(context) + group.first * columns_ : nullptr;
    call.x_stride = columns_;
    call.quantized = as_float ? nullptr : quantized(context, num_pairs) + group.first * quantized_bytes(columns_, record_.planes);
    call.num_tokens = group.count;
    call.out = (record_.gathers ? record_.products : record_.out) + group.first * width_ + chunk.column;
    call.out_stride = width_;
    call.num_rows = chunk.num_strips * kStripRows;
    context.kernels->strips(&call);
    if (chunk.piece == nullptr) return;
    std::atomic<int32_t>& left = (*context.strips_left)[chunk.piece->position];
    if (left.fetch_sub(int32_t(chunk.num_strips), std::memory_order_acq_rel) == chunk.num_strips)
        context.ring->release(chunk.piece->position);
}

// Tokens [first, last): each product is scaled in its place, and added in the order of the choice.
void Experts::gather(const KernelTable& kernels, int64_t first, int64_t last) const {
    for (int64_t token = first; token < last; ++token) {
        float* out = record_.out + token * width_;
        if (record_.residual != nullptr) std::copy_n(record_.residual + token * width_, width_, out);
        else std::fill_n(out, width_, 0.0f);
        for (int64_t j = 0; j < record_.chosen; ++j) {
            float* product = record_.products + pairs_.place_of(token, j) * width_;
            kernels.scale(product, width_, record_.shares[token * record_.chosen + j], product);
            kernels.add(product, width_, out);
        }
    }
}

void Experts::decide(Context& context) {
    int64_t tokens = count(context);
    if (context.ring == nullptr || tokens == 0) return;
    pairs_.group(record_.choice, tokens);
    decided_.clear();
    for (const Weight& weight : record_.weights)
        for (const Piece& piece : weight.pieces) decided_.emplace_back(piece.position, pairs_.meets(weight.expert_of(piece)));
    if (!decided_.empty()) context.ring->decide(decided_);
}

}  // namespace pintpot
