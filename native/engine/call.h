// The arguments of one replay, in arrays of the recorded bounds, and what is worked out from them before it starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pintpot {

constexpr int32_t kMostGiven = 1 << 24;  // rows or angles

struct Bounds {
    int32_t tokens;     // new tokens of one replay
    int32_t rows;       // rows of it whose logits are wanted
    int32_t sequences;  // side by side
    int32_t context;    // positions that a sequence can hold
};

// Consecutive new tokens of one sequence.
struct Run {
    int32_t sequence;
    int32_t first_token;
    int32_t num_tokens;
    int32_t first_position;
};

// What attention needs of the page tables: it sees the last `window` positions (0: all) and the first `sinks`.
struct Visible {
    int32_t window;
    int32_t sinks;
    int32_t num_pages;  // of the cache
};

struct Bias {
    int32_t token;
    float value;
};

// What tokens and turns may name: words, rows given to the embedding, and angles given to attention.
struct Known {
    int64_t words;
    int64_t rows;
    int64_t angles;
};

class Call {
  public:
    // Room for these bounds and `history` earlier tokens of each sequence. Throws std::invalid_argument.
    Call(const Bounds& bounds, int32_t history);

    // Checks every number that memory safety or a result depends on, and fills `runs`. Throws std::invalid_argument.
    void prepare(const Known& known, const std::vector<Visible>& attends);

    // Throws unless logits are wanted for all tokens in their order, or for none.
    void check_every_row() const;

    const int32_t* pages_of(int32_t sequence) const { return pages.data() + int64_t(sequence) * max_pages; }
    int32_t sequence_of_row(int32_t row) const { return sequence[size_t(rows[size_t(row)])]; }

    const Bounds bounds;
    const int32_t max_pages;
    const int32_t max_history;

    int32_t num_tokens = 0, num_rows = 0, num_sequences = 0;
    // Of each new token. Token ~i is row i of those given; turn ~i angle i of those given, others a line of the table.
    std::vector<int32_t> tokens, positions, sequence, turns;
    std::vector<int32_t> rows;                         // tokens whose logits are wanted
    std::vector<int32_t> pages;                        // [sequences][max_pages], -1 where there is none

    // Of each sequence: how its next token is chosen. `counter` numbers its random draws.
    std::vector<float> temperature, top_p, min_p, penalty;
    std::vector<int32_t> top_k;
    std::vector<uint64_t> seed, counter;
    std::vector<int32_t> history, history_length;  // [sequences][max_history]: tokens that the penalty is for

    // What somebody else has to say about a sequence's next token: a bit for each word that may come (empty: all), and
    // what is added to the logits of some.
    std::vector<std::vector<uint32_t>> allowed;
    std::vector<std::vector<Bias>> bias;

    std::vector<Run> runs;

  private:
    void check_counts() const;
    void check_tokens(const Known& known);
    void check_pages(const Visible& visible) const;
    void check_sampling(int64_t vocabulary) const;
    void check_wishes(size_t sequence, int64_t vocabulary) const;
};

}  // namespace pintpot
