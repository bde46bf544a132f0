// Attention that learns (learn.h), for one kv head and all query heads on it at a time, a block of queries after the other: scores
// are never kept (FlashAttention, Dao et al. 2022, arXiv:2205.14135). Of a block of 64 they are, with shares and their gradients,
// a few rows of floats for each key.
#include "entry.h"
#include "exp.h"
#include "learn_tiles.h"

namespace pintpot {
namespace {

class Head {
 public:
  Head(const AttentionCall& call, int64_t task, void* scratch) : c(call), r(call, scratch), sequence(task / c.kv_heads), head(task % c.kv_heads) {}

  void forward() {
    keys_and_values(false);
    each_block([&](int64_t query_head) {
      shares_of(query_head, false);
      multiply({r.shares + low / kGroup * kRecord, r.keys / kGroup * kRecord, r.value_pairs + low / kGroup * kRecord,
                r.keys / kGroup * kRecord, (seen - low) / kGroup, r.made, r.columns, true}, kBlock / 16, r.columns / 16);
      each_row([&](int64_t i, int64_t at) {
        write_row(r.made + i * r.columns, at, c.heads * c.head_dim, query_head, c.head_dim, c.out);
      });
    });
  }

  void back() {
    keys_and_values(true);
    memset(r.sums_of_k, 0, (size_t)(r.keys * r.columns * 4));
    memset(r.sums_of_v, 0, (size_t)(r.keys * r.columns * 4));
    each_block([&](int64_t query_head) {
      shares_of(query_head, true);
      multiply({r.grads, groups() * kRecord, r.by_value + low / 16 * groups() * kRecord, groups() * kRecord, groups(),
                r.pulled + low, r.keys, true}, kBlock / 16, (seen - low) / 16);
      sum_over_queries(r.grads_across, r.sums_of_v);
      pull();
      sum_over_queries(r.queries_across, r.sums_of_k);
      multiply({r.shares + low / kGroup * kRecord, r.keys / kGroup * kRecord, r.key_pairs + low / kGroup * kRecord,
                r.keys / kGroup * kRecord, (seen - low) / kGroup, r.made, r.columns, true}, kBlock / 16, r.columns / 16);
      each_row([&](int64_t i, int64_t at) {
        turn(c, sequence, first + i, true, c.scale, r.made + i * r.columns);
        write_row(r.made + i * r.columns, at, c.heads * c.head_dim, query_head, c.head_dim, c.by_q);
      });
    });
    give(r.sums_of_k, true, c.by_k);
    give(r.sums_of_v, false, c.by_v);
  }

 private:
  int64_t groups() const { return r.columns / kGroup; }
  int64_t lowest_of(int64_t at) const { return c.lowest ? c.lowest[sequence * c.length + at] : 0; }

  template <class F>
  INLINE void each_block(F f) {
    for (int64_t query_head = head * (c.heads / c.kv_heads); query_head < (head + 1) * (c.heads / c.kv_heads); ++query_head)
      for (first = 0; first < c.length; first += kBlock) {
        stop = first + kBlock < c.length ? first + kBlock : c.length;
        low = lowest_of(first);
        for (int64_t at = first; at < stop; ++at) low = lowest_of(at) < low ? lowest_of(at) : low;
        low = low / kGroup * kGroup, seen = padded(stop, kGroup);
        f(query_head);
      }
  }
  // Of a block's queries, and their row among all.
  template <class F>
  INLINE void each_row(F f) {
    for (int64_t i = 0; i < stop - first; ++i) f(i, sequence * c.length + first + i);
  }

  void keys_and_values(bool back) {
    alignas(64) float k[2][kMaxHeadDim], v[2][kMaxHeadDim];
    for (int64_t at = 0; at < r.keys; at += 2) {
      for (int64_t i = 0; i < 2; ++i) {
        memset(k[i], 0, sizeof k[i]), memset(v[i], 0, sizeof v[i]);
        if (at + i < c.length) {
          read_row(c.k, sequence * c.length + at + i, c.kv_heads * c.head_dim, head, c.head_dim, k[i]);
          turn(c, sequence, at + i, false, 1.0f, k[i]);
          read_row(c.v, sequence * c.length + at + i, c.kv_heads * c.head_dim, head, c.head_dim, v[i]);
        }
        put_column(k[i], r.columns, at + i, r.by_key);
        if (back) put_column(v[i], r.columns, at + i, r.by_value);
      }
      if (back) put_pair(k[0], k[1], r.columns, at, r.keys / kGroup, r.key_pairs);
      else put_pair(v[0], v[1], r.columns, at, r.keys / kGroup, r.value_pairs);
    }
  }

  // Queries of a block, gradients of what they were given, and the shares of the keys that they see.
  void shares_of(int64_t query_head, bool back) {
    alignas(64) float x[kMaxHeadDim];
    const int64_t width = c.heads * c.head_dim;
    for (int64_t i = 0; i < kBlock; ++i) {
      const int64_t at = sequence * c.length + first + i;
      const bool real = first + i < stop;
      memset(x, 0, sizeof x);
      if (real) read_row(c.q, at, width, query_head, c.head_dim, x), turn(c, sequence, first + i, false, c.scale, x);
      put_row(x, r.columns, i, groups(), r.queries);
      if (!back) continue;
      put_across(x, r.columns, i, kBlock / kGroup, r.queries_across);
      memset(x, 0, sizeof x);
      if (real) read_row(c.grad, at, width, query_head, c.head_dim, x);
      put_row(x, r.columns, i, groups(), r.grads);
      put_across(x, r.columns, i, kBlock / kGroup, r.grads_across);
    }
    multiply({r.queries, groups() * kRecord, r.by_key + low / 16 * groups() * kRecord, groups() * kRecord, groups(),
              r.scores + low, r.keys, true}, kBlock / 16, (seen - low) / 16);
    for (int64_t i = 0; i < kBlock; ++i) soften(i);
    if (back) pairs();
    else
      for (int64_t i = 0; i < kBlock; ++i) put_shares(i);
  }

  // The softmax of a query's scores, in their place.
  void soften(int64_t i) {
    float* x = r.scores + i * r.keys;
    if (first + i >= stop) {
      memset(x + low, 0, (size_t)((seen - low) * 4));
      return;
    }
    for (int64_t key = low; key < lowest_of(first + i); ++key) x[key] = -__builtin_inff();
    for (int64_t key = first + i + 1; key < seen; ++key) x[key] = -__builtin_inff();
    Pack most = load16(x + low);
    for (int64_t key = low + 16; key < seen; key += 16) most = max(most, load16(x + key));
    const Pack top = spread(largest(most));
    Pack mass = spread(0.0f);
    for (int64_t key = low; key < seen; key += 16) {
      const Pack e = exp_of_negative(load16(x + key) - top);
      store16(x + key, e), mass = mass + e;
    }
    const Pack share = spread(1.0f / sum(mass));
    for (int64_t key = low; key < seen; key += 16) store16(x + key, load16(x + key) * share);
  }

  void put_shares(int64_t i) { put_row(r.scores + i * r.keys + low, seen - low, i, r.keys / kGroup, r.shares + low / kGroup * kRecord); }
  void pairs() {
    for (int64_t i = 0; i < kBlock; i += 2)
      put_pair(r.scores + i * r.keys + low, r.scores + (i + 1) * r.keys + low, seen - low, i, kBlock / kGroup,
               r.share_pairs + low / 16 * (kBlock / kGroup) * kRecord);
  }

  // Gradients of scores in the place of shares: share * (pulled - the sum of share * pulled).
  void pull() {
    for (int64_t i = 0; i < kBlock; ++i) {
      float *share = r.scores + i * r.keys, *pulled = r.pulled + i * r.keys;
      Pack all = spread(0.0f);
      for (int64_t key = low; key < seen; key += 16) all = all + load16(share + key) * load16(pulled + key);
      const Pack mean = spread(sum(all));
      for (int64_t key = low; key < seen; key += 16) store16(share + key, load16(share + key) * (load16(pulled + key) - mean));
      put_shares(i);
    }
    pairs();
  }

  // sums [columns][keys] += a block's panels, one row for each column, times its pairs.
  void sum_over_queries(const uint8_t* across, float* sums) {
    const int64_t next = kBlock / kGroup * kRecord;
    multiply({across, next, r.share_pairs + low / 16 * next, next, kBlock / kGroup, sums + low, r.keys, false}, r.columns / 16,
             (seen - low) / 16);
  }

  // Sums [columns][keys] to rows, of keys turned back.
  void give(const float* sums, bool turned, void* to) {
    alignas(64) float x[16][kMaxHeadDim];
    for (int64_t key = 0; key < c.length; key += 16) {
      for (int64_t i = 0; i < r.columns; ++i)
        for (int64_t j = 0; j < 16; ++j) x[j][i] = sums[i * r.keys + key + j];
      for (int64_t j = 0; j < 16 && key + j < c.length; ++j) {
        if (turned) turn(c, sequence, key + j, true, 1.0f, x[j]);
        write_row(x[j], sequence * c.length + key + j, c.kv_heads * c.head_dim, head, c.head_dim, to);
      }
    }
  }

  const AttentionCall& c;
  Rooms r;
  const int64_t sequence, head;
  int64_t first = 0, stop = 0, low = 0, seen = 0;  // the block's queries, and the keys that they see
};

INLINE void each_head(const AttentionCall* c, int64_t first, int64_t last, void* scratch, bool back) {
#if defined(__AMX_INT8__)
  const TileUse use(TileShapes(64));
#endif
  for (int64_t task = first; task < last; ++task) {
    Head head(*c, task, scratch);
    if (back) head.back();
    else head.forward();
  }
}

}  // namespace

int64_t attention_bytes(const AttentionCall* c) {
  char nothing = 0;
  return Rooms(*c, &nothing).total;
}
void attention(const AttentionCall* c, int64_t first, int64_t last, void* scratch) { each_head(c, first, last, scratch, false); }
void attention_back(const AttentionCall* c, int64_t first, int64_t last, void* scratch) { each_head(c, first, last, scratch, true); }

}  // namespace pintpot
