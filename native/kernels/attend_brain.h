// One segment of keys folded into a block of query rows in tile products of bfloat16 (kernels.h, `AttendCall::rounded`).
#pragma once
#include "attend_segment.h"
#include "brain_tiles.h"
#include "transpose.h"

namespace pintpot {
namespace {

// A row of n columns (a multiple of 32) into its place of a panel.
INLINE void put_row(const float* from, int64_t n, float factor, uint8_t* to) {
  for (int64_t d = 0; d < n; d += 32, to += kBrainRecord)
    for (int64_t i = 0; i < 32; i += 16) put_pack(load16(from + d + i) * spread(factor), to + i * 2);
}

// Keys of a page and head as two tiles for each group of columns: to[2][dim / 32][kBrainRecord].
template <int32_t FORMAT>
INLINE void brain_keys(int64_t dim, const uint8_t* page, uint8_t* to) {
  for (int64_t token = 0; token < kPageTokens; token += 16)
    for (int64_t d = 0; d < dim; d += 2, to += 64) {
      const Pack first = key_column<FORMAT>(dim, page, d, token), second = key_column<FORMAT>(dim, page, d + 1, token);
      UNROLL for (int i = 0; i < kParts; ++i) store(to + i * kWidth * 4, brain_pair(first.v[i], second.v[i]));
    }
}
// The first n values of a page and head as tiles of 16 columns, `next` bytes apart; zeros beyond.
template <int32_t FORMAT>
INLINE void brain_values(int64_t dim, const uint8_t* page, int64_t n, int64_t next, uint8_t* to) {
  const auto value = [&](int64_t token, int64_t d) {
    return token < n ? value_columns<FORMAT>(dim, page, token, d) : spread(0.0f);
  };
  for (int64_t token = 0; token < kPageTokens; token += 2, to += 64)
    for (int64_t d = 0; d < dim; d += 16) {
      const Pack first = value(token, d), second = value(token + 1, d);
      UNROLL for (int i = 0; i < kParts; ++i) store(to + d / 16 * next + i * kWidth * 4, brain_pair(first.v[i], second.v[i]));
    }
}

// All pairs of tiles of columns times one panel, or two.
template <int P>
INLINE void multiply_columns(BrainStretch s, int64_t columns, int64_t rows) {
  for (int64_t column = 0; column < columns; column += 32, s.weights += 2 * s.next_strip, s.out += 32) {
    if (rows == P * kPanelTokens) multiply_brain<P, 2>(s);
    else multiply_ragged<2>(s, rows, 32);
  }
}
// f(panel, rows, whether they are two panels) for all rows of a block, two panels at a time where both are whole.
template <class F>
INLINE void by_panels(const Block& block, F f) {
  for (int64_t row = 0; row < block.num_rows;) {
    const int64_t left = block.num_rows - row;
    if (left >= 2 * kPanelTokens) f(Int<2>(), row, 2 * kPanelTokens), row += 2 * kPanelTokens;
    else f(Int<1>(), row, left < kPanelTokens ? left : kPanelTokens), row += kPanelTokens;
  }
}
// How many pages have keys that the row sees, or any before it: they come in order.
INLINE int64_t pages_seen(const Block& block, const Pages& pages, int64_t row) {
  int64_t n = pages.number;
  while (n > 0 && keys_seen(block, row, pages.first_key[n - 1]) == 0) --n;
  return n;
}

// What up to 32 rows need between their two products: small enough to stay in the first cache.
struct Weighing {
  alignas(64) float scores[2 * kPanelTokens * kSegmentTokens];
  alignas(64) uint8_t weights[2 * kSegmentPages * kBrainRecord];  // as panels, `pages.number` groups each
};

// The largest scores of up to 16 rows; what a row does not see is hidden from what follows.
INLINE Pack largest_of_panel(const AttendCall& c, const Pages& pages, const Block& block, int64_t row, int64_t rows, float* scores) {
  const int64_t stop = pages.number * kPageTokens;
  Pack tops[kPanelTokens];
  for (int64_t i = 0; i < kPanelTokens; ++i, scores += kSegmentTokens) {
    tops[i] = spread(kNone);
    if (i >= rows) continue;
    if (!all_seen(c, pages, block.positions[row + i])) hide_row(c, pages, block.positions[row + i], scores);
    for (int64_t j = 0; j < stop; j += 16) tops[i] = max(tops[i], load16(scores + j));
  }
  return tree16(tops, Larger());
}
// Scores to weights, into their panel; their masses.
INLINE Pack weigh_panel(const Pages& pages, const float* maxima, int64_t rows, const float* scores, uint8_t* to) {
  Pack masses[kPanelTokens];
  for (int64_t i = 0; i < kPanelTokens; ++i, scores += kSegmentTokens, to += 64) {
    masses[i] = spread(0.0f);
    const VF from = splat(i >= rows || maxima[i] == kNone ? 0.0f : maxima[i]);
    for (int64_t page = 0; page < (i < rows ? pages.number : 0); ++page)
      UNROLL for (int64_t j = 0; j < kPageTokens; j += 16) {
        const Pack score = load16(scores + page * kPageTokens + j);
        const Pack weight = each([&](int k) { return rough_exp_of_negative(score.v[k] - from); });
        put_pack(weight, to + page * kBrainRecord + j * 2);
        masses[i] = masses[i] + weight;
      }
  }
  return tree16(masses, Sum());
}

template <int32_t FORMAT>
void fold_brain(const AttendCall& c, const Pages& pages, Block& block) {
  alignas(64) uint8_t keys[kSegmentTokens * kMaxHeadDim * 2], values[kSegmentTokens * kMaxHeadDim * 2];
  Weighing now;
  const int64_t dim = c.cache.head_dim, groups = dim / 32, key_bytes = groups * kBrainRecord;
  const int64_t value_bytes = pages.number * kBrainRecord;
  Unpacking none = {};
  for (int64_t page = 0; page < pages.number; ++page) {
    brain_keys<FORMAT>(dim, pages.lines[page], keys + 2 * page * key_bytes);
    ask_for(c.cache, pages.lines[page + 1]);
  }
  for (int64_t page = 0; page < pages.number; ++page) {
    const int64_t n = keys_seen(block, block.num_rows - 1, pages.first_key[page]);
    brain_values<FORMAT>(dim, pages.lines[pages.number + page], n, value_bytes, values + page * kBrainRecord);
    ask_for(c.cache, pages.lines[pages.number + page + 1]);
  }
  by_panels(block, [&](auto number, int64_t row, int64_t rows) {
    constexpr int P = decltype(number)::value;
    const int64_t seen = pages_seen(block, pages, row + rows - 1);
    const uint8_t* queries = (const uint8_t*)block.queries + row / kPanelTokens * key_bytes;
    multiply_columns<P>({keys, key_bytes, queries, key_bytes, groups, now.scores, kSegmentTokens, true, &none}, seen * kPageTokens, rows);
    for (int64_t i = 0; i < rows; i += kPanelTokens) {
      const int64_t left = rows - i < kPanelTokens ? rows - i : kPanelTokens;
      float* scores = now.scores + i * kSegmentTokens;
      store16(block.maxima + row + i, largest_of_panel(c, pages, block, row + i, left, scores));
      store16(block.masses + row + i,
              weigh_panel(pages, block.maxima + row + i, left, scores, now.weights + i / kPanelTokens * value_bytes));
    }
    multiply_columns<P>({values, value_bytes, now.weights, value_bytes, seen, block.sums + row * block.sums_stride, block.sums_stride,
                         true, &none}, dim, rows);
  });
}

}  // namespace
}  // namespace pintpot
