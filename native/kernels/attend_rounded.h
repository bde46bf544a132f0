// One segment of keys folded into a block of query rows whose products run in integers (kernels.h, `AttendCall::rounded`).
//
// Queries, keys, values and weights are 13 bits and a sign, pairs of them side by side in 32 bits, so that one
// instruction multiplies two and adds; the products of 32 columns, or keys, sum exactly.
#pragma once
#include "attend_segment.h"
#include "exp.h"

namespace pintpot {
namespace {

constexpr float kMostRounded = 8191.0f;  // 32 products of two such fit 31 bits
constexpr float kLeastRounded = 1e-30f;  // below it there is nothing to round
constexpr int64_t kPairs = kPageTokens / 2;

// total + a.low * b.low + a.high * b.high, each lane two signed halves.
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
INLINE VI add_pairs(VI total, VI a, VI b) { return (VI)_mm512_dpwssd_epi32((__m512i)total, (__m512i)a, (__m512i)b); }
#elif defined(__AVXVNNI__)
INLINE VI add_pairs(VI total, VI a, VI b) { return (VI)_mm256_dpwssd_avx_epi32((__m256i)total, (__m256i)a, (__m256i)b); }
#elif defined(__AVX2__)
INLINE VI add_pairs(VI total, VI a, VI b) {
  return (VI)_mm256_add_epi32((__m256i)total, _mm256_madd_epi16((__m256i)a, (__m256i)b));
}
#elif defined(__SSE2__)
INLINE VI add_pairs(VI total, VI a, VI b) {
  return (VI)_mm_add_epi32((__m128i)total, _mm_madd_epi16((__m128i)a, (__m128i)b));
}
#else
INLINE VI add_pairs(VI total, VI a, VI b) { return total + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16); }
#endif
// rint(x) in the lower half of each lane, |x| < 2^15; what else is in it is of no meaning.
INLINE VI lower_half(VF x) { return (VI)(x + kMagic); }
INLINE VI pair(VF low, VF high) { return (lower_half(low) & 0xffff) | (VI)((VU)lower_half(high) << 16); }

// To integers, and what one is worth, where these are the largest magnitudes.
INLINE Pack ups(Pack most) {
  return each([&](int i) { return most.v[i] > kLeastRounded ? kMostRounded / most.v[i] : splat(0.0f); });
}
INLINE Pack worths(Pack most) {
  return each([&](int i) { return most.v[i] > kLeastRounded ? most.v[i] * (1 / kMostRounded) : splat(0.0f); });
}
INLINE float most_of(const float* x, int64_t n) {
  Pack most = magnitude(load16(x));
  for (int64_t i = 16; i < n; i += 16) most = max(most, magnitude(load16(x + i)));
  return largest(most);
}
// Rows of n floats (a multiple of 16), `stride` apart, as halves onto themselves. most: of each row, padded to 16; then
// what one is worth.
INLINE void round_rows(float* x, int64_t num_rows, int64_t n, int64_t stride, float* most) {
  for (int64_t first = 0; first < num_rows; first += 16) {
    alignas(64) float up[16];
    store16(up, ups(load16(most + first)));
    store16(most + first, worths(load16(most + first)));
    for (int64_t row = first; row < first + 16 && row < num_rows; ++row)
      for (int64_t i = 0; i < n; i += 16) {
        const Pack a = load16(x + row * stride + i) * spread(up[row - first]);
        UNROLL for (int part = 0; part < kParts; ++part)
          store_lower((int16_t*)(x + row * stride) + i + part * kWidth, lower_half(a.v[part]));
      }
  }
}
INLINE void round_queries(int64_t dim, Block& block) {
  for (int64_t row = 0; row < block.num_rows; ++row) block.query_scales[row] = most_of(block.queries + row * dim, dim);
  round_rows(block.queries, block.num_rows, dim, dim, block.query_scales);
}

// Keys of a page and head as pairs of columns [head_dim / 2][32 tokens], and what one is worth: scales [32].
template <int32_t FORMAT>
INLINE void round_keys(int64_t dim, const uint8_t* page, float* wide, int32_t* to, float* scales) {
  widen_keys<FORMAT>(dim, page, wide);
  for (int64_t token = 0; token < kPageTokens; token += 16) {
    Pack most = magnitude(load16(wide + token));
    for (int64_t d = 1; d < dim; ++d) most = max(most, magnitude(load16(wide + d * kPageTokens + token)));
    const Pack up = ups(most);
    store16(scales + token, worths(most));
    for (int64_t d = 0; d < dim; d += 2) {
      const float* at = wide + d * kPageTokens + token;
      const Pack low = load16(at) * up, high = load16(at + kPageTokens) * up;
      UNROLL for (int i = 0; i < kParts; ++i)
        store(to + d / 2 * kPageTokens + token + i * kWidth, pair(low.v[i], high.v[i]));
    }
  }
}
// The first n values of a page and head as pairs of tokens [16][head_dim], zeros beyond, and what one is worth.
template <int32_t FORMAT>
INLINE void round_values(int64_t dim, const uint8_t* page, int64_t n, float* wide, int32_t* to, float* scales) {
  widen_values<FORMAT>(dim, page, n, wide);
  if (n < kPageTokens) memset(wide + n * dim, 0, (kPageTokens - n) * dim * sizeof(float));
  alignas(64) float up[kPageTokens];
  for (int64_t token = 0; token < kPageTokens; ++token) scales[token] = most_of(wide + token * dim, dim);
  for (int64_t token = 0; token < kPageTokens; token += 16) {
    const Pack most = load16(scales + token);
    store16(up + token, ups(most)), store16(scales + token, worths(most));
  }
  for (int64_t j = 0; j < kPairs; ++j)
    for (int64_t d = 0; d < dim; d += 16) {
      const float* at = wide + 2 * j * dim + d;
      const Pack low = load16(at) * spread(up[2 * j]), high = load16(at + dim) * spread(up[2 * j + 1]);
      UNROLL for (int i = 0; i < kParts; ++i)
        store(to + j * dim + d + i * kWidth, pair(low.v[i], high.v[i]));
    }
}

// R rows times C vectors of 16, over 16 pairs: rows[R][row_pairs], to[16][width]; f(r, i, sums as float).
template <int R, int C, class F>
INLINE void multiply_pairs(const int32_t* rows, int64_t row_pairs, const int32_t* to, int64_t width, F f) {
  VI sums[R][C][kParts];
  UNROLL for (int r = 0; r < R; ++r)
    UNROLL for (int i = 0; i < C; ++i)
      UNROLL for (int p = 0; p < kParts; ++p) sums[r][i][p] = VI{};
  for (int64_t j = 0; j < kPairs; ++j, to += width) {
    VI column[C][kParts];
    UNROLL for (int i = 0; i < C; ++i)
      UNROLL for (int p = 0; p < kParts; ++p) column[i][p] = load<VI>(to + i * 16 + p * kWidth);
    UNROLL for (int r = 0; r < R; ++r) {
      const VI row = splat(rows[r * row_pairs + j]);
      UNROLL for (int i = 0; i < C; ++i)
        UNROLL for (int p = 0; p < kParts; ++p) sums[r][i][p] = add_pairs(sums[r][i][p], column[i][p], row);
    }
  }
  UNROLL for (int r = 0; r < R; ++r)
    UNROLL for (int i = 0; i < C; ++i) f(r, i, each([&](int p) { return to_float(sums[r][i][p]); }));
}

constexpr int rounded_vectors(int rows) { return tile_vectors(rows) > 2 ? 2 : tile_vectors(rows); }

// Scores of R rows and a page: pairs of columns 32 at a time, the first of them before the others.
template <int R>
__attribute__((noinline)) void rounded_scores(const int32_t* rows, int64_t row_pairs, const float* row_scales, int64_t dim,
                                              const int32_t* keys, const float* key_scales, float* scores) {
  constexpr int C = rounded_vectors(R);
  for (int64_t token = 0; token < kPageTokens; token += C * 16)
    for (int64_t d = 0; d < dim; d += 32)
      multiply_pairs<R, C>(rows + d / 2, row_pairs, keys + d / 2 * kPageTokens + token, kPageTokens,
                           [&](int r, int i, Pack sum) {
        float* at = scores + r * kSegmentTokens + token + i * 16;
        if (d > 0) sum = load16(at) + sum;
        if (d + 32 == dim) sum = sum * load16(key_scales + token + i * 16) * spread(row_scales[r]);
        store16(at, sum);
      });
}
// sums[R][stride] = weights times the values of a page: added to those of pages before, and of the last one `worth`.
template <int R, bool FIRST, bool LAST>
__attribute__((noinline)) void rounded_values(const int32_t* weights, int64_t dim, const int32_t* values,
                                              const float* worth, float* sums, int64_t stride) {
  constexpr int C = rounded_vectors(R);
  for (int64_t d = 0; d < dim; d += C * 16)
    multiply_pairs<R, C>(weights, kSegmentTokens, values + d, dim, [&](int r, int i, Pack sum) {
      float* at = sums + r * stride + d + i * 16;
      if (!FIRST) sum = load16(at) + sum;
      if (LAST) sum = sum * spread(worth[r]);
      store16(at, sum);
    });
}
template <bool FIRST, bool LAST>
INLINE void rounded_page(int64_t dim, int64_t page, const int32_t* values, const float* worth, Block& block) {
  by_rows(block.num_rows, [&](auto rows, int64_t row) {
    rounded_values<decltype(rows)::value, FIRST, LAST>(
        (const int32_t*)block.scores + row * kSegmentTokens + page * kPairs, dim, values + page * kPairs * dim, worth + row,
        block.sums + row * block.sums_stride, block.sums_stride);
  });
}

// Scores to weights times what a value of their key is worth, as halves where they stood; what one of each row is worth.
INLINE void weigh_rounded(const AttendCall& c, const Pages& pages, const float* value_scales, Block& block, float* worth) {
  const int64_t n = pages.number * kPageTokens;
  for (int64_t row = 0; row < block.num_rows; ++row)
    block.maxima[row] = largest_score(c, pages, block.positions[row], block.scores + row * kSegmentTokens);
  for (int64_t row = 0; row < block.num_rows; ++row) {
    float* at = block.scores + row * kSegmentTokens;
    block.masses[row] = weigh(at, n, block.maxima[row]);
    Pack most = spread(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
      const Pack product = load16(at + i) * load16(value_scales + i);
      store16(at + i, product);
      most = max(most, product);
    }
    worth[row] = largest(most);
  }
  round_rows(block.scores, block.num_rows, n, kSegmentTokens, worth);
}

template <int32_t FORMAT>
void fold_rounded(const AttendCall& c, const Pages& pages, Block& block) {
  alignas(64) float wide[kPageTokens * kMaxHeadDim];
  alignas(64) int32_t packed[kSegmentPages * kPairs * kMaxHeadDim];
  alignas(64) float scales[kSegmentTokens];
  alignas(64) float worth[kRows];
  const int64_t dim = c.cache.head_dim;
  const int32_t* const queries = (const int32_t*)block.queries;
  for (int64_t page = 0; page < pages.number; ++page) {
    round_keys<FORMAT>(dim, pages.lines[page], wide, packed, scales);
    ask_for(c.cache, pages.lines[page + 1]);
    by_rows(block.num_rows, [&](auto rows, int64_t row) {
      constexpr int R = decltype(rows)::value;
      if (keys_seen(block, row + R - 1, pages.first_key[page]) == 0) return;
      rounded_scores<R>(queries + row * dim, dim, block.query_scales + row, dim, packed, scales,
                        block.scores + row * kSegmentTokens + page * kPageTokens);
    });
  }
  for (int64_t page = 0; page < pages.number; ++page) {
    const int64_t n = keys_seen(block, block.num_rows - 1, pages.first_key[page]);
    round_values<FORMAT>(dim, pages.lines[pages.number + page], n, wide, packed + page * kPairs * dim,
                         scales + page * kPageTokens);
    ask_for(c.cache, pages.lines[pages.number + page + 1]);
  }
  weigh_rounded(c, pages, scales, block, worth);
  const int64_t last = pages.number - 1;
  if (last == 0) return rounded_page<true, true>(dim, 0, packed, worth, block);
  rounded_page<true, false>(dim, 0, packed, worth, block);
  for (int64_t page = 1; page < last; ++page) rounded_page<false, false>(dim, page, packed, worth, block);
  rounded_page<false, true>(dim, last, packed, worth, block);
}

}  // namespace
}  // namespace pintpot
