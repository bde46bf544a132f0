// Two products of packed weights and bfloat16 activations, and the gate between them, for prompts (kernels.h, `GatedCall`): a strip
// of gates and one of ups meet a block of tokens, and their sums go through the gate while they lie in the first caches.
#pragma once
#include "gate.h"
#include "strips_brain.h"

namespace pintpot {
namespace {

constexpr int64_t kGatedTokens = 512;       // of a block, at most: their sums take 64 KiB
constexpr int64_t kGatedBytes = 1 << 20;    // of a block's activations, which stay in the second cache for all strips

INLINE int64_t tokens_of_block(int64_t groups) {
  const int64_t tokens = kGatedBytes / (groups * 64) / (2 * kPanelTokens) * (2 * kPanelTokens);
  return tokens < 2 * kPanelTokens ? 2 * kPanelTokens : tokens < kGatedTokens ? tokens : kGatedTokens;
}

// Sums [n][16 gates, 16 ups] of tokens from `first` on to their places in panels, columns [column, column + 16).
template <class Z>
INLINE void put_gated(const GatedCall& c, const float* sums, int64_t first, int64_t n, int64_t column, Z opened) {
  const int64_t groups = c.columns / 32;
  for (int64_t panel = first; panel < first + n; panel += kPanelTokens) {
    const int64_t left = c.gate.num_tokens - panel, width = left < kPanelTokens ? left : kPanelTokens;
    uint8_t* to = (uint8_t*)c.panels + panel * groups * 64 + column / 32 * width * 64 + column % 32 * 2;
    for (int64_t t = 0; t < width; ++t, sums += 32, to += 64) put_pack(rough_gated(load16(sums), load16(sums + 16), opened), to);
  }
}

// Tokens [first, first + n), all strips.
template <class Z>
INLINE void gate_block(const GatedCall& c, int64_t first, int64_t n, int64_t strip_bytes, int64_t scale_bytes,
                       void (*expand)(Unpacking&), Z opened) {
  alignas(64) uint8_t weights[2][2 * kBrainGroups * kBrainRecord];
  alignas(64) uint8_t tail[kBrainGroups * kBrainRecord];
  alignas(64) float sums[kGatedTokens * 32];
  const int64_t groups = (c.gate.k + 31) / 32, stretches = (groups + kBrainGroups - 1) / kBrainGroups;
  const int64_t turns = c.gate.num_strips * stretches, blocks = (n + 2 * kPanelTokens - 1) / (2 * kPanelTokens);
  StripsCall block = c.gate;
  block.quantized = (const uint8_t*)c.gate.quantized + first * groups * 64;
  block.num_tokens = n, block.num_rows = 32;
  auto unpacking = [&](int64_t turn) {
    const int64_t stretch = turn % stretches, index = turn / stretches;
    const int64_t begin = groups * stretch / stretches, number = groups * (stretch + 1) / stretches - begin;
    const int64_t apart = (const uint8_t*)c.up - (const uint8_t*)c.gate.strips;
    return Unpacking{expand, (const uint8_t*)c.gate.strips + index * strip_bytes, apart, scale_bytes, begin, number, 2, weights[turn % 2]};
  };
  Unpacking now = unpacking(0);
  now.finish();
  for (int64_t turn = 0; turn < turns; ++turn) {
    Unpacking next = unpacking(turn + 1);
    if (turn + 1 == turns) next.num_strips = 0;
    next.every = next.due = blocks > 2 ? blocks / 2 : 1;
    if (turn == 0 || stretches > 1) copy_tail(block, now.first, now.num_groups, tail);
    multiply_panels_of_brain<2>(block, 0, {now.to, kBrainGroups * kBrainRecord, (const uint8_t*)block.quantized + now.first * kBrainRecord,
                                           groups * kBrainRecord, now.num_groups, sums, 32, now.first == 0, &next}, tail);
    if ((turn + 1) % stretches == 0) put_gated(c, sums, first, n, c.first_column + turn / stretches * 16, opened);
    next.finish();
    now = next;
  }
}

template <class F>
void strips_gated(const GatedCall& c) {
#if defined(__AMX_INT8__)
  const TileUse use(TileShapes(64));
#endif
  const int64_t tokens = c.gate.num_tokens, most = tokens_of_block((c.gate.k + 31) / 32);
  const auto all = [&](auto opened) {
    for (int64_t first = 0; first < tokens; first += most)
      gate_block(c, first, tokens - first < most ? tokens - first : most, strip_step<F>(c.gate), scale_bytes<F>(c.gate.k), expand_next<F>, opened);
  };
  if (c.kind == kSwiGlu) all(SwiGlu());
  else all(GeGlu());
}

}  // namespace
}  // namespace pintpot
