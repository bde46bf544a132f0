// The two products of attention in tiles of registers: R query rows times C vectors of 16 keys, or of 16 columns.
#pragma once
#include "cache.h"

namespace pintpot {
namespace {

template <int N>
struct Int {
  static constexpr int value = N;
};

constexpr int kMostRows = kWidth == 16 ? 8 : kWidth == 8 ? 4 : 2;  // of one tile
constexpr int kSums = kWidth == 16 ? 24 : 8;                       // registers for a tile's sums
constexpr int64_t kPageVectors = kPageTokens / 16;

// Vectors of a tile of R rows: a power of 2 up to 4.
constexpr int tile_vectors(int rows) {
  const int most = kSums / (rows * kParts);
  return most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

// f(Int<R>, first) for tiles of rows that make up n.
template <int R, class F>
INLINE void last_rows(int64_t left, int64_t first, F f) {
  if (left == R) f(Int<R>(), first);
  else if constexpr (R > 1) last_rows<R - 1>(left, first, f);
}
template <class F>
INLINE void by_rows(int64_t n, F f) {
  int64_t first = 0;
  for (; first + kMostRows <= n; first += kMostRows) f(Int<kMostRows>(), first);
  last_rows<kMostRows - 1>(n - first, first, f);
}

// Scores of R rows q[R][dim] and C vectors of keys, from vector `first` of a run of pages on, to scores[R][kSegmentTokens]
// (at the run's first key). Meanwhile the same lines of the pages `ahead` are asked for.
template <int32_t FORMAT, int R, int C>
__attribute__((noinline)) void score_tile(const float* q, int64_t dim, const uint8_t* const* pages,
                                          const uint8_t* const* ahead, int64_t first, float* scores) {
  constexpr int64_t kRow = kPageTokens * kValueBytes<FORMAT>;
  const uint8_t* at[C];
  UNROLL for (int i = 0; i < C; ++i)
    at[i] = pages[(first + i) / kPageVectors] + (first + i) % kPageVectors * 16 * kValueBytes<FORMAT>;
  const uint8_t* ask[(C + 1) / 2];
  UNROLL for (int i = 0; i < C; i += 2) ask[i / 2] = ahead[(first + i) / kPageVectors];
  Pack total[R][C];
  UNROLL for (int r = 0; r < R; ++r)
    UNROLL for (int i = 0; i < C; ++i) total[r][i] = spread(0.0f);
  for (int64_t d = 0; d < dim;) {
    Pack scale[C];
    if constexpr (FORMAT == kCacheSym8c) {
      const int64_t offset = kPageTokens * dim + d / 32 * kPageTokens * 2;
      UNROLL for (int i = 0; i < C; ++i)
        scale[i] = load16_f16(pages[(first + i) / kPageVectors] + offset + (first + i) % kPageVectors * 32);
      UNROLL for (int i = 0; i < (C + 1) / 2; ++i) __builtin_prefetch(ask[i] + offset);
    }
    for (const int64_t stop = d + 32; d < stop; ++d) {
      if constexpr (FORMAT != kCacheF32)
        UNROLL for (int i = 0; i < (C + 1) / 2; ++i) __builtin_prefetch(ask[i] + d * kRow);
      Pack key[C];
      UNROLL for (int i = 0; i < C; ++i) {
        key[i] = load_stored<FORMAT>(at[i] + d * kRow);
        if constexpr (FORMAT == kCacheSym8c) key[i] = key[i] * scale[i];
      }
      UNROLL for (int r = 0; r < R; ++r) {
        const Pack query = spread(q[r * dim + d]);
        UNROLL for (int i = 0; i < C; ++i) total[r][i] = total[r][i] + query * key[i];
      }
    }
  }
  UNROLL for (int r = 0; r < R; ++r)
    UNROLL for (int i = 0; i < C; ++i) store16(scores + r * kSegmentTokens + (first + i) * 16, total[r][i]);
}

// sums[R][stride] += weights[R][kSegmentTokens] times the first n values of a run of pages, keys in order; C vectors of
// columns. scales: of sym8c, [page][32 tokens][head_dim / 32] as float32. Meanwhile the pages `ahead` are asked for.
template <int32_t FORMAT, int R, int C>
__attribute__((noinline)) void value_tile(const float* weights, int64_t dim, const uint8_t* const* pages,
                                          const uint8_t* const* ahead, const float* scales, int64_t column, int64_t n,
                                          float* sums, int64_t stride) {
  constexpr int64_t kBytes = kValueBytes<FORMAT>;
  Pack total[R][C];
  UNROLL for (int r = 0; r < R; ++r)
    UNROLL for (int i = 0; i < C; ++i) total[r][i] = load16(sums + r * stride + column + i * 16);
  for (; n > 0; n -= kPageTokens, weights += kPageTokens) {
    const uint8_t *at = *pages++ + column * kBytes, *ask = *ahead++ + column * kBytes;
    if constexpr (FORMAT == kCacheSym8c)
      UNROLL for (int64_t i = 0; i < (C + 1) / 2; ++i)
        __builtin_prefetch(ask + kPageTokens * dim + column + i * 64);  // its scales: 2 bytes a column
    for (int64_t j = 0; j < (n < kPageTokens ? n : kPageTokens); ++j, at += dim * kBytes) {
      if constexpr (FORMAT != kCacheF32) {
        UNROLL for (int64_t line = 0; line < C * 16 * kBytes; line += 64) __builtin_prefetch(ask + line);
        ask += dim * kBytes;
      }
      Pack value[C];
      UNROLL for (int i = 0; i < C; ++i) {
        value[i] = load_stored<FORMAT>(at + i * 16 * kBytes);
        if constexpr (FORMAT == kCacheSym8c) value[i] = value[i] * spread(scales[(column + i * 16) / 32]);
      }
      if constexpr (FORMAT == kCacheSym8c) scales += dim / 32;
      UNROLL for (int r = 0; r < R; ++r) {
        const Pack weight = spread(weights[r * kSegmentTokens + j]);
        UNROLL for (int i = 0; i < C; ++i) total[r][i] = total[r][i] + weight * value[i];
      }
    }
  }
  UNROLL for (int r = 0; r < R; ++r)
    UNROLL for (int i = 0; i < C; ++i) store16(sums + r * stride + column + i * 16, total[r][i]);
}

}  // namespace
}  // namespace pintpot
