// Tile products of bfloat16: panels of 16 tokens by strips of 16 rows, over groups of 32 columns (kernels.h, `StripsCall`).
//
// A tile product takes 16 cycles, and its sums stay in tiles for a whole stretch of groups: nothing is done for a group but
// loads, 8 cycles each, of which 2 panels by 2 strips share 4 for 4 products. Vectors are free to expand what comes next.
#pragma once
#include "panel.h"
#include "group.h"
#if defined(__AMX_INT8__)
#include "tiles.h"
#endif

namespace pintpot {
namespace {

constexpr int64_t kBrainRecord = kPanelTokens * 64;  // bytes of a group: [16 tokens][32], or [16 pairs of columns][16 rows][2]

// Two vectors of columns, rounded, as the pairs that a tile of weights holds.
INLINE VU brain_pair(VF first, VF second) { return brain_bits(first) >> 16 | (brain_bits(second) & 0xffff0000u); }

// 16 columns of a token, rounded, to their place in a panel.
INLINE void put_pack(Pack a, uint8_t* to) {
  UNROLL for (int i = 0; i < kParts; ++i) store_lower(to + i * kWidth * 2, (VI)(brain_bits(a.v[i]) >> 16));
}

// Strips that are to be expanded, group by group, while others are multiplied.
struct Unpacking {
  void (*expand)(Unpacking& self);  // the next group
  const uint8_t* strip;
  int64_t strip_bytes, scale_bytes, first, num_groups, num_strips;
  uint8_t* to;
  int64_t every = 1;       // products of a group until it is the next one's turn
  int64_t due = 1, group = 0, done = 0;  // strips done

  INLINE void turn() {
    if (--due > 0) return;
    due = every;
    if (done < num_strips) expand(*this);
  }
  INLINE void finish() {
    while (done < num_strips) expand(*this);
  }
};

// A stretch of groups of one or two strips times one or two panels of 16 tokens.
struct BrainStretch {
  const uint8_t* weights;  // [group][kBrainRecord]
  int64_t next_strip;      // bytes
  const uint8_t* panel;    // [group][kBrainRecord]
  int64_t next_panel;      // bytes
  int64_t num_groups;
  float* out;
  int64_t stride;
  bool fresh;
  Unpacking* next;
};

#if defined(__AMX_INT8__)
template <int P, int S>
__attribute__((noinline)) void multiply_brain(const BrainStretch& c) {
  each_index<P * S>([&](auto index) {
    constexpr int kN = decltype(index)::value;
    float* out = c.out + kN / S * 16 * c.stride + kN % S * 16;
    if (c.fresh) tile_zero<kN>();
    else tile_load<kN>(out, c.stride * 4);
  });
  const uint8_t *a = c.panel, *w = c.weights;
  for (int64_t g = 0; g < c.num_groups; ++g, a += kBrainRecord, w += kBrainRecord) {
    tile_load<4>(a, 64);
    tile_load<6>(w, 64);
    tile_dot_brain<0, 4, 6>();
    if constexpr (S == 2) {
      tile_load<7>(w + c.next_strip, 64);
      tile_dot_brain<1, 4, 7>();
    }
    if constexpr (P == 2) {
      tile_load<5>(a + c.next_panel, 64);
      tile_dot_brain<S, 5, 6>();
      if constexpr (S == 2) tile_dot_brain<3, 5, 7>();
    }
    if (g < 16)
      UNROLL for (int i = 0; i < P * S; ++i) __builtin_prefetch(c.out + (i / S * 16 + g) * c.stride + i % S * 16, 1);
    c.next->turn();
  }
  each_index<P * S>([&](auto index) {
    constexpr int kN = decltype(index)::value;
    tile_store<kN>(c.out + kN / S * 16 * c.stride + kN % S * 16, c.stride * 4);
  });
}
#else
// What a tile product does, with two chains for each sum: of the even columns, and of the odd ones.
template <int P, int S>
__attribute__((noinline)) void multiply_brain(const BrainStretch& c) {
  for (int panel = 0; panel < P; ++panel)
    for (int strip = 0; strip < S; ++strip)
      for (int part = 0; part < kParts; ++part)
        for (int t = 0; t < kPanelTokens; ++t) {
          float* out = c.out + (panel * 16 + t) * c.stride + strip * 16 + part * kWidth;
          VF acc = c.fresh ? VF{} : load<VF>(out);
          for (int64_t g = 0; g < c.num_groups; ++g) {
            const uint8_t* a = c.panel + panel * c.next_panel + g * kBrainRecord + t * 64;
            const uint8_t* w = c.weights + strip * c.next_strip + g * kBrainRecord + part * kWidth * 4;
            VF even = {}, odd = {};
            for (int pair = 0; pair < 16; ++pair) {
              const VU both = load<VU>(w + pair * 64), x = splat((uint32_t)load32(a + pair * 4));
              even = fused((VF)(x << 16), (VF)(both << 16), even);
              odd = fused((VF)(x & 0xffff0000u), (VF)(both & 0xffff0000u), odd);
            }
            acc = acc + (even + odd);
          }
          store(out, acc);
        }
  for (int64_t g = 0; g < c.num_groups; ++g) c.next->turn();
}
#endif

// The same where tokens or rows end before the tile does: through a buffer.
template <int S>
__attribute__((noinline)) void multiply_ragged(BrainStretch c, int64_t tokens, int64_t rows) {
  alignas(64) float sums[16 * 16 * S];
  float* out = c.out;
  const int64_t stride = c.stride;
  if (!c.fresh)
    for (int64_t t = 0; t < 16; ++t)
      for (int64_t i = 0; i < 16 * S; ++i) sums[t * 16 * S + i] = t < tokens && i < rows ? out[t * stride + i] : 0.0f;
  c.out = sums, c.stride = 16 * S;
  multiply_brain<1, S>(c);
  for (int64_t t = 0; t < tokens; ++t) memcpy(out + t * stride, sums + t * 16 * S, (size_t)rows * 4);
}

}  // namespace
}  // namespace pintpot
