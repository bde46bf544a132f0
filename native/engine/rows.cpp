#include "engine/rows.h"

#include <algorithm>
#include <cstring>

#include "engine/errors.h"

namespace pintpot {

namespace {

// A slot read for the first time is verified in parts of this size.
constexpr size_t kVerifyBytes = size_t(256) << 10;
constexpr int64_t kTokensOfChunk = 8;

void check_floats(const Memory& memory, const float* address, int64_t number, const char* what) {
    memory.check(address, number * int64_t(sizeof(float)), sizeof(float), what);
}

}  // namespace

Embed::Embed(EmbedRecord record, const KernelTable& kernels) : record_(std::move(record)) {
    record_.weight.strip_bytes = kernels.strip_bytes(record_.weight.format, record_.weight.columns);
    need(record_.weight.strip_bytes > 0, "a strip of no bytes");
}

ScratchNeed Embed::scratch(const Bounds&, int) const {
    ScratchNeed need;
    if (!record_.weight.rests_whole()) need.per_thread = strip_room() + read_room();
    return need;
}

// A strip may begin and end inside a block.
size_t Embed::read_room() const {
    size_t window = strip_room() + 2 * kBlock;
    return record_.weight.has_lookup ? window : std::max(window, kVerifyBytes);
}

void Embed::bind(const Memory& memory, const Bounds& bounds, Ring* ring, int) {
    record_.weight.bind(memory, ring, false);
    check_floats(memory, record_.out, bounds.tokens * record_.weight.columns, "the output of an embed");
}

void Embed::begin(Context& context) {
    if (is_parallel(context)) return;
    for (int32_t i = 0; i < context.call->num_tokens; ++i) look_up(context, i, context.scratch_of(0));
}

bool Embed::run(Context& context, int thread, const Finish& finish) {
    int64_t tokens = context.call->num_tokens, size = record_.weight.rests_whole() ? kTokensOfChunk : 1;
    return context.pool->phase(
        thread, (tokens + size - 1) / size,
        [&](int64_t chunk) {
            for (int64_t i = chunk * size; i < std::min(tokens, (chunk + 1) * size); ++i)
                look_up(context, int32_t(i), context.scratch_of(thread));
        },
        finish);
}

void Embed::look_up(Context& context, int32_t index, uint8_t* own) const {
    const Weight& weight = record_.weight;
    int64_t row = context.call->tokens[size_t(index)], strip = row / kStripRows;
    float* out = record_.out + index * weight.columns;
    if (strip < weight.resident_strips) {
        context.kernels->expand_row(weight.format, weight.resident, weight.columns, row, out);
    } else {
        weight.read_strip(*context.ring, strip, own, {own + strip_room(), read_room()});
        context.kernels->expand_row(weight.format, own, weight.columns, row % kStripRows, out);
    }
    if (record_.scale != 1.0f) context.kernels->scale(out, weight.columns, record_.scale, out);
}

void Select::bind(const Memory& memory, const Bounds& bounds, Ring*, int) {
    need(record_.columns > 0, "a select of rows without columns");
    check_floats(memory, record_.x, bounds.tokens * record_.columns, "the input of a select");
    check_floats(memory, record_.out, bounds.rows * record_.columns, "the output of a select");
}

void Select::begin(Context& context) {
    const Call& call = *context.call;
    for (int32_t row = 0; row < call.num_rows; ++row)
        std::memmove(record_.out + row * record_.columns, record_.x + call.rows[size_t(row)] * record_.columns,
                     size_t(record_.columns) * sizeof(float));
}

ScratchNeed Sample::scratch(const Bounds&, int) const {
    ScratchNeed need;
    need.per_thread = round_up(size_t(record_.vocabulary) * sizeof(float), 64);
    return need;
}

void Sample::bind(const Memory& memory, const Bounds& bounds, Ring*, int) {
    need(record_.vocabulary > 0, "logits of no words");
    check_floats(memory, record_.logits, bounds.rows * record_.vocabulary, "logits");
    memory.check(record_.next, bounds.rows * int64_t(sizeof(int32_t)), sizeof(int32_t), "the next tokens");
    if (record_.logprob != nullptr) check_floats(memory, record_.logprob, bounds.rows, "the log probabilities");
}

void Sample::begin(Context& context) {
    if (context.call->num_rows == 1) choose(context, 0, reinterpret_cast<float*>(context.scratch_of(0)));
}

bool Sample::run(Context& context, int thread, const Finish& finish) {
    return context.pool->phase(
        thread, context.call->num_rows,
        [&](int64_t row) { choose(context, int32_t(row), reinterpret_cast<float*>(context.scratch_of(thread))); }, finish);
}

}  // namespace pintpot
