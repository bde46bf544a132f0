// Causal attention over a page table in segments of keys that are merged in order (FlashAttention, Dao et al., 2022;
// online softmax, Milakov and Gimelshein, 2018).
#include "attend_brain.h"
#include "attend_rounded.h"
#include "entry.h"

namespace pintpot {
namespace {

template <int32_t FORMAT>
INLINE void fold_format(const AttendCall& c, const Pages& pages, Block& block) {
  if (c.rounded == kRoundedBrain) fold_brain<FORMAT>(c, pages, block);
  else if (c.rounded) fold_rounded<FORMAT>(c, pages, block);
  else fold_float<FORMAT>(c, pages, block);
}
// Fills the block's sums, maxima and masses: -inf and zeros for a row that sees nothing of the segment. False, and nothing
// filled, where no row does.
INLINE bool fold_segment(const AttendCall& c, int64_t segment, Block& block) {
  const Pages pages = pages_of(c, segment, block.positions[0], block.positions[block.num_rows - 1]);
  if (pages.number == 0) return false;
  for (int64_t row = 0; row < block.num_rows && !c.rounded; ++row)
    memset(block.sums + row * block.sums_stride, 0, c.cache.head_dim * sizeof(float));
  if (c.cache.format == kCacheF16) fold_format<kCacheF16>(c, pages, block);
  else if (c.cache.format == kCacheSym8c) fold_format<kCacheSym8c>(c, pages, block);
  else fold_format<kCacheF32>(c, pages, block);
  return true;
}

INLINE int64_t group_of(const AttendCall& c) { return c.heads / c.cache.kv_heads; }
INLINE int64_t rows_of(const AttendCall& c) { return c.num_tokens * group_of(c); }
INLINE int64_t rows_of_block(const AttendCall& c) {
  const int64_t most = c.cache.head_dim * kManyRows <= kMaxHeadDim * kRows ? kManyRows : kRows;
  return c.rounded == kRoundedBrain ? most : kRows;
}

// Rows [first, first + block.num_rows) of the call: where they are, their positions, their queries.
void prepare(const AttendCall& c, int64_t first, Block& block) {
  const int64_t group = group_of(c), dim = c.cache.head_dim;
  int64_t token = first / group, head = first % group;
  const Pack scale = spread(c.scale);
  for (int64_t row = 0; row < block.num_rows; ++row) {
    const int64_t column = (c.kv_head * group + head) * dim;
    const float* q = c.q + token * c.q_stride + column;
    float* to = block.queries + row * dim;
    if (c.rounded == kRoundedBrain)
      put_row(q, dim, c.scale, (uint8_t*)block.queries + row / kPanelTokens * dim / 32 * kBrainRecord + row % kPanelTokens * 64);
    else
      for (int64_t d = 0; d < dim; d += 16) store16(to + d, load16(q + d) * scale);
    block.out[row] = c.out + token * c.out_stride + column;
    block.positions[row] = c.first_position + token;
    if (++head == group) head = 0, ++token;
  }
  if (c.rounded == kRoundedIntegers) round_queries(dim, block);
}

// How 16 totals and 16 parts are scaled where they meet: largest scores so far, and the parts'.
struct Meeting {
  Pack top, before, now;
};
INLINE Meeting meet(Pack so_far, Pack part) {
  const Pack top = max(so_far, part);
  const Pack from = each([&](int i) { return top.v[i] == kNone ? splat(0.0f) : top.v[i]; });
  return {top, exp_of_negative(so_far - from), exp_of_negative(part - from)};
}
INLINE void add_part(float* sum, float before, const float* part, float now, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 16)
    store16(sum + i, load16(sum + i) * spread(before) + load16(part + i) * spread(now));
}
// The first part, as if it met zeros.
INLINE void put_part(float* sum, const float* part, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 16) store16(sum + i, load16(part + i) + spread(0.0f));
}
INLINE void divide(float* sum, float mass, int64_t dim) {
  const Pack share = spread(1.0f / mass);
  for (int64_t i = 0; i < dim; i += 16) store16(sum + i, load16(sum + i) * share);
}

struct Totals {
  alignas(64) float maxima[kManyRows];
  alignas(64) float masses[kManyRows];
};
void merge_block(int64_t dim, const Block& block, Totals& totals) {
  for (int64_t row = 0; row < block.num_rows; row += 16) {
    const Meeting m = meet(load16(totals.maxima + row), load16(block.maxima + row));
    alignas(64) float before[16], now[16];
    store16(before, m.before), store16(now, m.now), store16(totals.maxima + row, m.top);
    store16(totals.masses + row, load16(totals.masses + row) * m.before + load16(block.masses + row) * m.now);
    for (int64_t r = row; r < block.num_rows && r < row + 16; ++r)
      add_part(block.out[r], before[r - row], block.sums + r * block.sums_stride, now[r - row], dim);
  }
}

void first_block(int64_t dim, const Block& block, Totals& totals) {
  for (int64_t row = 0; row < block.num_rows; row += 16)
    store16(totals.maxima + row, load16(block.maxima + row)), store16(totals.masses + row, load16(block.masses + row));
  for (int64_t row = 0; row < block.num_rows; ++row) put_part(block.out[row], block.sums + row * block.sums_stride, dim);
}

void attend_rows(const AttendCall& c) {
  const int64_t dim = c.cache.head_dim, num_rows = rows_of(c), most = rows_of_block(c);
  alignas(64) float queries[kRows * kMaxHeadDim], sums[kRows * kMaxHeadDim];
  Block block;
  block.queries = queries, block.sums = sums, block.sums_stride = dim;
  for (int64_t first = 0; first < num_rows; first += most) {
    block.num_rows = num_rows - first < most ? num_rows - first : most;
    prepare(c, first, block);
    Totals totals;
    for (int64_t row = 0; row < block.num_rows; row += 16)
      store16(block.maxima + row, spread(kNone)), store16(block.masses + row, spread(0.0f));
    const int64_t segments = num_segments(block.positions[block.num_rows - 1] + 1);
    int64_t segment = 0;
    while (!fold_segment(c, segment++, block)) {
    }
    first_block(dim, block, totals);
    for (; segment < segments; ++segment)
      if (fold_segment(c, segment, block)) merge_block(dim, block, totals);
    for (int64_t row = 0; row < block.num_rows; ++row) divide(block.out[row], totals.masses[row], dim);
  }
}

void segments_of_rows(const AttendCall& c, int64_t from, int64_t stop, float* partials) {
  const int64_t dim = c.cache.head_dim, stride = partial_floats(dim), num_rows = rows_of(c), most = rows_of_block(c);
  alignas(64) float queries[kRows * kMaxHeadDim];
  Block block;
  block.queries = queries, block.sums_stride = stride;
  for (int64_t first = 0; first < num_rows; first += most) {
    block.num_rows = num_rows - first < most ? num_rows - first : most;
    prepare(c, first, block);
    for (int64_t segment = from; segment < stop; ++segment) {
      block.sums = partials + (segment * num_rows + first) * stride;
      const bool seen = fold_segment(c, segment, block);
      for (int64_t row = 0; row < block.num_rows; ++row) {
        float* tail = block.sums + row * stride + dim;
        tail[0] = seen ? block.maxima[row] : kNone, tail[1] = seen ? block.masses[row] : 0.0f;
      }
    }
  }
}

// f(), with tiles where the products take them.
template <class F>
INLINE void with_tiles([[maybe_unused]] const AttendCall& c, F f) {
#if defined(__AMX_INT8__)
  if (c.rounded == kRoundedBrain) {
    const TileUse use(TileShapes(64));
    return f();
  }
#endif
  f();
}

}  // namespace

void attend(const AttendCall* call) {
  with_tiles(*call, [&] { attend_rows(*call); });
}

void attend_segments(const AttendCall* call, int64_t from, int64_t stop, float* partials) {
  with_tiles(*call, [&] { segments_of_rows(*call, from, stop, partials); });
}

void attend_merge(const AttendCall* call, const float* partials, int64_t num_segments) {
  const AttendCall& c = *call;
  const int64_t dim = c.cache.head_dim, group = group_of(c), num_rows = rows_of(c), stride = partial_floats(dim);
  for (int64_t row = 0; row < num_rows; ++row) {
    float* out = c.out + row / group * c.out_stride + (c.kv_head * group + row % group) * dim;
    float maximum = kNone, mass = 0.0f;
    memset(out, 0, dim * sizeof(float));
    for (int64_t first = 0; first < num_segments; first += 16) {
      const int64_t n = num_segments - first < 16 ? num_segments - first : 16;
      const float* parts = partials + (first * num_rows + row) * stride;
      alignas(64) float so_far[16], part[16], before[16], now[16];
      for (int64_t i = 0; i < 16; ++i) {
        so_far[i] = maximum, part[i] = i < n ? parts[i * num_rows * stride + dim] : kNone;
        maximum = part[i] > maximum ? part[i] : maximum;
      }
      const Meeting m = meet(load16(so_far), load16(part));
      store16(before, m.before), store16(now, m.now);
      for (int64_t i = 0; i < n; ++i) {
        if (part[i] == kNone) continue;
        const float* at = parts + i * num_rows * stride;
        mass = mass * before[i] + at[dim + 1] * now[i];
        add_part(out, before[i], at, now[i], dim);
      }
    }
    divide(out, mass, dim);
  }
}

}  // namespace pintpot
