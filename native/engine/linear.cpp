#include "engine/linear.h"

#include <algorithm>
#include <cstring>

#include "engine/errors.h"

namespace pintpot {

namespace {

bool is_float(int32_t format) { return format == kF32 || format == kF16 || format == kBF16; }

bool overlap(const float* a, int64_t a_floats, const float* b, int64_t b_floats) {
    return a != nullptr && b != nullptr && a < b + b_floats && b < a + a_floats;
}

}  // namespace

Linear::Linear(LinearRecord record, const KernelTable& kernels) : record_(std::move(record)) {
    need(!record_.weights.empty(), "linear without a weight");
    need(record_.biases.empty() || record_.biases.size() == record_.weights.size(), "linear has one bias for each weight, or none");
    need(record_.planes >= 0 && record_.planes <= kBrainRows, "int8 activations have one plane or two, or are bfloat16");
    need(record_.rows >= 0 && record_.rows < kMostRows && !(record_.rows > 0 && record_.over_rows),
         "a linear has rows of its own, or those of the call");
    columns_ = record_.weights[0].columns;
    if (gathers()) {
        record_.gather.check();
        need(record_.gather.columns() == columns_, "a gather makes as many columns as a weight has");
        need(record_.gather.rows() == record_.rows && record_.prologue == Prologue::kNone,
             "a gather makes all rows of a linear, and nothing comes between");
    }
    int64_t size = record_.rotate;
    need(size == 0 || (size > 1 && (size & (size - 1)) == 0 && columns_ % size == 0),
         "rotated blocks are a power of two that divides the columns");
    width_ = 0;
    uses_floats_ = uses_rest_ = uses_int8_ = false;
    num_apart_ = 0;
    for (const Weight& weight : record_.weights) num_apart_ = std::max(num_apart_, weight.num_apart);
    for (Weight& weight : record_.weights) {
        need(weight.columns == columns_, "the weights of a linear have the same columns");
        weight.measure(kernels);
        width_ += weight.rows;
        bool floats = is_float(weight.format);
        need(weight.num_apart == (floats ? 0 : num_apart_), "the weights of a linear keep the same columns apart");
        if (!floats && record_.planes > 0) uses_int8_ = true;
        else (floats || num_apart_ == 0 ? uses_floats_ : uses_rest_) = true;
    }
}

int64_t Linear::count(const Context& context) const {
    if (record_.rows > 0) return record_.rows;
    return over_rows() ? context.call->num_rows : context.call->num_tokens;
}

ScratchNeed Linear::scratch(const Bounds& bounds, int) const {
    int64_t rows = count(bounds);
    ScratchNeed need;
    size_t floats = round_up(size_t(rows * columns_) * sizeof(float), 64);
    need.shared = (keeps_floats() ? floats : 0) + (uses_rest_ ? floats : 0) + size_t(rows * num_apart_) * sizeof(float);
    if (uses_int8_) need.shared += size_t(rows * quantized_bytes(columns_, record_.planes));
    if (uses_int8_ && changes_rows() && (!uses_floats_ || num_apart_ > 0))
        need.per_thread = size_t(std::min(rows, kPanelTokens) * columns_) * sizeof(float);
    return need;
}

Linear::Regions Linear::regions(uint8_t* shared, int64_t rows) const {
    size_t floats = round_up(size_t(rows * columns_) * sizeof(float), 64);
    uint8_t* rest = shared + (keeps_floats() ? floats : 0);
    uint8_t* quantized = rest + (uses_rest_ ? floats : 0);
    uint8_t* apart = quantized + (uses_int8_ ? rows * quantized_bytes(columns_, record_.planes) : 0);
    return {reinterpret_cast<float*>(shared), reinterpret_cast<float*>(rest), quantized, reinterpret_cast<float*>(apart)};
}

void Linear::bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) {
    int64_t rows = count(bounds), inputs = input_values(rows);
    auto floats = [&](const float* address, int64_t number, const char* what) {
        memory.check(address, number * int64_t(sizeof(float)), sizeof(float), what);
    };
    floats(record_.x, inputs, "the input of a linear");
    floats(record_.out, rows * width_, "the output of a linear");
    need((record_.prologue == Prologue::kRmsNorm) == (record_.norm != nullptr), "rmsnorm and its weight come together");
    if (record_.norm != nullptr) floats(record_.norm, columns_, "a norm");
    if (record_.post_norm != nullptr) floats(record_.post_norm, width_, "a norm after a product");
    if (record_.residual != nullptr) floats(record_.residual, rows * width_, "a residual");
    need(!overlap(record_.out, rows * width_, record_.x, inputs) &&
             !overlap(record_.out, rows * width_, record_.residual, rows * width_),
         "a linear writes over its own input");
    for (size_t i = 0; i < record_.weights.size(); ++i) {
        record_.weights[i].bind(memory, ring, true);
        if (!record_.biases.empty() && record_.biases[i] != nullptr) floats(record_.biases[i], record_.weights[i].rows, "a bias");
    }
    few_chunks_ = cut(threads == 1 ? kAloneCut : kFewTokensCut, threads);
    many_chunks_ = by_rows(cut(kManyTokensCut, threads), threads);
    need(int64_t(many_chunks_.size()) <= Pool::kMostChunks, "a linear of too many strips");
}

int64_t Linear::begin(Context& context, int phase) {
    int64_t rows = count(context);
    if (rows == 0) return 0;
    if (phase == 1) return int64_t(apart_.size()) == num_apart_ ? int64_t(chunks(rows).size()) : 0;
    if (phase == 2) {
        if (rows > kFewTokens) return (rows + kPanelTokens - 1) / kPanelTokens;
        finish(*context.kernels, 0, rows);
        return 0;
    }
    if (given_ || (!keeps_floats() && !uses_rest_ && !uses_int8_)) return 0;
    find_apart(context);
    if (int64_t(apart_.size()) != num_apart_) return 0;
    if (rows > kFewTokens) return (rows + rows_at_once() - 1) / rows_at_once();
    // Any thread's own scratch will do: no other thread is inside the replay.
    prepare_panel(context, 0, rows, rows, context.scratch_of(0));
    return 0;
}

void Linear::work(Context& context, int phase, int64_t chunk, int thread) {
    int64_t rows = count(context), first = chunk * kPanelTokens;
    if (phase == 1 && gate_ != Prologue::kNone) {
        multiply_gated(context, many_chunks_[size_t(chunk)]);
        return;
    }
    if (phase == 1) {
        multiply(context, chunks(rows)[size_t(chunk)], thread);
        return;
    }
    if (phase == 2) {
        finish(*context.kernels, first, std::min(first + kPanelTokens, rows));
        return;
    }
    first = chunk * rows_at_once();
    for (int64_t stop = std::min(first + rows_at_once(), rows); first < stop; first += kPanelTokens)
        prepare_panel(context, first, std::min(first + kPanelTokens, stop), rows, context.scratch_of(thread));
}

void Linear::apply_prologue(const KernelTable& kernels, int64_t row, float* to) const {
    if (record_.prologue == Prologue::kRmsNorm)
        kernels.rmsnorm(record_.x + row * columns_, record_.norm, columns_, record_.eps, to);
    else if (is_gate(record_.prologue) && rounds_to_brain())
        kernels.rough_gate(kind_of(record_.prologue), record_.x + row * 2 * columns_, columns_, to);
    else if (record_.prologue == Prologue::kSwiGlu)
        kernels.swiglu(record_.x + row * 2 * columns_, columns_, to);
    else if (record_.prologue == Prologue::kGeGlu)
        kernels.geglu(record_.x + row * 2 * columns_, columns_, to);
    else if (gathers())
        record_.gather.row(record_.x, row, to);
    else
        std::copy_n(record_.x + row * columns_, columns_, to);
    if (record_.rotate != 0) kernels.rotate(to, columns_, record_.rotate);
}

// Every strip tells which columns are kept apart: one that rests in memory, or the first that comes through the ring,
// which is waited for in the order of the ring. Left unknown where a cancelled replay waits no longer.
void Linear::find_apart(const Context& context) {
    if (num_apart_ == 0 || !apart_.empty()) return;
    const Weight* holder = nullptr;
    for (const Weight& weight : record_.weights) {
        if (weight.num_apart == 0 || (holder != nullptr && holder->resident_strips > 0)) continue;
        bool sooner = holder == nullptr || weight.resident_strips > 0 || weight.pieces[0].position < holder->pieces[0].position;
        if (sooner) holder = &weight;
    }
    const uint8_t* strip = holder->resident;
    if (holder->resident_strips == 0) {
        const Piece& piece = holder->pieces[0];
        strip = context.ring->wait(piece.position, context.keep_waiting_apart);
        if (strip == nullptr) return;
        strip += piece.offset;
    }
    std::vector<int32_t> found(size_t(num_apart_), 0);
    std::memcpy(found.data(), holder->apart_of(strip), found.size() * sizeof(int32_t));
    for (size_t i = 0; i < found.size(); ++i)
        if (found[i] >= columns_ || found[i] < (i == 0 ? 0 : found[i - 1] + 1))
            throw SlotError(text("a strip keeps column %d apart, out of its order or beyond %lld", found[i], (long long)columns_));
    apart_ = std::move(found);
}

// The columns kept apart move from a row to where they meet theirs, and leave zeros.
void Linear::take_apart(float* row, float* to) const {
    for (size_t i = 0; i < apart_.size(); ++i) {
        to[i] = row[apart_[i]];
        row[apart_[i]] = 0.0f;
    }
}

// Rows [first, last) of the input: prologue, rotation, columns apart, rounding. A panel laid out by itself has the bytes that it has in the run.
void Linear::prepare_panel(Context& context, int64_t first, int64_t last, int64_t rows, uint8_t* own) const {
    Regions region = regions(context.shared, rows);
    const float* source = gathers() ? nullptr : record_.x + first * columns_;
    float* rest = uses_rest_ ? region.rest + first * columns_ : reinterpret_cast<float*>(own);
    if (prepares()) {
        float* to = uses_floats_ ? region.floats + first * columns_ : rest;
        for (int64_t row = first; row < last; ++row) apply_prologue(*context.kernels, row, to + (row - first) * columns_);
        source = to;
    }
    if (num_apart_ > 0) {
        if (source != rest) std::copy(source, source + (last - first) * columns_, rest);
        for (int64_t row = first; row < last; ++row)
            take_apart(rest + (row - first) * columns_, region.apart + row * num_apart_);
        source = rest;
    }
    if (!uses_int8_) return;
    uint8_t* to = region.quantized + first * quantized_bytes(columns_, record_.planes);
    context.kernels->quantize(source, columns_, columns_, record_.planes, last - first, 0, last - first, to);
}

void Linear::multiply(Context& context, const Chunk& chunk, int thread) const {
    const Weight& weight = *chunk.weight;
    const uint8_t* strips = nullptr;
    if (chunk.piece == nullptr) {
        strips = weight.resident + chunk.first_strip * weight.strip_bytes;
    } else {
        const uint8_t* slot = context.ring->wait(chunk.piece->position, context.patience_of(thread));
        if (slot == nullptr) return;
        strips = slot + chunk.piece->offset + (chunk.first_strip - chunk.piece->first_strip) * weight.strip_bytes;
    }
    int64_t first_row = chunk.first_row, rows = std::min(chunk.num_rows, count(context) - first_row);
    Regions region = regions(context.shared, count(context));
    bool as_float = record_.planes == 0 || is_float(weight.format);
    const float* floats = (weight.num_apart > 0 ? region.rest : keeps_floats() ? region.floats : record_.x);
    StripsCall call{};
    call.format = weight.format;
    call.planes = record_.planes;
    call.strips = strips;
    call.num_strips = chunk.num_strips;
    call.k = columns_;
    call.x = as_float ? floats + first_row * columns_ : nullptr;
    call.x_stride = columns_;
    call.quantized = as_float ? nullptr : rounded(region) + first_row * quantized_bytes(columns_, record_.planes);
    call.num_tokens = rows;
    call.out = record_.out + first_row * width_ + chunk.column;
    call.out_stride = width_;
    call.num_rows = weight.rows_of(chunk.first_strip, chunk.num_strips);
    call.num_apart = weight.num_apart;
    call.apart = region.apart + first_row * weight.num_apart;
    context.kernels->strips(&call);
    for (int64_t row = 0; row < rows; ++row) {
        float* out = call.out + row * width_;
        if (chunk.bias != nullptr) context.kernels->add(chunk.bias + chunk.first_strip * kStripRows, call.num_rows, out);
        if (record_.residual != nullptr && record_.post_norm == nullptr)
            context.kernels->add(record_.residual + (first_row + row) * width_ + chunk.column, call.num_rows, out);
    }
    if (chunk.piece == nullptr) return;
    std::atomic<int32_t>& left = (*context.strips_left)[chunk.piece->position];
    if (left.fetch_sub(int32_t(chunk.num_strips), std::memory_order_acq_rel) == chunk.num_strips)
        context.ring->release(chunk.piece->position);
}

// Rows [first, last) of what was multiplied, which are whole now: their norm, and what it is added to.
void Linear::finish(const KernelTable& kernels, int64_t first, int64_t last) const {
    for (int64_t row = first; row < last; ++row) {
        float* out = record_.out + row * width_;
        kernels.rmsnorm(out, record_.post_norm, width_, record_.eps, out);
        if (record_.residual != nullptr) kernels.add(record_.residual + row * width_, width_, out);
    }
}

}  // namespace pintpot
