// linear: out = post_norm(W rotation(prologue(x)) + bias) + residual, for one or several weights whose outputs lie side by side.
#pragma once

#include <algorithm>

#include "engine/gather.h"
#include "engine/weight.h"

namespace pintpot {

// How strips are cut into the parts that threads take: about so many bytes, each part but the last a multiple of `unit`.
// With few tokens the memory is what counts, and it gives long stretches faster; with many it is arithmetic: parts are
// whole tiles, as long as the rows that all their strips share are worth keeping in a cache.
struct Cut {
    int64_t part_bytes, unit;

    int64_t parts(int64_t bytes) const { return std::max<int64_t>(1, (bytes + part_bytes / 2) / part_bytes); }
    int64_t begin(int64_t index, int64_t parts, int64_t strips) const {
        return index == parts ? strips : (strips * index / parts + unit / 2) / unit * unit;
    }
};
constexpr Cut kAloneCut = {1 << 20, 1};  // one thread alone waits for nobody
constexpr Cut kFewTokensCut = {128 << 10, 1};
constexpr Cut kManyTokensCut = {96 << 10, kTileStrips};
constexpr Cut kGatedCut = {48 << 10, kTileStrips};  // of gates, with ups as long
// Where a thread has fewer tiles than this, threads share rows of the input and not strips, as many as pay for reading
// the weights again.
constexpr int64_t kFewTiles = 16;
constexpr int64_t kRowsApart = 4 * kPanelTokens;
// Short rows are prepared so many values at a time: claiming a part takes as long as a few hundred of them.
constexpr int64_t kPreparedValues = 8192;

constexpr int64_t kMostRows = int64_t(1) << 31;

enum class Prologue { kNone, kRmsNorm, kSwiGlu, kGeGlu };
inline bool is_gate(Prologue prologue) { return prologue == Prologue::kSwiGlu || prologue == Prologue::kGeGlu; }
inline Gate kind_of(Prologue gate) { return gate == Prologue::kSwiGlu ? kSwiGlu : kGeGlu; }

struct LinearRecord {
    bool over_rows;  // x and out have one row for each row with logits, not for each token
    bool selected;   // over rows: x holds only those (after a select), not one for each token
    int64_t rows;    // x and out always have so many rows, whatever the call says (0: as the call says)
    const float* x;  // [n][columns], [n][2 columns] before a gate; before a gather what that looks at
    Gather gather;   // makes the rows where it has columns
    Prologue prologue;
    const float* norm;  // [columns] for rmsnorm
    float eps;
    int64_t rotate;  // blocks of so many columns are rotated (0: none)
    int32_t planes;  // of int8 activations; 0: float32
    std::vector<Weight> weights;
    std::vector<const float*> biases;  // one for each weight, or none
    const float* post_norm;            // [width] or null: the RMS norm of what was multiplied, before the residual
    const float* residual;             // [n][width] or null
    float* out;                        // [n][width], width = the sum of rows
    bool passes_on;                    // nobody but the next op reads out
};

class Linear final : public Op {
  public:
    // Throws std::invalid_argument for a record that cannot be.
    Linear(LinearRecord record, const KernelTable& kernels);
    const char* kind() const override { return "linear"; }
    ScratchNeed scratch(const Bounds& bounds, int threads) const override;
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int num_phases() const override { return record_.post_norm == nullptr ? 2 : 3; }
    int64_t begin(Context& context, int phase) override;
    void work(Context& context, int phase, int64_t chunk, int thread) override;

    bool over_rows() const { return record_.over_rows; }
    // Where `next` gates what this one makes for it, and both multiply in bfloat16: this one puts its sums through the
    // gate while they are at hand, and leaves the next one's rounded rows where it would have left the sums. The bits
    // are the same.
    void gate_for(Linear& next, int threads);
    // Without a select the rows with logits are all tokens, or none.
    bool wants_every_row() const { return record_.over_rows && !record_.selected; }
    const std::vector<Weight>& weights() const { return record_.weights; }

  private:
    // Strips that one thread multiplies at a time; `piece` is null where they rest in memory.
    struct Chunk {
        const Weight* weight;
        const float* bias;
        const Piece* piece;
        int64_t first_strip, num_strips;
        int64_t column;  // of out
        int64_t first_row = 0, num_rows = kMostRows;  // of the input, as far as it has so many
    };
    // Whether all that comes out of the prologue is rounded to bfloat16 next.
    bool rounds_to_brain() const { return record_.planes == kBrainRows && !uses_floats_ && num_apart_ == 0; }
    bool gates_for(const Linear& next) const;
    void multiply_gated(Context& context, const Chunk& chunk) const;
    struct Regions {
        float* floats;       // [n][columns], what comes out of prologue and rotation
        float* rest;         // the same with zeros where columns are kept apart
        uint8_t* quantized;  // the same in int8
        float* apart;        // [n][num_apart], what meets the columns kept apart
    };

    int64_t count(const Context& context) const;
    int64_t count(const Bounds& bounds) const {
        return record_.rows > 0 ? record_.rows : over_rows() ? bounds.rows : bounds.tokens;
    }
    bool gathers() const { return record_.gather.columns() > 0; }
    bool prepares() const { return record_.prologue != Prologue::kNone || record_.rotate != 0 || gathers(); }
    // Values of x.
    int64_t input_values(int64_t rows) const {
        return gathers() ? record_.gather.input_values() : rows * columns_ * (is_gate(record_.prologue) ? 2 : 1);
    }
    bool keeps_floats() const { return uses_floats_ && prepares(); }
    bool changes_rows() const { return prepares() || num_apart_ > 0; }
    Regions regions(uint8_t* shared, int64_t rows) const;
    // The rows that weights meet in integers or bfloat16.
    const uint8_t* rounded(const Regions& region) const {
        return given_ ? reinterpret_cast<const uint8_t*>(record_.x) : region.quantized;
    }
    int64_t rows_at_once() const {
        return kPanelTokens * std::max<int64_t>(1, kPreparedValues / (kPanelTokens * columns_));
    }
    void prepare_panel(Context& context, int64_t first, int64_t last, int64_t rows, uint8_t* own) const;
    void apply_prologue(const KernelTable& kernels, int64_t row, float* to) const;
    void find_apart(const Context& context);
    void take_apart(float* row, float* to) const;
    void multiply(Context& context, const Chunk& chunk, int thread) const;
    void finish(const KernelTable& kernels, int64_t first, int64_t last) const;
    std::vector<Chunk> cut(Cut cut, int threads) const;
    static void share_out(const std::vector<Chunk>& runs, Cut cut, int threads, std::vector<Chunk>& chunks);
    std::vector<Chunk> by_rows(std::vector<Chunk> chunks, int threads) const;
    const std::vector<Chunk>& chunks(int64_t rows) const { return rows > kFewTokens ? many_chunks_ : few_chunks_; }

    LinearRecord record_;
    int64_t columns_, width_;
    // Weights take rows as they are, with zeros where columns are kept apart, or in int8, which has them too.
    bool uses_floats_, uses_rest_, uses_int8_;
    int64_t num_apart_;
    std::vector<int32_t> apart_;  // the columns kept apart, once a strip has told them
    std::vector<Chunk> few_chunks_, many_chunks_;
    Prologue gate_ = Prologue::kNone;  // that this one's sums go through
    bool given_ = false;               // x are rounded rows already
};

}  // namespace pintpot
