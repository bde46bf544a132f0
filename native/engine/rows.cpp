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
    need(record_.weight.num_apart == 0, "an embedding keeps no columns apart");
    record_.weight.measure(kernels);
}

ScratchNeed Embed::scratch(const Bounds&, int) const {
    ScratchNeed need;
    if (!record_.weight.rests_whole()) need.per_thread = strip_room() + read_room();
    return need;
}

// A strip may begin and end inside a block.
size_t Embed::read_room() const { return std::max(strip_room() + 2 * kBlock, kVerifyBytes); }

void Embed::bind(const Memory& memory, const Bounds& bounds, Ring* ring, int) {
    record_.weight.bind(memory, ring, false);
    int64_t count = record_.ids == nullptr ? bounds.tokens : record_.num_ids;
    need(count > 0 && count < int64_t(1) << 31, "an embed of no words, or too many");
    check_floats(memory, record_.out, count * record_.weight.columns, "the output of an embed");
    if (record_.ids != nullptr) memory.check(record_.ids, count * int64_t(sizeof(int32_t)), sizeof(int32_t), "the words of an embed");
    need(record_.num_given >= 0 && record_.num_given <= kMostGiven, "fewer than 0 or too many rows given");
    if (record_.num_given > 0)
        check_floats(memory, record_.given, record_.num_given * record_.weight.columns, "the rows given to an embed");
}

// A call's own tokens were checked with it.
void Embed::check_ids() const {
    for (int64_t i = 0; record_.ids != nullptr && i < record_.num_ids; ++i)
        need(record_.ids[i] >= 0 && record_.ids[i] < record_.weight.rows,
             text("word %d is not one of %lld", record_.ids[i], (long long)record_.weight.rows));
}

// A row on disk is a chunk of its own, so that the reads are spread over the threads.
int64_t Embed::tokens_of_chunk() const { return record_.weight.rests_whole() ? kTokensOfChunk : 1; }

int64_t Embed::begin(Context& context, int) {
    check_ids();
    int64_t tokens = count(context);
    if (tokens > kFewTokens) return (tokens + tokens_of_chunk() - 1) / tokens_of_chunk();
    for (int64_t i = 0; i < tokens; ++i) look_up(context, i, context.scratch_of(0));
    return 0;
}

void Embed::work(Context& context, int, int64_t chunk, int thread) {
    int64_t first = chunk * tokens_of_chunk();
    int64_t stop = std::min<int64_t>(count(context), first + tokens_of_chunk());
    for (int64_t i = first; i < stop; ++i) look_up(context, i, context.scratch_of(thread));
}

void Embed::look_up(Context& context, int64_t index, uint8_t* own) const {
    const Weight& weight = record_.weight;
    int64_t row = record_.ids == nullptr ? context.call->tokens[size_t(index)] : record_.ids[index], strip = row / kStripRows;
    float* out = record_.out + index * weight.columns;
    if (row < 0) {
        std::memcpy(out, record_.given + ~row * weight.columns, size_t(weight.columns) * sizeof(float));
        return;
    }
    if (strip < weight.resident_strips) {
        context.kernels->expand_row(weight.format, weight.resident, weight.columns, row, out);
    } else {
        weight.read_strip(*context.ring, strip, own, {own + strip_room(), read_room()});
        context.kernels->expand_row(weight.format, own, weight.columns, row % kStripRows, out);
    }
    if (record_.scale != 1.0f) context.kernels->scale(out, weight.columns, record_.scale, out);
}

void Give::bind(const Memory& memory, const Bounds& bounds, Ring*, int) {
    need(record_.columns > 0, "rows without columns are given");
    need(record_.num_given >= 0 && record_.num_given <= kMostGiven, "fewer than 0 or too many rows given");
    check_floats(memory, record_.x, bounds.tokens * record_.columns, "the rows that others are given to");
    check_floats(memory, record_.given, record_.num_given * record_.columns, "the rows given to a layer");
}

int64_t Give::begin(Context& context, int) {
    const Call& call = *context.call;
    for (int32_t i = 0; i < call.num_tokens; ++i) {
        int64_t token = call.tokens[size_t(i)];
        if (token < 0)
            context.kernels->add(record_.given + ~token * record_.columns, record_.columns, record_.x + i * record_.columns);
    }
    return 0;
}

void Select::bind(const Memory& memory, const Bounds& bounds, Ring*, int) {
    need(record_.columns > 0, "a select of rows without columns");
    check_floats(memory, record_.x, bounds.tokens * record_.columns, "the input of a select");
    check_floats(memory, record_.out, bounds.rows * record_.columns, "the output of a select");
}

int64_t Select::begin(Context& context, int) {
    const Call& call = *context.call;
    for (int32_t row = 0; row < call.num_rows; ++row)
        std::memmove(record_.out + row * record_.columns, record_.x + call.rows[size_t(row)] * record_.columns,
                     size_t(record_.columns) * sizeof(float));
    return 0;
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

int64_t Sample::begin(Context& context, int) {
    int32_t rows = context.call->num_rows;
    if (rows != 1) return rows;
    choose(context, 0, reinterpret_cast<float*>(context.scratch_of(0)));
    return 0;
}

void Sample::work(Context& context, int, int64_t chunk, int thread) {
    choose(context, int32_t(chunk), reinterpret_cast<float*>(context.scratch_of(thread)));
}

}  // namespace pintpot
