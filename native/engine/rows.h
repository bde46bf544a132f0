// embed, give, select and sample: the ops that work on one row at a time.
#pragma once

#include <vector>

#include "engine/weight.h"

namespace pintpot {

// out [tokens][columns] = scale * the weight's row of each token, and for token ~i row i of those given. Rows on disk are
// read one strip at a time. Words are the call's tokens, or `ids`, so many whatever the call says.
struct EmbedRecord {
    Weight weight;
    float scale;
    float* out;
    const int32_t* ids;
    int64_t num_ids;
    const float* given;
    int64_t num_given;
};

class Embed final : public Op {
  public:
    Embed(EmbedRecord record, const KernelTable& kernels);
    const char* kind() const override { return "embed"; }
    ScratchNeed scratch(const Bounds& bounds, int threads) const override;
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int64_t begin(Context& context, int phase) override;
    void work(Context& context, int phase, int64_t chunk, int thread) override;
    // Words that the tokens of a call may be, and rows that they may name.
    int64_t vocabulary() const { return record_.ids == nullptr ? record_.weight.rows : INT32_MAX; }
    int64_t num_given() const { return record_.ids == nullptr ? record_.num_given : INT32_MAX; }

  private:
    int64_t count(const Context& context) const { return record_.ids == nullptr ? context.call->num_tokens : record_.num_ids; }
    void check_ids() const;
    size_t strip_room() const { return round_up(size_t(record_.weight.strip_bytes), kBlock); }
    size_t read_room() const;
    int64_t tokens_of_chunk() const;
    void look_up(Context& context, int64_t index, uint8_t* own) const;

    EmbedRecord record_;
};

// Row i of those given is added to the row of x [tokens][columns] of a token ~i.
struct GiveRecord {
    float* x;
    int64_t columns;
    const float* given;
    int64_t num_given;
};

class Give final : public Op {
  public:
    explicit Give(const GiveRecord& record) : record_(record) {}
    const char* kind() const override { return "give"; }
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int64_t begin(Context& context, int phase) override;
    int64_t num_given() const { return record_.num_given; }

  private:
    GiveRecord record_;
};

// out [rows][columns] = the rows of x [tokens][columns] whose logits are wanted.
struct SelectRecord {
    const float* x;
    int64_t columns;
    float* out;
};

class Select final : public Op {
  public:
    explicit Select(const SelectRecord& record) : record_(record) {}
    const char* kind() const override { return "select"; }
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int64_t begin(Context& context, int phase) override;

  private:
    SelectRecord record_;
};

// next [rows] = a token drawn from each row of logits [rows][vocabulary]; logprob [rows], where it is not null, is the
// logarithm of its probability before penalty, temperature and cuts.
struct SampleRecord {
    const float* logits;
    int64_t vocabulary;
    int32_t* next;
    float* logprob;
};

class Sample final : public Op {
  public:
    explicit Sample(const SampleRecord& record) : record_(record) {}
    const char* kind() const override { return "sample"; }
    ScratchNeed scratch(const Bounds& bounds, int threads) const override;
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int64_t begin(Context& context, int phase) override;
    void work(Context& context, int phase, int64_t chunk, int thread) override;
    int64_t vocabulary() const { return record_.vocabulary; }

  private:
    void choose(Context& context, int32_t row, float* own) const;

    SampleRecord record_;
};

// A number in [0, 1) that depends on seed and counter alone: Philox4x32-10 (Salmon et al. 2011).
double uniform(uint64_t seed, uint64_t counter);

}  // namespace pintpot
