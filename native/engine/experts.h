// experts: the products of tokens with the experts that were chosen for them.
#pragma once

#include "engine/linear.h"
#include "engine/pairs.h"

namespace pintpot {

struct ExpertsRecord {
    bool over_rows;  // tokens are the rows with logits, after a select
    int64_t experts, chosen;
    bool gathers;    // x has a row for each pair, and out one for each token; otherwise the other way round
    const float* x;  // [n][columns], [n][2 columns] before a gate
    Prologue prologue;
    const float* norm;  // [columns] for rmsnorm
    float eps;
    int32_t planes;               // of int8 activations; 0: float32
    std::vector<Weight> weights;  // [experts * rows][columns]
    const int32_t* choice;        // [tokens][chosen]
    const float* shares;          // [tokens][chosen], where it gathers
    const float* residual;        // [tokens][width] or null
    float* products;              // [pairs][width], where it gathers
    float* out;                   // [pairs or tokens][width], width = the sum of an expert's rows
};

// products[pair] = W[expert] prologue(x); gathering, out[t] = residual[t] + the sum over j ascending of shares[t][j] * products.
class Experts final : public Op {
  public:
    // Throws std::invalid_argument for a record that cannot be.
    Experts(ExpertsRecord record, const KernelTable& kernels);
    const char* kind() const override { return "experts"; }
    ScratchNeed scratch(const Bounds& bounds, int threads) const override;
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int num_phases() const override { return record_.gathers ? 3 : 2; }
    int64_t begin(Context& context, int phase) override;
    void work(Context& context, int phase, int64_t chunk, int thread) override;

    bool over_rows() const { return record_.over_rows; }
    const int32_t* choice() const { return record_.choice; }
    const std::vector<Weight>& weights() const { return record_.weights; }
    // Once the experts are chosen: tells the ring which of the slots it waits with are needed, and which are not.
    void decide(Context& context);

  private:
    // Strips of one weight that one thread multiplies with the rows of a group; `piece` is null where they rest in memory.
    struct Chunk {
        const Weight* weight;
        const Pairs::Group* group;
        const Piece* piece;
        const uint8_t* strips;  // where they rest in memory
        int64_t offset;         // in strips, from the beginning of the piece
        int64_t num_strips;
        int64_t column;  // of out
    };
    struct Part {
        const Pairs::Group* group;
        int64_t first, last;  // pairs
    };

    int64_t count(const Context& context) const;
    int64_t pairs(const Bounds& bounds) const { return (over_rows() ? bounds.rows : bounds.tokens) * record_.chosen; }
    float* floats(const Context& context) const { return reinterpret_cast<float*>(context.shared); }
    uint8_t* quantized(const Context& context, int64_t num_pairs) const;
    void prepare(Context& context, const Part& part, int64_t num_pairs, uint8_t* own) const;
    void apply_prologue(const KernelTable& kernels, int64_t row, float* to) const;
    void cut_parts();
    void cut_chunks(const Cut& cut);
    void cut_run(const Cut& cut, Chunk run);
    void multiply(Context& context, const Chunk& chunk, int64_t num_pairs, int thread) const;
    void gather(const KernelTable& kernels, int64_t first, int64_t last) const;

    ExpertsRecord record_;
    int64_t columns_, width_;
    bool uses_floats_, uses_int8_;
    int threads_ = 1;
    Pairs pairs_;
    std::vector<Part> parts_;
    std::vector<Chunk> chunks_;
    std::vector<std::pair<uint32_t, bool>> decided_;
};

}  // namespace pintpot
