#include "engine/call.h"

#include <algorithm>
#include <cmath>

#include "engine/errors.h"
#include "kernels/kernels.h"

namespace pintpot {

namespace {

constexpr int32_t kMostTokens = 1 << 20;
constexpr int32_t kLongestContext = 1 << 24;

size_t checked(int64_t count, int64_t most, const char* what) {
    need(count >= 1 && count <= most, text("a bound of %lld %s; 1 to %lld will do", (long long)count, what, (long long)most));
    return size_t(count);
}

}  // namespace

Call::Call(const Bounds& wanted, int32_t history_)
    : bounds(wanted), max_pages(int32_t((wanted.context + kPageTokens - 1) / kPageTokens)), max_history(history_) {
    size_t num_tokens_ = checked(bounds.tokens, kMostTokens, "tokens");
    size_t sequences = checked(bounds.sequences, kMostTokens, "sequences");
    checked(bounds.context, kLongestContext, "positions");
    need(history_ >= 0 && history_ <= kLongestContext, "a history of fewer than 0 or too many tokens");
    tokens.resize(num_tokens_), positions.resize(num_tokens_), sequence.resize(num_tokens_);
    turns.resize(num_tokens_);
    rows.resize(checked(bounds.rows, kMostTokens, "rows"));
    pages.assign(sequences * size_t(max_pages), -1);
    temperature.resize(sequences), min_p.resize(sequences), top_k.resize(sequences);
    top_p.assign(sequences, 1.0f), penalty.assign(sequences, 1.0f);
    seed.resize(sequences), counter.resize(sequences), history_length.resize(sequences);
    history.resize(sequences * size_t(history_));
    allowed.resize(sequences), bias.resize(sequences);
    runs.reserve(num_tokens_);
}

void Call::prepare(const Known& known, const std::vector<Visible>& attends) {
    check_counts();
    check_tokens(known);
    for (const Visible& visible : attends) check_pages(visible);
    check_sampling(known.words);
}

void Call::check_counts() const {
    auto within = [](int32_t count, int32_t least, int32_t bound, const char* what) {
        need(count >= least && count <= bound, text("%d %s where %d to %d were recorded", count, what, least, bound));
    };
    within(num_tokens, 1, bounds.tokens, "tokens");
    within(num_rows, 0, bounds.rows, "rows");
    within(num_sequences, 1, bounds.sequences, "sequences");
    for (int32_t row = 0; row < num_rows; ++row)
        need(rows[size_t(row)] >= 0 && rows[size_t(row)] < num_tokens, text("row %d wants token %d of %d", row, rows[size_t(row)], num_tokens));
}

void Call::check_every_row() const {
    if (num_rows == 0) return;
    need(num_rows == num_tokens, text("%d rows of %d tokens, and this program has no select", num_rows, num_tokens));
    for (int32_t row = 0; row < num_rows; ++row)
        need(rows[size_t(row)] == row, "the rows of a program without a select are its tokens, in order");
}

void Call::check_tokens(const Known& known) {
    runs.clear();
    for (int32_t i = 0; i < num_tokens; ++i) {
        int32_t token = tokens[size_t(i)], position = positions[size_t(i)], owner = sequence[size_t(i)];
        int32_t turn = turns[size_t(i)];
        need(token < known.words && ~int64_t(token) < known.rows,
             text("token %d is not one of %lld, nor of %lld rows given", token, (long long)known.words, (long long)known.rows));
        need(turn < bounds.context && ~int64_t(turn) < known.angles,
             text("turn %d is not one of %d, nor of %lld given", turn, bounds.context, (long long)known.angles));
        need(position >= 0 && position < bounds.context, text("position %d is not one of %d", position, bounds.context));
        need(owner >= 0 && owner < num_sequences, text("sequence %d is not one of %d", owner, num_sequences));
        bool goes_on = !runs.empty() && runs.back().sequence == owner;
        if (goes_on) {
            Run& run = runs.back();
            need(position == run.first_position + run.num_tokens,
                 text("sequence %d goes from position %d to %d", owner, run.first_position + run.num_tokens - 1, position));
            ++run.num_tokens;
        } else {
            runs.push_back({owner, i, 1, position});
        }
    }
    std::vector<uint8_t> seen(size_t(num_sequences), 0);
    for (const Run& run : runs) {
        need(seen[size_t(run.sequence)] == 0, text("the tokens of sequence %d do not lie side by side", run.sequence));
        seen[size_t(run.sequence)] = 1;
    }
}

void Call::check_pages(const Visible& visible) const {
    for (const Run& run : runs) {
        const int32_t* table = pages_of(run.sequence);
        auto check = [&](int64_t first, int64_t stop) {
            for (int64_t page = first / kPageTokens; page * kPageTokens < stop; ++page)
                need(table[page] >= 0 && table[page] < visible.num_pages,
                     text("page %lld of sequence %d is %d, the cache has %d", (long long)page, run.sequence, table[page],
                          visible.num_pages));
        };
        int64_t stop = int64_t(run.first_position) + run.num_tokens;
        int64_t first = visible.window == 0 ? 0 : std::max<int64_t>(0, int64_t(run.first_position) + 1 - visible.window);
        check(first, stop);
        if (visible.window != 0) check(0, std::min<int64_t>(visible.sinks, stop));
    }
}

void Call::check_sampling(int64_t vocabulary) const {
    for (size_t i = 0; i < size_t(num_sequences); ++i) {
        need(std::isfinite(temperature[i]) && temperature[i] >= 0, text("temperature %g; 0 or more will do", double(temperature[i])));
        need(top_k[i] >= 0, text("top-k of %d; 0 (off) or more will do", top_k[i]));
        need(top_p[i] > 0 && top_p[i] <= 1, text("top-p of %g; more than 0, at most 1 will do", double(top_p[i])));
        need(min_p[i] >= 0 && min_p[i] <= 1, text("min-p of %g; 0 to 1 will do", double(min_p[i])));
        need(std::isfinite(penalty[i]) && penalty[i] > 0, text("a repetition penalty of %g; more than 0 will do", double(penalty[i])));
        need(history_length[i] >= 0 && history_length[i] <= max_history, text("%d tokens in a history of %d", history_length[i], max_history));
        const int32_t* past = history.data() + i * size_t(max_history);
        for (int32_t j = 0; j < history_length[i]; ++j)
            need(past[j] < vocabulary, text("token %d in the history is not one of %lld", past[j], (long long)vocabulary));
        check_wishes(i, vocabulary);
    }
}

void Call::check_wishes(size_t sequence, int64_t vocabulary) const {
    for (const Bias& one : bias[sequence]) {
        need(one.token >= 0 && one.token < vocabulary, text("a bias for token %d, which is not one of %lld", one.token, (long long)vocabulary));
        need(std::isfinite(one.value), text("a bias of %g; a finite one will do", double(one.value)));
    }
    const std::vector<uint32_t>& words = allowed[sequence];
    if (words.empty()) return;
    need(int64_t(words.size()) == (vocabulary + 31) / 32, text("a mask of %zu words of 32 bits for %lld tokens", words.size(), (long long)vocabulary));
    uint32_t any = 0;
    for (size_t i = 0; i + 1 < words.size(); ++i) any |= words[i];
    // Bits after the last token say nothing.
    any |= words.back() & (vocabulary % 32 == 0 ? ~0u : (1u << (vocabulary % 32)) - 1);
    need(any != 0, "a mask that allows no token");
}

}  // namespace pintpot
