// What a step of learning computes between its products: rows that are normed, gated, multiplied with thin matrices, and
// attention, forward and back. Rows hold float32 or bfloat16 (nearest even, when they are written); what is between is
// float32. Each call takes a range of rows, columns or heads, so that threads can share it.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace pintpot {

// [rows][n], one row after the other.
struct Values {
  void* at;
  int32_t brain;  // 1: bfloat16, 0: float32
};

// y = x * r * w with r = 1 / sqrt(mean(x^2) + eps) of each row.
struct NormCall {
  Values x, y;  // y is `grad` on the way back: gradients of y
  const float* w;
  int64_t n;
  float eps;
  Values by_x;  // back: gradients of x, of its type, not where null
  float* by_w;  // back: [n], the sum over the rows of this call is added; not where null
};

// y = act(gate) * up. On the way back, `y` holds its gradients; they become by_gate and by_up, each of which may be y.
struct GateCall {
  int32_t kind;  // Gate
  Values gate, up, y, by_gate, by_up;
};

// y = states + made.
struct JoinCall {
  Values made;
  const float* states;
  float* y;
};

// Thin matrices of r rows beside x [rows][n].
struct ThinCall {
  Values x;
  int64_t n, rows, r;
  const float* thin;  // [r][n]
  float* inner;       // [rows][r]
  float scale;
};

// Causal attention of sequences of one length: q and out [sequences * length][heads * head_dim], k and v [..][kv_heads *
// head_dim], all bfloat16. A query sees the keys from `lowest` [sequences][length] (0 where null) up to its own.
// Pairs of q and k are turned by `angles` [sequences][length][rope_dim], cosines and then sines; scores are multiplied by `scale`.
//
// All products are of bfloat16 with float32 sums: of turned, scaled queries, of turned keys, of values, of shares and of gradients of
// scores (ties away from 0); shares are exp(score - the largest) over their sum, in float32.
struct AttentionCall {
  int64_t sequences, length;
  int32_t heads, kv_heads, head_dim, rope_dim, interleaved;
  float scale;
  const float* angles;
  const int32_t* lowest;
  const void *q, *k, *v;
  void* out;                     // forward
  const void* grad;              // back: of `out`
  void *by_q, *by_k, *by_v;      // back
};

struct LearnTable {
  void (*norm)(const NormCall* call, int64_t first, int64_t last);
  void (*norm_back)(const NormCall* call, int64_t first, int64_t last);
  void (*gate)(const GateCall* call, int64_t first, int64_t last);  // values, not rows
  void (*gate_back)(const GateCall* call, int64_t first, int64_t last);
  void (*join)(const JoinCall* call, int64_t first, int64_t last);  // the same
  // inner[row][i] = scale * sum over columns of x[row] * thin[i]
  void (*thin_products)(const ThinCall* call, int64_t first, int64_t last);
  // x[row] += scale * sum over i of inner[row][i] * thin[i]
  void (*thin_added)(const ThinCall* call, int64_t first, int64_t last);
  // thin[i][column] = scale * sum over rows of inner[row][i] * x[row][column], of columns [first, last)
  void (*thin_sums)(const ThinCall* call, float* thin, int64_t first, int64_t last);
  // Heads [first, last) of sequences * kv_heads, with all queries on them; `scratch` of attention_bytes.
  int64_t (*attention_bytes)(const AttentionCall* call);
  void (*attention)(const AttentionCall* call, int64_t first, int64_t last, void* scratch);
  void (*attention_back)(const AttentionCall* call, int64_t first, int64_t last, void* scratch);
};

}  // namespace pintpot
