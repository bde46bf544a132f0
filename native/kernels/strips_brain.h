// Products of packed weights and bfloat16 activations, for prompts on machines that multiply such tiles: see `StripsCall` for
// the order of every sum. Weights are expanded to bfloat16 a stretch of groups at a time, for two strips, and meet all
// tokens; while they do, vectors expand the next two, a group (60 cycles) every so many products.
#pragma once
#include "brain_tiles.h"
#include "strips_out.h"

namespace pintpot {
namespace {

constexpr int64_t kBrainGroups = 20;  // of two strips, expanded at a time: 40 KiB, in the first cache

// One group of a strip as [16 pairs of columns][16 rows][2] bfloat16: fma(B + code, d, m - B * d), where the code lies in the
// mantissa of B, and -zero * d is m where there is none.
template <class F>
INLINE void expand_brain(const uint8_t* scales, const uint8_t* planes, int64_t g, int part, uint8_t* to) {
  constexpr int kUp = F::kBits < 8 ? 16 : 15;
  constexpr float kBase = F::kBits < 8 ? 128.0f : 256.0f;
  constexpr uint32_t kBaseBits = F::kBits < 8 ? 0x43000000u : 0x43800000u;
  const Scales s = F::scales(scales, g, part);
  VF base[F::kHalves];
  UNROLL for (int half = 0; half < F::kHalves; ++half)
    base[half] = F::kAffine ? s.m - s.d[half] * kBase : s.d[half] * -(kBase + (float)F::kZero);
  each_quad([&](auto index) {
    constexpr int kQ = decltype(index)::value, kHalf = F::kHalves == 2 ? kQ / 4 : 0;
    const VU q = F::template quad<kQ>(planes, g, part);
    VF w[4];
    UNROLL for (int i = 0; i < 4; ++i) {
      const VU code = (8 * i > kUp ? q >> (8 * i > kUp ? 8 * i - kUp : 0) : q << (8 * i > kUp ? 0 : kUp - 8 * i)) & (255u << kUp);
      w[i] = fused((VF)(code | kBaseBits), s.d[kHalf], base[kHalf]);
    }
    store(to + kQ * 128 + part * kWidth * 4, brain_pair(w[0], w[1]));
    store(to + kQ * 128 + 64 + part * kWidth * 4, brain_pair(w[2], w[3]));
  });
}

template <class F>
__attribute__((noinline)) void expand_next(Unpacking& u) {
  const uint8_t* strip = u.strip + u.done * u.strip_bytes;
  UNROLL for (int part = 0; part < kParts; ++part)
    expand_brain<F>(strip, strip + u.scale_bytes, u.first + u.group, part, u.to + (u.done * kBrainGroups + u.group) * kBrainRecord);
  if (++u.group == u.num_groups) u.group = 0, ++u.done;
}

// One or two expanded strips from `index` on times all tokens; `tail` has those of the last panel where that is not whole.
template <int S>
INLINE void multiply_panels_of_brain(const StripsCall& c, int64_t index, BrainStretch s, const uint8_t* tail) {
  const int64_t left = c.num_rows - index * 16, rows = left < 16 * S ? left : 16 * S, whole = c.num_tokens / kPanelTokens;
  auto move = [&](int64_t panels) { s.panel += panels * s.next_panel, s.out += panels * 16 * s.stride; };
  int64_t panel = 0;
  if (rows == 16 * S) {
    for (; panel + 2 <= whole; panel += 2, move(2)) multiply_brain<2, S>(s);
    for (; panel < whole; ++panel, move(1)) multiply_brain<1, S>(s);
  } else {
    for (; panel < whole; ++panel, move(1)) multiply_ragged<S>(s, 16, rows);
  }
  s.panel = tail;
  if (c.num_tokens % kPanelTokens != 0) multiply_ragged<S>(s, c.num_tokens % kPanelTokens, rows);
}

// The last panel's groups, of tokens that do not fill it, as a whole panel would have them: zeros beyond.
INLINE void copy_tail(const StripsCall& c, int64_t first, int64_t n, uint8_t* to) {
  const int64_t width = c.num_tokens % kPanelTokens, groups = (c.k + 31) / 32;
  if (width == 0) return;
  const uint8_t* from = (const uint8_t*)c.quantized + (c.num_tokens - width) * groups * 64 + first * width * 64;
  for (int64_t g = 0; g < n; ++g, from += width * 64, to += kBrainRecord) {
    memcpy(to, from, (size_t)width * 64);
    memset(to + width * 64, 0, (size_t)(kBrainRecord - width * 64));
  }
}

// Stretches of groups one after the other, so that what all tokens have there stays in the second cache for all strips; of
// each the strips, two by two, those after them unpacked meanwhile.
INLINE void multiply_by_stretches(const StripsCall& c, int64_t strip_bytes, int64_t scale_bytes, void (*expand)(Unpacking&)) {
  alignas(64) uint8_t weights[2][2 * kBrainGroups * kBrainRecord];
  alignas(64) uint8_t tail[kBrainGroups * kBrainRecord];
  const int64_t groups = (c.k + 31) / 32, stretches = (groups + kBrainGroups - 1) / kBrainGroups;
  const int64_t pairs = (c.num_strips + 1) / 2, blocks = (c.num_tokens + 2 * kPanelTokens - 1) / (2 * kPanelTokens);
  auto unpacking = [&](int64_t turn) {
    const int64_t stretch = turn / pairs, index = turn % pairs * 2, left = c.num_strips - index;
    const int64_t first = groups * stretch / stretches, n = groups * (stretch + 1) / stretches - first;
    const uint8_t* strip = (const uint8_t*)c.strips + index * strip_bytes;
    return Unpacking{expand, strip, strip_bytes, scale_bytes, first, n, left < 2 ? left : 2, weights[turn % 2]};
  };
  Unpacking now = unpacking(0);
  now.finish();
  for (int64_t turn = 0; turn < stretches * pairs; ++turn) {
    Unpacking next = unpacking(turn + 1);
    if (turn + 1 == stretches * pairs) next.num_strips = 0;
    next.every = next.due = blocks > 2 ? blocks / 2 : 1;
    const int64_t index = turn % pairs * 2;
    if (index == 0) copy_tail(c, now.first, now.num_groups, tail);
    const BrainStretch s = {now.to, kBrainGroups * kBrainRecord, (const uint8_t*)c.quantized + now.first * kBrainRecord, groups * kBrainRecord, now.num_groups,
                            c.out + index * 16, c.out_stride, now.first == 0, &next};
    if (index + 2 <= c.num_strips) multiply_panels_of_brain<2>(c, index, s, tail);
    else multiply_panels_of_brain<1>(c, index, s, tail);
    next.finish();
    now = next;
  }
}

template <class F>
void strips_brain(const StripsCall& c) {
#if defined(__AMX_INT8__)
  const TileUse use(TileShapes(64));
#endif
  multiply_by_stretches(c, strip_step<F>(c), scale_bytes<F>(c.k), expand_next<F>);
}

}  // namespace
}  // namespace pintpot
