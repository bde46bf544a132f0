// A linear whose sums go through the gate of the next one while they are at hand.
#include "engine/linear.h"

namespace pintpot {

// A gate and an up of one format that rest in memory, nothing added to them, and of the next one nothing but the gate
// before rounding.
bool Linear::gates_for(const Linear& next) const {
    const LinearRecord &mine = record_, &theirs = next.record_;
    if (!mine.passes_on || theirs.x != mine.out || !is_gate(theirs.prologue) || theirs.rotate != 0) return false;
    if (mine.over_rows != theirs.over_rows || mine.rows != theirs.rows || mine.weights.size() != 2) return false;
    if (!mine.biases.empty() || mine.residual != nullptr || mine.post_norm != nullptr) return false;
    const Weight &gate = mine.weights[0], &up = mine.weights[1];
    return rounds_to_brain() && next.rounds_to_brain() && gate.rests_whole() && up.rests_whole() &&
           gate.format == up.format && gate.rows == next.columns_ && up.rows == next.columns_ &&
           next.columns_ % (2 * kStripRows) == 0;
}

void Linear::gate_for(Linear& next, int threads) {
    if (!gates_for(next)) return;
    gate_ = next.record_.prologue, next.given_ = true;
    const Weight& gate = record_.weights[0];
    many_chunks_.clear();
    share_out({{&gate, nullptr, nullptr, 0, gate.resident_strips, 0}}, kGatedCut, threads, many_chunks_);
    few_chunks_ = many_chunks_;
}

void Linear::multiply_gated(Context& context, const Chunk& chunk) const {
    const Weight &gate = record_.weights[0], &up = record_.weights[1];
    GatedCall call{};
    call.gate.format = gate.format;
    call.gate.planes = record_.planes;
    call.gate.strips = gate.resident + chunk.first_strip * gate.strip_bytes;
    call.gate.num_strips = chunk.num_strips;
    call.gate.k = columns_;
    call.gate.num_tokens = count(context);
    call.gate.quantized = rounded(regions(context.shared, count(context)));
    call.up = up.resident + chunk.first_strip * up.strip_bytes;
    call.kind = kind_of(gate_);
    call.panels = record_.out;
    call.columns = gate.rows;
    call.first_column = chunk.column;
    context.kernels->gated_strips(&call);
}

}  // namespace pintpot
