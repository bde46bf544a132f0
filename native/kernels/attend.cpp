// Causal attention over a page table, keys folded page by page (online softmax; Milakov and Gimelshein, 2018, and
// FlashAttention, Dao et al., 2022), in segments of 512 keys that are merged in order.
//
// Rows are (token, query head of the group): row = token * group + head. A score is sum over d of q * k in 16 lanes
// (lane = d mod 16) and the tree; a page's value sum runs over its keys in order; then o = o * factor + page sum.
#include "cache.h"
#include "entry.h"
#include "exp.h"
#include "transpose.h"

namespace pintpot {
namespace {

constexpr int64_t kRows = 32;                       // rows that share one widened page
constexpr int kRowsAtOnce = kWidth == 16 ? 4 : 1;    // whose sums stay in registers
constexpr int64_t kSegmentPages = kSegmentTokens / kPageTokens;
constexpr int64_t kPartialTail = 16;                // maximum, mass, and padding after a row's sum
constexpr float kNone = -__builtin_inff();

struct Row {
  const float* q;
  float* sum;  // [head_dim]
  float maximum, mass;
  int64_t position;
};

INLINE float exp1(float x) { return exp(splat(x))[0]; }

bool page_visible(const AttendCall& c, int64_t page, int64_t low, int64_t high) {
  const int64_t first = page * kPageTokens, last = first + kPageTokens - 1;
  if (first > high) return false;
  return c.window == 0 || last > low - c.window || first < c.sinks;
}

// 0 where one of 16 keys beginning at `key` is visible, -inf elsewhere.
INLINE Pack mask16(const AttendCall& c, int64_t position, int64_t key) {
  const int64_t oldest = c.window == 0 ? -1 : position - c.window;
  if (key + 15 <= position && (key > oldest || key + 15 < c.sinks)) return spread(0.0f);
  float visible[16];
  for (int64_t j = 0; j < 16; ++j) {
    const bool seen = key + j <= position && (key + j > oldest || key + j < c.sinks);
    visible[j] = seen ? 0.0f : kNone;
  }
  return load16(visible);
}

// Scores of 16 keys; n: how many of them may be read.
template <int N16>
INLINE Pack score16(const AttendCall& c, const float* q, const float* k, int64_t n) {
  const int64_t dim = N16 ? N16 * 16 : c.cache.head_dim;
  const auto product = [&](int j) {
    const float* at = k + j * dim;
    Pack total = load16(q) * load16(at);
    for (int64_t i = 16; i < dim; i += 16) total = total + load16(q + i) * load16(at + i);
    return total;
  };
  const Pack products = n >= 16 ? tree16(product) : tree16([&](int j) { return j < n ? product(j) : spread(0.0f); });
  return products * spread(c.scale);
}

// What one page does to one row, before its values are added.
struct Weights {
  alignas(64) float of[kPageTokens];
  float factor;  // of the row's sum so far
};
template <int N16>
INLINE void weigh_page(const AttendCall& c, Row& row, const float* k, int64_t n, int64_t key, Weights& w) {
  const Pack low = score16<N16>(c, row.q, k, n) + mask16(c, row.position, key);
  const Pack high = score16<N16>(c, row.q, k + 16 * c.cache.head_dim, n - 16) + mask16(c, row.position, key + 16);
  const float top = largest(max(low, high)), maximum = top > row.maximum ? top : row.maximum;
  if (maximum == kNone) {  // nothing seen so far: zeros add nothing
    memset(&w, 0, sizeof w);
    return;
  }
  const Pack first = exp(low - spread(maximum)), second = exp(high - spread(maximum));
  store16(w.of, first);
  store16(w.of + 16, second);
  w.factor = exp1(row.maximum - maximum);
  row.mass = row.mass * w.factor + sum(first + second);
  row.maximum = maximum;
}

// sum = sum * factor + (weights times values, keys in order), for R rows that share each value read.
template <int N16, int R>
INLINE void add_values(int64_t dim, const Weights* w, const float* v, int64_t n, Row* rows) {
  constexpr int kStep = N16 ? 4 : 2;
  const int64_t width = N16 ? N16 * 16 : dim;
  for (int64_t d = 0; d < width; d += kStep * 16) {
    Pack total[R][kStep];
    UNROLL for (int r = 0; r < R; ++r)
      UNROLL for (int i = 0; i < kStep; ++i) total[r][i] = spread(0.0f);
    for (int64_t j = 0; j < n; ++j) {
      Pack value[kStep];
      UNROLL for (int i = 0; i < kStep; ++i) value[i] = load16(v + j * width + d + i * 16);
      UNROLL for (int r = 0; r < R; ++r) {
        const Pack weight = spread(w[r].of[j]);
        UNROLL for (int i = 0; i < kStep; ++i) total[r][i] = total[r][i] + weight * value[i];
      }
    }
    UNROLL for (int r = 0; r < R; ++r)
      UNROLL for (int i = 0; i < kStep; ++i) {
        float* sum = rows[r].sum + d + i * 16;
        store16(sum, load16(sum) * spread(w[r].factor) + total[r][i]);
      }
  }
}

template <int N16>
INLINE void fold_page(const AttendCall& c, Row* rows, int64_t num_rows, const float* k, const float* v, int64_t n,
                      int64_t key) {
  Weights weights[kRows];
  const int64_t dim = c.cache.head_dim;
  for (int64_t r = 0; r < num_rows; ++r) weigh_page<N16>(c, rows[r], k, n, key, weights[r]);
  int64_t r = 0;
  for (; r + kRowsAtOnce <= num_rows; r += kRowsAtOnce)
    add_values<N16, kRowsAtOnce>(dim, weights + r, v, n, rows + r);
  for (; r < num_rows; ++r) add_values<N16, 1>(dim, weights + r, v, n, rows + r);
}

// Pages lie apart, so that no prefetcher of the CPU's foresees the next one.
INLINE void ask_for_page(const AttendCall& c, int64_t page, int64_t low, int64_t high) {
  if (!page_visible(c, page, low, high)) return;
  const uint8_t* k = page_head(c.cache, c.cache.k, c.pages[page], c.kv_head);
  const uint8_t* v = page_head(c.cache, c.cache.v, c.pages[page], c.kv_head);
  for (int64_t i = 0; i < page_head_bytes(c.cache); i += 64) __builtin_prefetch(k + i), __builtin_prefetch(v + i);
}

// Folds the keys of one segment into fresh rows.
template <int N16>
void fold_segment(const AttendCall& c, int64_t segment, Row* rows, int64_t num_rows) {
  alignas(64) float k[kPageTokens * kMaxHeadDim];
  alignas(64) float v[kPageTokens * kMaxHeadDim];
  const int64_t low = rows[0].position, high = rows[num_rows - 1].position;
  for (int64_t r = 0; r < num_rows; ++r) {
    rows[r].maximum = kNone, rows[r].mass = 0.0f;
    memset(rows[r].sum, 0, c.cache.head_dim * sizeof(float));
  }
  for (int64_t page = segment * kSegmentPages; page < (segment + 1) * kSegmentPages; ++page) {
    if (!page_visible(c, page, low, high)) continue;
    const int64_t key = page * kPageTokens, n = high + 1 - key < kPageTokens ? high + 1 - key : kPageTokens;
    widen_page(c.cache, page_head(c.cache, c.cache.k, c.pages[page], c.kv_head), n, k);
    widen_page(c.cache, page_head(c.cache, c.cache.v, c.pages[page], c.kv_head), n, v);
    ask_for_page(c, page + 1, low, high);
    fold_page<N16>(c, rows, num_rows, k, v, n, key);
  }
}
void fold_segment_any(const AttendCall& c, int64_t segment, Row* rows, int64_t num_rows) {
  if (c.cache.head_dim == 64) fold_segment<4>(c, segment, rows, num_rows);
  else if (c.cache.head_dim == 128) fold_segment<8>(c, segment, rows, num_rows);
  else fold_segment<0>(c, segment, rows, num_rows);
}

struct Total {
  float maximum = kNone, mass = 0.0f;
};
// Adds one segment's row onto the row's total; sums are [dim].
INLINE void merge(Total& total, float* sum, float maximum, float mass, const float* part, int64_t dim) {
  const float top = maximum > total.maximum ? maximum : total.maximum;
  if (top == kNone) return;
  const float before = exp1(total.maximum - top), now = exp1(maximum - top);
  for (int64_t i = 0; i < dim; i += 16)
    store16(sum + i, load16(sum + i) * spread(before) + load16(part + i) * spread(now));
  total = {top, total.mass * before + mass * now};
}
INLINE void finish(const Total& total, float* sum, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 16) store16(sum + i, load16(sum + i) / spread(total.mass));
}

INLINE int64_t group_of(const AttendCall& c) { return c.heads / c.cache.kv_heads; }
INLINE float* out_row(const AttendCall& c, int64_t row) {
  const int64_t group = group_of(c);
  return c.out + row / group * c.out_stride + (c.kv_head * group + row % group) * c.cache.head_dim;
}
INLINE Row make_row(const AttendCall& c, int64_t row, float* sum) {
  const int64_t group = group_of(c), token = row / group;
  return {c.q + token * c.q_stride + (c.kv_head * group + row % group) * c.cache.head_dim, sum, kNone, 0.0f,
          c.first_position + token};
}

}  // namespace

void attend(const AttendCall* call) {
  const AttendCall& c = *call;
  const int64_t dim = c.cache.head_dim, num_rows = c.num_tokens * group_of(c);
  alignas(64) float sums[kRows * kMaxHeadDim];
  for (int64_t first = 0; first < num_rows; first += kRows) {
    const int64_t n = num_rows - first < kRows ? num_rows - first : kRows;
    Row rows[kRows];
    Total totals[kRows];
    for (int64_t r = 0; r < n; ++r) {
      rows[r] = make_row(c, first + r, sums + r * dim);
      memset(out_row(c, first + r), 0, dim * sizeof(float));
    }
    const int64_t segments = rows[n - 1].position / kSegmentTokens + 1;
    for (int64_t segment = 0; segment < segments; ++segment) {
      fold_segment_any(c, segment, rows, n);
      for (int64_t r = 0; r < n; ++r)
        merge(totals[r], out_row(c, first + r), rows[r].maximum, rows[r].mass, rows[r].sum, dim);
    }
    for (int64_t r = 0; r < n; ++r) finish(totals[r], out_row(c, first + r), dim);
  }
}

void attend_segment(const AttendCall* call, int64_t segment, float* partial) {
  const AttendCall& c = *call;
  const int64_t dim = c.cache.head_dim, stride = dim + kPartialTail, num_rows = c.num_tokens * group_of(c);
  for (int64_t first = 0; first < num_rows; first += kRows) {
    const int64_t n = num_rows - first < kRows ? num_rows - first : kRows;
    Row rows[kRows];
    for (int64_t r = 0; r < n; ++r) rows[r] = make_row(c, first + r, partial + (first + r) * stride);
    fold_segment_any(c, segment, rows, n);
    for (int64_t r = 0; r < n; ++r) {
      rows[r].sum[dim] = rows[r].maximum;
      rows[r].sum[dim + 1] = rows[r].mass;
    }
  }
}

void attend_merge(const AttendCall* call, const float* partials, int64_t num_segments) {
  const AttendCall& c = *call;
  const int64_t dim = c.cache.head_dim, stride = dim + kPartialTail, num_rows = c.num_tokens * group_of(c);
  for (int64_t row = 0; row < num_rows; ++row) {
    float* out = out_row(c, row);
    Total total;
    memset(out, 0, dim * sizeof(float));
    for (int64_t segment = 0; segment < num_segments; ++segment) {
      const float* part = partials + (segment * num_rows + row) * stride;
      merge(total, out, part[dim], part[dim + 1], part, dim);
    }
    finish(total, out, dim);
  }
}

}  // namespace pintpot
