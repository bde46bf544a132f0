// Products of many tokens on the tile unit of AMX: the sums of strips_int8.h, for 16 tokens and 16 rows at a time.
//
// A tile product and the store of its sums take 16 cycles each, whatever the depth, and go on beside each other; what is done with
// 256 sums (a conversion, a product for their weights' scale, one for their tokens', a sum) takes 32 on two vector pipes, of
// which one multiplies nothing while tiles are in use. So tiles are one piece of groups ahead and hand their sums over
// through a buffer in the first cache, by turns with the vectors: the processor then does both at once, as far as it can.
#pragma once
#include "panel.h"
#include "strips_out.h"
#include "tiles.h"

namespace pintpot {
namespace {

// A stretch of a strip, expanded for tiles: signed bytes, scales as float32 [half or m][16].
template <bool AFFINE, int HALVES, int PLANES>
struct Tiled {
  static constexpr int kHalves = HALVES, kPlanes = PLANES, kSums = HALVES * PLANES, kZero = AFFINE ? 0 : 128;
  static constexpr bool kAffine = AFFINE;
  static constexpr uint32_t kFlip = AFFINE ? 0 : 0x80808080u;
  static constexpr int64_t kScaleBytes = 64 * (HALVES + (AFFINE ? 1 : 0));
  static constexpr int64_t kRecordBytes = kTileTokens * PanelOf<PLANES>::kTokenBytes;
  static INLINE void keep(const Scales& s, uint8_t* at) {
    UNROLL for (int half = 0; half < HALVES; ++half) store(at + half * 64, s.d[half]);
    if constexpr (AFFINE) store(at + HALVES * 64, s.m);
  }
};

constexpr int kSlots = 8;  // products of a piece: tiles of sums in a buffer of 8 KiB

// Some groups of one panel of tokens, at most kSlots products: their first record and expanded group.
struct Piece {
  const uint8_t* record;
  const uint8_t* planes;
  const uint8_t* scales;
  float* out;
  int64_t num_groups;
  bool begins, ends;  // with the panel's first group, with its last one
  int32_t* sums;      // [group][strip][half][plane][16 tokens][16 rows]
};

// The product in slot SLOT of `next`, in a tile of its own; what the second slot before it has is stored.
template <class E, int S, int SLOT>
INLINE void tile_product(const Stretch& c, const Piece& now, const Piece& next) {
  constexpr int kGroup = S * E::kSums, N = SLOT % 4;
  constexpr int kStrip = SLOT / E::kSums % S, kHalf = SLOT % E::kSums / E::kPlanes, kPlane = SLOT % E::kPlanes;
  constexpr bool kShares = S == 2 && E::kSums == 1;  // both strips meet a group's activations in turn
  constexpr int kActivations = kShares ? 4 + N / 2 : 4 + N % 2, kWeights = 6 + N % 2, kOlder = (SLOT + kSlots - 2) % kSlots;
  const Piece& older = SLOT < 2 ? now : next;
  if (kOlder / kGroup < older.num_groups) tile_store<kOlder % 4>(older.sums + kOlder * 256);
  if (SLOT / kGroup >= next.num_groups) return;
  tile_zero<N>();
  if (!kShares || N % 2 == 0)
    tile_load<kActivations>(next.record + SLOT / kGroup * E::kRecordBytes + kPlane * kTileTokens * 32 + kHalf * 16, 32);
  tile_load<kWeights>(next.planes + kStrip * c.apart[1] + SLOT / kGroup * 512 + kHalf * 256, 64);
  tile_dot<N, kActivations, kWeights>();
}
template <class E, int S, int FIRST, int COUNT>
INLINE void tile_products(const Stretch& c, const Piece& now, const Piece& next) {
  tile_product<E, S, FIRST>(c, now, next);
  if constexpr (COUNT > 1) tile_products<E, S, FIRST + 1, COUNT - 1>(c, now, next);
}

// float32 of the exact sum of one half, of one token and strip. A second plane's sum lies a tile behind; 254 times the one
// and the other, fused, is their integer's nearest float32.
template <class E>
INLINE VF tile_sum(const int32_t* sums, int half) {
  const int32_t* at = sums + half * E::kPlanes * 256;
  const VF sum = to_float(load<VI>(at));
  if constexpr (E::kPlanes == 1) return sum;
  return fused(sum, splat(254.0f), to_float(load<VI>(at + 256)));
}

// Group GROUP of a piece and T tokens from FIRST on: what its sums come to, onto acc.
template <class E, int S, int T, int FIRST, int GROUP>
INLINE void add_sums(const Stretch& c, const Piece& piece, VF (&acc)[S][T][1]) {
  using P = PanelOf<E::kPlanes>;
  const int8_t* record = (const int8_t*)piece.record + GROUP * E::kRecordBytes;
  as_one_base(record);
  const float* s = (const float*)(record + kTileTokens * P::kScale) + FIRST;
  const float* o = (const float*)(record + kTileTokens * P::kOffset) + FIRST;
  UNROLL for (int t = 0; t < T; ++t)
    UNROLL for (int i = 0; i < S; ++i) {
      const int32_t* at = piece.sums + ((GROUP * S + i) * E::kSums * 16 + FIRST + t) * 16;
      const uint8_t* scale = piece.scales + i * c.apart[0] + GROUP * E::kScaleBytes;
      VF scaled = tile_sum<E>(at, 0) * load<VF>(scale);
      if constexpr (E::kHalves == 2) scaled = scaled + tile_sum<E>(at, 1) * load<VF>(scale + 64);
      VF total = acc[i][t][0] + scaled * s[t];
      if constexpr (E::kAffine) total = total + load<VF>(scale + E::kHalves * 64) * o[t];
      acc[i][t][0] = total;
    }
}

// Group GROUP of `now`, with the products that are due meanwhile, and the groups behind it.
template <class E, int S, int T, int STEP, int GROUP>
INLINE void go_on(const Stretch& c, const Piece& now, const Piece& next, VF (&acc)[S][T][1]) {
  constexpr int kGroups = kSlots / (S * E::kSums);
  tile_products<E, S, (STEP + GROUP) * E::kSums, E::kSums>(c, now, next);
  if constexpr (STEP == 0) ask_for_next<S>(*c.ahead);
  if (GROUP < now.num_groups) add_sums<E, S, T, STEP / kGroups * T, GROUP>(c, now, acc);
  if constexpr (GROUP + 1 < kGroups) go_on<E, S, T, STEP, GROUP + 1>(c, now, next, acc);
}
template <int S, int T>
INLINE void load_totals(const VF* totals, VF (&acc)[S][T][1]) {
  UNROLL for (int i = 0; i < S; ++i)
    UNROLL for (int t = 0; t < T; ++t) acc[i][t][0] = totals[i * T + t];
}
template <int S, int T>
INLINE void store_totals(const VF (&acc)[S][T][1], VF* totals) {
  UNROLL for (int i = 0; i < S; ++i)
    UNROLL for (int t = 0; t < T; ++t) totals[i * T + t] = acc[i][t][0];
}

// Sums of `now` go onto its totals, T tokens at a time, while tiles multiply `next`.
template <class E, int S, int STEP>
INLINE void add_and_multiply(const Stretch& c, const Piece& now, const Piece& next, VF* totals) {
  constexpr int T = kTileTokens / S, kGroups = kSlots / (S * E::kSums), kFirst = STEP / kGroups * T;
  VF acc[S][T][1] = {};
  float* out = now.out + kFirst * c.stride;
  if (now.begins)  // stores keep their order, and those of tiles would wait behind one that misses the caches
    UNROLL for (int t = 0; t < T; ++t)
      UNROLL for (int i = 0; i < S; ++i) __builtin_prefetch(out + t * c.stride + i * 16, 1);
  if (!now.begins) load_totals<S, T>(totals + kFirst * S, acc);
  else if (!c.fresh)
    UNROLL for (int i = 0; i < S; ++i) load_out<T>(out + i * 16, c.stride, i + 1 < S ? 16 : c.rows, acc[i]);
  go_on<E, S, T, STEP, 0>(c, now, next, acc);
  if (!now.ends) store_totals<S, T>(acc, totals + kFirst * S);
  else
    UNROLL for (int i = 0; i < S; ++i) store_out<T>(out + i * 16, c.stride, i + 1 < S ? 16 : c.rows, acc[i]);
  if constexpr (kFirst + T < kTileTokens) add_and_multiply<E, S, STEP + kGroups>(c, now, next, totals);
}

// All panels from c's on.
template <class E, int S>
__attribute__((noinline)) void tile_panels(const Stretch& c, int64_t num_panels) {
  constexpr int64_t kMost = kSlots / (S * E::kSums);
  alignas(64) int32_t sums[2][kSlots * 256];
  VF totals[S * kTileTokens];
  const int64_t pieces = (c.num_groups + kMost - 1) / kMost;
  Piece now = {}, next = {};
  for (int64_t panel = 0, i = 0, turn = 0; panel <= num_panels; ++turn) {
    const int64_t first = c.num_groups * i / pieces, stop = c.num_groups * (i + 1) / pieces;
    next = {c.panel + panel * c.next_panel + first * E::kRecordBytes, c.planes + first * 512, c.scales + first * E::kScaleBytes,
            c.out + panel * kTileTokens * c.stride, panel < num_panels ? stop - first : 0, i == 0, i + 1 == pieces, sums[turn % 2]};
    if (turn == 0) tile_products<E, S, 0, kSlots>(c, now, next);
    else add_and_multiply<E, S, 0>(c, now, next, totals);
    if (panel == num_panels) break;
    now = next;
    if (++i == pieces) ++panel, i = 0;
  }
}

}  // namespace
}  // namespace pintpot
