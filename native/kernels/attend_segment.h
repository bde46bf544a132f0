// One segment of keys (kernels.h, `AttendCall`) folded into a block of query rows.
//
// Rows are (token, query head of the group): row = token * group + head. Few rows read pages as they are stored; many
// rows share pages widened to float32.
#pragma once
#include "attend_tile.h"
#include "exp.h"

namespace pintpot {
namespace {

constexpr int64_t kRows = 128;      // of a block
constexpr int64_t kManyRows = 256;  // where they share pages in bfloat16, and are short
constexpr int64_t kDirectRows = kWidth == 4 ? 2 : 8;
constexpr int64_t kSegmentPages = kSegmentTokens / kPageTokens;
constexpr int64_t kAheadBytes = 16384;  // asked for before it is read
constexpr float kNone = -__builtin_inff();

struct Block {
  int64_t num_rows;
  float* queries;                 // [num_rows][head_dim], scaled; rounded ones are halves, twice as far apart
  alignas(64) float query_scales[kManyRows];  // of rounded ones
  float* out[kManyRows];
  float* sums;                    // [num_rows][sums_stride]
  int64_t sums_stride;
  int64_t positions[kManyRows];       // ascending
  alignas(64) float maxima[kManyRows];
  alignas(64) float masses[kManyRows];
  alignas(64) float scores[kRows * kSegmentTokens];  // then weights; not of bfloat16
};

// The visible pages of a segment, in order: their first keys, and where keys and values lie. Behind them follow the pages
// that are read next: of the next segment, or of the next key head, with which callers are asked to go on.
struct Pages {
  int64_t number;
  int64_t first_key[kSegmentPages];
  const uint8_t* lines[4 * kSegmentPages];  // keys, values, then the keys that come next
};

INLINE bool page_visible(const AttendCall& c, int64_t page, int64_t low, int64_t high) {
  const int64_t first = page * kPageTokens, last = first + kPageTokens - 1;
  if (first > high) return false;
  return c.window == 0 || last > low - c.window || first < c.sinks;
}
// The visible pages of a segment, into `to`; how many.
INLINE int64_t list_pages(const AttendCall& c, int64_t segment, int64_t low, int64_t high, int64_t* to) {
  int64_t number = 0;
  for (int64_t i = 0; i < kSegmentPages; ++i) {
    const int64_t page = segment * kSegmentPages + i;
    if (page_visible(c, page, low, high)) to[number++] = page;
  }
  return number;
}
INLINE Pages pages_of(const AttendCall& c, int64_t segment, int64_t low, int64_t high) {
  Pages p;
  int64_t now[kSegmentPages], next[kSegmentPages];
  p.number = list_pages(c, segment, low, high, now);
  int64_t num_next = p.number == 0 ? 0 : list_pages(c, segment + 1, low, high, next);
  int64_t head = c.kv_head;
  const auto lines = [&](const void* base, int64_t page) { return page_head(c.cache, base, c.pages[page], head); };
  for (int64_t i = 0; i < p.number; ++i) {
    p.first_key[i] = now[i] * kPageTokens;
    p.lines[i] = lines(c.cache.k, now[i]);
    p.lines[p.number + i] = lines(c.cache.v, now[i]);
  }
  int64_t end = 2 * p.number;
  if (num_next == 0 && p.number > 0 && head + 1 < c.cache.kv_heads) {
    ++head;
    num_next = list_pages(c, 0, low, high, next);
  }
  for (int64_t i = 0; i < num_next; ++i) p.lines[end++] = lines(c.cache.k, next[i]);
  for (; p.number > 0 && end < 4 * kSegmentPages; ++end) p.lines[end] = p.lines[end - 1];
  return p;
}

INLINE Pack hide(const AttendCall& c, int64_t position, int64_t key, Pack score) {
  const int64_t oldest = c.window == 0 ? -1 : position - c.window;
  if (key + 15 <= position && (key > oldest || key + 15 < c.sinks)) return score;
  VI lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  return each([&](int i) {
    const VI at = lane + (int32_t)(key + i * kWidth);
    const VI seen = (at <= (int32_t)position) & ((at > (int32_t)oldest) | (at < c.sinks));
    return seen ? score.v[i] : splat(kNone);
  });
}

// Whether a row at `position` sees every key of the pages.
INLINE bool all_seen(const AttendCall& c, const Pages& pages, int64_t position) {
  if (pages.first_key[pages.number - 1] + kPageTokens - 1 > position) return false;
  return c.window == 0 || pages.first_key[0] > position - c.window;
}
INLINE void hide_row(const AttendCall& c, const Pages& pages, int64_t position, float* scores) {
  for (int64_t i = 0; i < pages.number * kPageTokens; i += 16)
    store16(scores + i, hide(c, position, pages.first_key[i / kPageTokens] + i % kPageTokens, load16(scores + i)));
}
INLINE float largest_score(const AttendCall& c, const Pages& pages, int64_t position, float* scores) {
  const int64_t stop = pages.number * kPageTokens;
  if (!all_seen(c, pages, position)) hide_row(c, pages, position, scores);
  Pack top = load16(scores);
  for (int64_t i = 16; i < stop; i += 16) top = max(top, load16(scores + i));
  return largest(top);
}
// Scores to weights, where n keys are listed (a multiple of 32); their mass.
INLINE float weigh(float* scores, int64_t n, float maximum) {
  constexpr int64_t kStep = kWidth == 16 ? 64 : 32;
  const VF from = splat(maximum == kNone ? 0.0f : maximum);
  Pack mass = spread(0.0f);
  const auto step = [&](auto count, int64_t first) {
    constexpr int N = decltype(count)::value / kWidth;
    VF x[N];
    UNROLL for (int i = 0; i < N; ++i) x[i] = load<VF>(scores + first + i * kWidth) - from;
    exp_of_negative(x);
    UNROLL for (int i = 0; i < N; ++i) store(scores + first + i * kWidth, x[i]);
    UNROLL for (int i = 0; i < N; ++i) mass.v[i % kParts] = mass.v[i % kParts] + x[i];
  };
  int64_t first = 0;
  for (; first + kStep <= n; first += kStep) step(Int<kStep>(), first);
  if (first < n) step(Int<32>(), first);
  return sum(mass);
}
// First what each row must wait for, then the rest: so the CPU has several rows to work at.
INLINE void weigh_rows(const AttendCall& c, const Pages& pages, Block& block) {
  float* const scores = block.scores;
  for (int64_t row = 0; row < block.num_rows; ++row)
    block.maxima[row] = largest_score(c, pages, block.positions[row], scores + row * kSegmentTokens);
  for (int64_t row = 0; row < block.num_rows; ++row)
    block.masses[row] = weigh(scores + row * kSegmentTokens, pages.number * kPageTokens, block.maxima[row]);
}

INLINE int64_t keys_seen(const Block& block, int64_t row, int64_t first_key) {
  const int64_t n = block.positions[row] + 1 - first_key;
  return n < 0 ? 0 : n < kPageTokens ? n : kPageTokens;
}

// Scores of the vectors [first, first + n) of the pages, n: 2 or 4, for all rows that see any of them.
template <int32_t FORMAT, int64_t N>
INLINE void score_rows(const AttendCall& c, const Pages& pages, const uint8_t* const* at, const uint8_t* const* ahead,
                       int64_t first, Block& block) {
  const int64_t dim = c.cache.head_dim;
  by_rows(block.num_rows, [&](auto rows, int64_t row) {
    constexpr int R = decltype(rows)::value, C = tile_vectors(R) < N ? tile_vectors(R) : N;
    if (keys_seen(block, row + R - 1, pages.first_key[first / kPageVectors]) == 0) return;
    for (int64_t i = 0; i < N; i += C)
      score_tile<FORMAT, R, C>(block.queries + row * dim, dim, at, ahead, first + i, block.scores + row * kSegmentTokens);
  });
}
// Values of a run of `number` pages, whose weights begin with page `first` of the segment's, for all rows.
template <int32_t FORMAT>
INLINE void add_values(const AttendCall& c, const Pages& pages, const uint8_t* const* at, const uint8_t* const* ahead,
                       const float* scales, int64_t first, int64_t number, Block& block) {
  const int64_t dim = c.cache.head_dim;
  by_rows(block.num_rows, [&](auto rows, int64_t row) {
    constexpr int R = decltype(rows)::value, C = tile_vectors(R);
    int64_t n = 0;
    for (int64_t page = first; page < first + number; ++page) n += keys_seen(block, row + R - 1, pages.first_key[page]);
    const float* weights = block.scores + row * kSegmentTokens + first * kPageTokens;
    float* sums = block.sums + row * block.sums_stride;
    int64_t column = 0;
    for (; column + C * 16 <= dim; column += C * 16)
      value_tile<FORMAT, R, C>(weights, dim, at, ahead, scales, column, n, sums, block.sums_stride);
    if constexpr (C > 2)
      if (column < dim) value_tile<FORMAT, R, 2>(weights, dim, at, ahead, scales, column, n, sums, block.sums_stride);
  });
}

template <int32_t FORMAT>
void fold_direct(const AttendCall& c, const Pages& pages, Block& block) {
  const int64_t dim = c.cache.head_dim, lead = (kAheadBytes - 1) / (kPageTokens * dim * kValueBytes<FORMAT>) + 1;
  const int64_t step = lead < kSegmentPages ? lead : kSegmentPages;
  const uint8_t* const* lines = pages.lines;
  int64_t page = 0;
  for (; page + 2 <= pages.number; page += 2)
    score_rows<FORMAT, 4>(c, pages, lines, lines + step, page * kPageVectors, block);
  if (page < pages.number) score_rows<FORMAT, 2>(c, pages, lines, lines + step, page * kPageVectors, block);
  weigh_rows(c, pages, block);
  alignas(64) float scales[FORMAT == kCacheSym8c ? kSegmentPages * kMaxHeadDim : 1];
  const uint8_t* const* values = lines + pages.number;
  if (FORMAT == kCacheSym8c)
    for (page = 0; page < pages.number; ++page)
      for (int64_t i = 0; i < dim; i += 16)
        store16(scales + page * dim + i, load16_f16(values[page] + kPageTokens * dim + i * 2));
  add_values<FORMAT>(c, pages, values, values + step, scales, 0, pages.number, block);
}

// Asks for a whole page: pages lie apart, and no prefetcher of the CPU's foresees the next one.
INLINE void ask_for(const CacheView& cache, const uint8_t* page) {
  for (int64_t i = 0; i < page_head_bytes(cache); i += 64) __builtin_prefetch(page + i);
}

template <int32_t FORMAT>
void fold_widened(const AttendCall& c, const Pages& pages, Block& block) {
  alignas(64) float wide[kPageTokens * kMaxHeadDim];
  const int64_t dim = c.cache.head_dim;
  const uint8_t* const at[1] = {(const uint8_t*)wide};
  for (int64_t page = 0; page < pages.number; ++page) {
    widen_keys<FORMAT>(dim, pages.lines[page], wide);
    ask_for(c.cache, pages.lines[page + 1]);
    const uint8_t* all[kSegmentPages];
    for (int64_t i = 0; i < kSegmentPages; ++i) all[i] = *at;
    score_rows<kCacheF32, 2>(c, pages, all, all, page * kPageVectors, block);
  }
  weigh_rows(c, pages, block);
  for (int64_t page = 0; page < pages.number; ++page) {
    const int64_t n = keys_seen(block, block.num_rows - 1, pages.first_key[page]);
    widen_values<FORMAT>(dim, pages.lines[pages.number + page], n, wide);
    ask_for(c.cache, pages.lines[pages.number + page + 1]);
    add_values<kCacheF32>(c, pages, at, at, nullptr, page, 1, block);
  }
}

template <int32_t FORMAT>
INLINE void fold_float(const AttendCall& c, const Pages& pages, Block& block) {
  if (FORMAT == kCacheF32 || block.num_rows <= kDirectRows) fold_direct<FORMAT>(c, pages, block);
  else fold_widened<FORMAT>(c, pages, block);
}

}  // namespace
}  // namespace pintpot
